package meshconfig

import (
	"fmt"
	"slices"

	"github.com/meshpilot/pilot/pkg/model"
	corev1 "k8s.io/api/core/v1"
)

// probeRemark is a problem of all pods of a group, reported once.
type probeRemark struct {
	namespace, group string
	severity         Severity
	code             string
	field            string
	text             string
}

// podProbes finds probes and hooks that do not do what their author expects.
func (l *linter) podProbes(pods []*corev1.Pod) {
	found := map[probeRemark][]string{}
	for _, pod := range pods {
		probes := podProbes(pod)
		w := l.snapshot.Workload(model.WorkloadID{Namespace: pod.Namespace, Name: pod.Name})
		if len(probes) == 0 || w == nil || w.Key.Kind != "Pod" {
			continue
		}
		v := l.serverView(w.ID)
		for _, p := range probes {
			r := probeRemark{namespace: pod.Namespace, group: w.Group, severity: Warning, field: p.field}
			switch {
			case p.missing != "":
				r.code = codeProbePort
				r.text = fmt.Sprintf("%s: the %s of container %s asks nobody", p.missing, p.what, p.container)
			case l.snapshot.HasSidecar(w.ID) && captured(w, v, p.probe.Port):
				p.judge(v, &r)
			}
			if r.code != "" {
				found[r] = append(found[r], pod.Name)
			}
		}
	}
	for r, names := range found {
		slices.Sort(names)
		on := model.Key{Kind: "Pod", Namespace: r.namespace, Name: names[0]}
		more := ""
		if len(names) > 1 {
			at := places{named: names[1:min(len(names), 1+namedPlaces)], count: len(names) - 1}
			more = " (the same in " + at.String() + ")"
		}
		l.add(r.code, r.severity, on, r.field, "%s%s", r.text, more)
	}
}

// judge fills the remark if there is one to make about the probe.
func (p *podProbe) judge(v *model.ServerView, r *probeRemark) {
	if p.blind {
		r.code = codeProbeBlind
		r.text = fmt.Sprintf("the %s of container %s only connects to port %d, which the sidecar accepts even if the application is dead: use exec, httpGet or gRPC",
			p.what, p.container, p.probe.Port)
		return
	}
	port := portOf(v, p.probe.Port)
	d := v.Other
	if port != nil {
		d = port.Decision
	}
	if d.Mode.Phase() < model.PhaseGrace || p.admitted(v, port) {
		return
	}
	where := fmt.Sprintf("port %d, which is %s by %s", p.probe.Port, d.Mode, d.By())
	if p.hook {
		r.code = codeHookFails
		r.text = fmt.Sprintf("the %s hook of container %s (%s) is refused at %s, because such a request may act: use exec, a port that only probes name, or PERMISSIVE",
			p.what, p.container, p.asks, where)
		return
	}
	r.code, r.severity = codeProbeFails, Error
	r.text = fmt.Sprintf("the %s of container %s (%s) fails at %s: %s; use an exec probe, a port that no Service names, or PERMISSIVE",
		p.what, p.container, p.asks, where, p.reason(d.Mode, port))
}

// admitted says whether the port lets it in although plaintext is refused;
// port is nil if nothing but probes names it.
func (p *podProbe) admitted(v *model.ServerView, port *model.InboundPort) bool {
	switch {
	case port == nil:
		return slices.Contains(v.ProbePorts, p.probe.Port)
	case p.tls:
		return port.Decision.Mode == model.TLSOnly && port.Protocol.IsHTTP()
	default:
		return !port.Protocol.ServerFirst() && slices.Contains(port.Probes, p.probe)
	}
}

func (p *podProbe) reason(mode model.Mode, port *model.InboundPort) string {
	switch {
	case p.tls && mode == model.Strict:
		return "the kubelet has no certificate of the mesh"
	case p.tls:
		return "the sidecar ends the TLS, so it works only if the application behind speaks plaintext"
	case port.Protocol.ServerFirst():
		return port.Protocol.String() + " is server-first, so that nothing can be told apart"
	default:
		return "a path with an escaped slash is always rejected"
	}
}

func portOf(v *model.ServerView, port uint16) *model.InboundPort {
	i, ok := slices.BinarySearchFunc(v.Ports, port, func(p model.InboundPort, port uint16) int { return int(p.Port) - int(port) })
	if !ok {
		return nil
	}
	return &v.Ports[i]
}

// captured says whether what arrives at the port gets to the sidecar.
func captured(w *model.Workload, v *model.ServerView, port uint16) bool {
	if v.Class.Capture == model.CaptureNone {
		return portOf(v, port) != nil
	}
	return w.Inbound.Has(port)
}
