// Package inject adds the sidecar to pods: a pod, or the template of one, and
// the settings go in; what is to be added comes out, as a JSON patch for the
// webhook and as edited YAML for files. It is pure.
package inject

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// Names that users and the control plane know the parts of a sidecar by.
const (
	ProxyContainer   = "istio-proxy"
	CaptureContainer = "istio-init"

	injectKey        = "sidecar.istio.io/inject" // annotation or label
	statusAnnotation = "sidecar.istio.io/status"
	tlsModeLabel     = "security.istio.io/tlsMode"
	defaultContainer = "kubectl.kubernetes.io/default-container"

	namespaceLabel = "istio-injection"
)

// The codes of what injection finds; those of meshconfig mean the same there.
const (
	codeInvalid       = "INVALID"        // the pod cannot be injected
	codeBadAnnotation = "BAD_ANNOTATION" // an annotation that means nothing
	codeEndless       = "ENDLESS_JOB"    // a sidecar would keep the pod from its end
)

// Settings are what all sidecars of a mesh have in common.
type Settings struct {
	Mesh *model.Mesh
	// Image has Envoy, pilot and iptables-restore.
	Image      string
	PullPolicy corev1.PullPolicy // empty is Kubernetes' default
	// Native makes the sidecar an init container that goes on running, which
	// Kubernetes 1.29 and later know: it starts before the others and ends after
	// them.
	Native bool
	// ControlPlaneNamespace is where pods are never injected; its service
	// account is what proxies expect of the control plane.
	ControlPlaneNamespace string
	// Drain is how long a sidecar goes on at least when its pod is told to stop.
	Drain     time.Duration
	Resources corev1.ResourceRequirements // of both containers
}

// Template is a pod, or what pods are made of, in some object.
type Template struct {
	On   model.Key // the object
	Path string    // of the template in the object, "spec.template"; empty for a pod
	Meta metav1.ObjectMeta
	Spec corev1.PodSpec
	// Default is whether the pods of its namespace are injected.
	Default bool
}

// Result is what is to be done with a template: one of Ops, Skipped and an
// error among Problems is there.
type Result struct {
	Ops      []Op
	Skipped  string // why nothing is done
	Problems []meshconfig.Problem
}

// Failed says whether the template cannot be injected as it is.
func (r Result) Failed() bool {
	for _, p := range r.Problems {
		if p.Severity == meshconfig.Error {
			return true
		}
	}
	return false
}

// Inject says what makes the template one with a sidecar. A template that has
// one is left alone.
func Inject(t Template, s Settings) Result {
	i := &injection{Template: t, Settings: s}
	if why := i.skip(); why != "" {
		return Result{Skipped: why, Problems: i.problems}
	}
	i.read()
	i.conflicts()
	if r := (Result{Problems: i.problems}); r.Failed() {
		return r
	}
	return Result{Ops: i.ops(), Problems: i.problems}
}

// injection is one template on its way.
type injection struct {
	Template
	Settings
	wanted   wanted
	problems []meshconfig.Problem
}

func (i *injection) add(code string, severity meshconfig.Severity, field, format string, args ...any) {
	if i.Path != "" && field != "" {
		field = i.Path + "." + field
	}
	i.problems = append(i.problems, meshconfig.Problem{
		Code: code, Severity: severity, On: i.On, Field: field, Message: fmt.Sprintf(format, args...),
	})
}

func (i *injection) errorf(field, format string, args ...any) {
	i.add(codeInvalid, meshconfig.Error, field, format, args...)
}

// skip is why the template gets no sidecar; empty if it gets one.
func (i *injection) skip() string {
	asked, given := i.asked()
	switch {
	case i.hasContainer(ProxyContainer):
		return "it has a sidecar"
	case i.Spec.HostNetwork:
		return "it uses the host's network, which a sidecar would capture"
	case i.Spec.OS != nil && i.Spec.OS.Name == corev1.Windows:
		return "it runs on Windows"
	case i.system():
		return "pods of namespace " + i.On.Namespace + " are never injected"
	case given && !asked:
		return injectKey + " is \"false\""
	case !given && !i.Default:
		return "its namespace is not labelled " + namespaceLabel + ": enabled"
	case !given && !i.Native && i.ends():
		i.add(codeEndless, meshconfig.Warning, "spec.restartPolicy",
			"not injected: the sidecar would keep the pod from its end, because native sidecars are off; write the annotation %s: \"true\", "+
				"and let the job end its sidecar by POST http://127.0.0.1:%d/quitquitquit", injectKey, i.Mesh.AdminPort)
		return "a sidecar would keep it from its end"
	}
	return ""
}

// asked is what the pod itself says; of label and annotation "false" wins.
func (i *injection) asked() (in, given bool) {
	for _, place := range []struct {
		what   string
		values map[string]string
	}{{"labels", i.Meta.Labels}, {"annotations", i.Meta.Annotations}} {
		switch value, set := place.values[injectKey]; {
		case !set:
		case value == "false":
			return false, true
		case value == "true":
			in, given = true, true
		default:
			i.add(codeBadAnnotation, meshconfig.Warning, "metadata."+place.what+"["+injectKey+"]",
				`%s: %q has no effect: write "true" or "false"`, injectKey, value)
		}
	}
	return in, given
}

// system says whether injection could keep the cluster or the control plane
// from starting.
func (i *injection) system() bool {
	switch i.On.Namespace {
	case "kube-system", "kube-public", "kube-node-lease", i.ControlPlaneNamespace:
		return i.On.Namespace != ""
	}
	return false
}

// ends says whether the pod is to end by itself.
func (i *injection) ends() bool {
	return i.Spec.RestartPolicy == corev1.RestartPolicyNever || i.Spec.RestartPolicy == corev1.RestartPolicyOnFailure
}

func (i *injection) hasContainer(name string) bool {
	for _, list := range [][]corev1.Container{i.Spec.InitContainers, i.Spec.Containers} {
		for j := range list {
			if list[j].Name == name {
				return true
			}
		}
	}
	return false
}
