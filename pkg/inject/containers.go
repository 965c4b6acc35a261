package inject

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpilot/pilot/pkg/inject/capture"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

const (
	certsVolume  = "istio-certs"
	configVolume = "istio-envoy"

	certsPath   = "/etc/certs"
	pilotBinary = "/usr/local/bin/pilot" // in the image

	// statusPort shows whether the sidecar is ready; it is never captured.
	statusPort = 15021
	readyPath  = "/healthz/ready"

	// defaultGrace is Kubernetes' own terminationGracePeriodSeconds.
	defaultGrace = 30 * time.Second
	// killTime is what is left of it for Envoy to end.
	killTime = 2 * time.Second
)

// captureContainer leads the pod's traffic through the sidecar. It alone has
// rights over the pod's network, and ends at once.
func (i *injection) captureContainer() corev1.Container {
	return corev1.Container{
		Name:            CaptureContainer,
		Image:           i.wanted.image,
		ImagePullPolicy: i.PullPolicy,
		Command:         []string{pilotBinary},
		Args:            i.captureArgs(),
		Resources:       i.wanted.resources,
		SecurityContext: &corev1.SecurityContext{
			RunAsUser: ptr(int64(0)), RunAsGroup: ptr(int64(0)), RunAsNonRoot: ptr(false),
			Privileged: ptr(false), AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true),
			Capabilities:   &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN", "NET_RAW"}, Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
}

func (i *injection) captureArgs() []string {
	o := i.wanted.capture
	args := []string{
		"capture",
		fmt.Sprintf("--outbound-port=%d", o.OutboundPort),
		fmt.Sprintf("--inbound-port=%d", o.InboundPort),
		"--mode=" + i.wanted.mode.String(),
		"--include-inbound-ports=" + ports(o.IncludeInbound),
		"--exclude-inbound-ports=" + portList(append([]uint16{statusPort}, o.ExcludeInbound...)),
		"--include-outbound-ranges=" + ranges(o.IncludeRanges),
	}
	if len(o.ExcludeRanges) > 0 {
		args = append(args, "--exclude-outbound-ranges="+rangeList(o.ExcludeRanges))
	}
	if len(o.ExcludeOutbound) > 0 {
		args = append(args, "--exclude-outbound-ports="+portList(o.ExcludeOutbound))
	}
	return args
}

// proxyContainer is the sidecar itself.
func (i *injection) proxyContainer() corev1.Container {
	c := corev1.Container{
		Name:            ProxyContainer,
		Image:           i.wanted.image,
		ImagePullPolicy: i.PullPolicy,
		Command:         []string{pilotBinary},
		Args:            i.proxyArgs(),
		Ports:           []corev1.ContainerPort{{Name: "status-port", ContainerPort: statusPort, Protocol: corev1.ProtocolTCP}},
		Env: []corev1.EnvVar{
			fieldVariable("POD_NAME", "metadata.name"),
			fieldVariable("POD_NAMESPACE", "metadata.namespace"),
			fieldVariable("POD_IP", "status.podIP"),
		},
		Resources: i.wanted.resources,
		VolumeMounts: []corev1.VolumeMount{
			{Name: certsVolume, MountPath: certsPath, ReadOnly: true},
			{Name: configVolume, MountPath: i.Mesh.ConfigPath},
		},
		ReadinessProbe:  readiness(10, 3),
		Lifecycle:       &corev1.Lifecycle{PreStop: command(i.drainArgs()...)},
		SecurityContext: i.proxyRights(),
	}
	if i.Native {
		c.RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways)
		c.StartupProbe = readiness(1, 600) // who comes after it, starts after it
	} else {
		// The kubelet starts the next container after this.
		c.Lifecycle.PostStart = command("proxy", "wait", fmt.Sprintf("--admin-port=%d", i.Mesh.AdminPort))
	}
	return c
}

// proxyRights are none. To keep callers' addresses (TPROXY) Envoy needs one,
// which Kubernetes gives to root only.
func (i *injection) proxyRights() *corev1.SecurityContext {
	s := &corev1.SecurityContext{
		RunAsUser: ptr(int64(capture.ProxyID)), RunAsGroup: ptr(int64(capture.ProxyID)), RunAsNonRoot: ptr(true),
		Privileged: ptr(false), AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if i.wanted.mode == model.CaptureTProxy {
		s.RunAsUser, s.RunAsNonRoot = ptr(int64(0)), ptr(false)
		s.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
	}
	return s
}

// proxyArgs leave out what is the default of pilot proxy.
func (i *injection) proxyArgs() []string {
	m, usual := i.Mesh, &meshconfig.DefaultMesh().Mesh
	args := []string{
		"proxy",
		"--workload=$(POD_NAMESPACE)/$(POD_NAME)",
		"--address=$(POD_IP)",
		"--discovery-address=" + m.DiscoveryAddress,
		"--interception-mode=" + i.wanted.mode.String(),
		fmt.Sprintf("--status-port=%d", statusPort),
	}
	differing := func(flag, value, usual string) {
		if value != usual {
			args = append(args, flag+"="+value)
		}
	}
	differing("--control-plane-namespace", i.ControlPlaneNamespace, "istio-system")
	differing("--trust-domain", m.TrustDomain, usual.TrustDomain)
	differing("--domain", m.Domain, usual.Domain)
	differing("--service-cluster", m.ServiceCluster, usual.ServiceCluster)
	differing("--admin-port", strconv.Itoa(int(m.AdminPort)), strconv.Itoa(int(usual.AdminPort)))
	differing("--drain-duration", m.DrainDuration.String(), usual.DrainDuration.String())
	differing("--parent-shutdown-duration", m.ParentShutdown.String(), usual.ParentShutdown.String())
	differing("--concurrency", strconv.Itoa(i.concurrency()), "0")
	differing("--config-path", m.ConfigPath, usual.ConfigPath)
	differing("--envoy-binary", m.BinaryPath, usual.BinaryPath)
	return args
}

// concurrency is what the mesh says, or else as many threads as the container
// may use cores.
func (i *injection) concurrency() int {
	if limit, given := i.wanted.resources.Limits[corev1.ResourceCPU]; given && i.Mesh.Concurrency == 0 {
		return int((limit.MilliValue() + 999) / 1000)
	}
	return i.Mesh.Concurrency
}

// drainArgs keep the sidecar up while the application may still answer. A
// native sidecar is told to stop when the application is gone.
func (i *injection) drainArgs() []string {
	grace := defaultGrace
	if i.Spec.TerminationGracePeriodSeconds != nil {
		grace = time.Duration(*i.Spec.TerminationGracePeriodSeconds) * time.Second
	}
	most := max(grace-killTime, 0)
	least := min(i.Drain, most)
	if i.Native {
		least = 0
	}
	return []string{
		"proxy", "drain", fmt.Sprintf("--admin-port=%d", i.Mesh.AdminPort),
		"--at-least=" + least.String(), "--at-most=" + most.String(),
	}
}

// volumes are the certificate of the pod's service account, and room for the
// bootstrap. Without the Secret the pod waits, and an event says for what: an
// Envoy that starts without its certificate does not recover.
func (i *injection) volumes() []corev1.Volume {
	account := i.Spec.ServiceAccountName
	if account == "" {
		account = i.Spec.DeprecatedServiceAccount
	}
	if account == "" {
		account = "default"
	}
	return []corev1.Volume{
		{Name: certsVolume, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
			SecretName: "istio." + account, Optional: ptr(false),
		}}},
		{Name: configVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
}

func readiness(period, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Path: readyPath, Port: intstr.FromInt32(statusPort), Scheme: corev1.URISchemeHTTP,
		}},
		PeriodSeconds: period, TimeoutSeconds: 3, FailureThreshold: failures,
	}
}

func command(args ...string) *corev1.LifecycleHandler {
	return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: append([]string{pilotBinary}, args...)}}
}

func fieldVariable(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
		APIVersion: "v1", FieldPath: path,
	}}}
}

func ports(p capture.Ports) string {
	if p.All {
		return "*"
	}
	return portList(p.Only)
}

func portList(list []uint16) string {
	return join(list, func(p uint16) string { return strconv.Itoa(int(p)) })
}

func ranges(r capture.Ranges) string {
	if r.All {
		return "*"
	}
	return rangeList(r.Only)
}

func rangeList(list []netip.Prefix) string { return join(list, netip.Prefix.String) }

func join[T any](list []T, text func(T) string) string {
	var out []string
	for _, item := range list {
		out = append(out, text(item))
	}
	return strings.Join(out, ",")
}

func ptr[T any](value T) *T { return &value }
