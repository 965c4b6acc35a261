package chart

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// ruleFindings are what no role may have.
func ruleFindings(name string, rules []rbacv1.PolicyRule) []string {
	var out []string
	for i, r := range rules {
		found := func(text string) { out = append(out, fmt.Sprintf("%s: rules[%d] %s", name, i, text)) }
		for _, list := range [][]string{r.Verbs, r.APIGroups, r.Resources, r.NonResourceURLs} {
			if slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, "*") }) {
				found("has a wildcard")
			}
		}
		for _, verb := range []string{"escalate", "bind", "impersonate", "deletecollection"} {
			if slices.Contains(r.Verbs, verb) {
				found("has the verb " + verb)
			}
		}
		for _, resource := range r.Resources {
			if strings.HasPrefix(resource, "pods/") || resource == "nodes/proxy" || slices.Contains(r.APIGroups, rbacv1.GroupName) {
				found("is about " + resource)
			}
		}
	}
	return out
}

// podFindings are what a pod of ours may not ask for. An init container may
// add the capabilities that are given, as it leads traffic to the sidecar.
func podFindings(name string, pod corev1.PodSpec, ours func(container string) bool, initMayAdd ...corev1.Capability) []string {
	var out []string
	found := func(format string, args ...any) { out = append(out, name+": "+fmt.Sprintf(format, args...)) }
	if pod.HostNetwork || pod.HostPID || pod.HostIPC {
		found("uses a namespace of the host")
	}
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			found("mounts the host's %s", v.HostPath.Path)
		}
	}
	for i, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		if !ours(c.Name) {
			continue
		}
		var may []corev1.Capability
		if i < len(pod.InitContainers) && c.RestartPolicy == nil {
			may = initMayAdd
		}
		for _, text := range containerFindings(pod.SecurityContext, c, may) {
			found("container %s %s", c.Name, text)
		}
	}
	return out
}

func containerFindings(pod *corev1.PodSecurityContext, c corev1.Container, mayAdd []corev1.Capability) []string {
	var out []string
	s := c.SecurityContext
	if s == nil {
		s = &corev1.SecurityContext{}
	}
	if pod == nil {
		pod = &corev1.PodSecurityContext{}
	}
	need := func(ok bool, text string) {
		if !ok {
			out = append(out, text)
		}
	}
	is := func(b *bool, want bool) bool { return b != nil && *b == want }
	need(s.Privileged == nil || !*s.Privileged, "is privileged")
	need(is(s.AllowPrivilegeEscalation, false), "may escalate its privileges")
	need(is(s.ReadOnlyRootFilesystem, true), "may write its root file system")
	caps := s.Capabilities
	need(caps != nil && slices.Equal(caps.Drop, []corev1.Capability{"ALL"}), "does not drop all capabilities")
	adds := caps != nil && len(caps.Add) > 0
	if adds {
		need(!slices.ContainsFunc(caps.Add, func(c corev1.Capability) bool { return !slices.Contains(mayAdd, c) }), fmt.Sprintf("adds %v", caps.Add))
	}
	if !adds || mayAdd == nil { // iptables wants root
		need(is(s.RunAsNonRoot, true) || s.RunAsNonRoot == nil && is(pod.RunAsNonRoot, true), "may run as root")
	}
	profile := s.SeccompProfile
	if profile == nil {
		profile = pod.SeccompProfile
	}
	need(profile != nil && profile.Type == corev1.SeccompProfileTypeRuntimeDefault, "has no seccomp profile RuntimeDefault")
	for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		need(!c.Resources.Requests.Name(r, "").IsZero() || !c.Resources.Limits.Name(r, "").IsZero(), "requests no "+string(r))
	}
	return out
}

// limitFindings are the containers that could take a node's memory.
func limitFindings(name string, pod corev1.PodSpec) []string {
	var out []string
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		if c.Resources.Limits.Memory().IsZero() {
			out = append(out, fmt.Sprintf("%s: container %s has no limit of memory", name, c.Name))
		}
	}
	return out
}
