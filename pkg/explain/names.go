package explain

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/simulate"
)

// caller finds NAMESPACE/WORKLOAD, where a Deployment's name stands for one
// of its pods, or a workload of NAMESPACE, rather one with a sidecar.
func (e *Explainer) caller(from string) (Caller, error) {
	namespace, name, named := strings.Cut(from, "/")
	var best *model.Workload
	for _, w := range e.snapshot.Workloads() {
		if w.ID.Namespace != namespace {
			continue
		}
		switch {
		case named && w.ID.Name == name:
			return e.callerOf(w), nil
		case named && w.Group != name:
		case best == nil || !e.snapshot.HasSidecar(best.ID) && e.snapshot.HasSidecar(w.ID):
			best = w
		}
	}
	if best != nil {
		return e.callerOf(best), nil
	}
	if namespace == "" || named && (name == "" || strings.Contains(name, "/")) {
		return Caller{}, fmt.Errorf("%q is not NAMESPACE/WORKLOAD, nor NAMESPACE", from)
	}
	var known []string
	for _, w := range e.snapshot.Workloads() {
		if named {
			known = append(known, w.ID.String())
		} else {
			known = append(known, w.ID.Namespace)
		}
	}
	what := "no workload is in namespace " + strconv.Quote(namespace)
	if named {
		what = "there is no workload " + from
	}
	return Caller{}, fmt.Errorf("%s%s", what, didYouMean(from, known))
}

func (e *Explainer) callerOf(w *model.Workload) Caller {
	proxy, _ := e.snapshot.ProxyOf(w.ID)
	class, _, _ := e.snapshot.ClassOf(proxy)
	c := Caller{Workload: w.ID.String(), Sidecar: e.snapshot.HasSidecar(w.ID), id: w.ID, key: w.Key, class: class}
	if c.Sidecar {
		c.Capture = class.Capture.String()
	}
	return c
}

// target finds HOST:PORT as the caller's namespace resolves it.
func (e *Explainer) target(to string, from Caller) (Target, error) {
	host, port, err := net.SplitHostPort(to)
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if err != nil || host == "" || port == "" {
		return Target{}, fmt.Errorf("%q is not HOST:PORT", to)
	}
	t := Target{Asked: to, Kind: KindUnknown, Host: host}
	if _, err := netip.ParseAddr(host); err == nil {
		return e.addressTarget(t, port, from)
	}
	domain := e.snapshot.Mesh().Domain
	visible := e.services(from.id.Namespace)
	for _, name := range searchPath(host, from.id.Namespace, domain) {
		if svc := visible[name]; svc != nil {
			return e.serviceTarget(t, svc, port)
		}
		if svc := e.anyService(name); svc != nil {
			t.Hidden = true
			return e.serviceTarget(t, svc, port)
		}
		parent := e.parent(visible, name)
		if parent == nil {
			continue
		}
		t.Host = name
		if parent.Resolution != model.ResolveHeadless {
			return e.serviceTarget(t, parent, port)
		}
		return e.ordinalTarget(t, parent, port)
	}
	if e.meshName(host, domain) {
		return Target{}, fmt.Errorf("no service has the host %s%s", host, didYouMean(host, e.hosts(host)))
	}
	return unknownTarget(t, port, "")
}

// searchPath is what a resolver tries, in a pod of the namespace.
func searchPath(host, namespace, domain string) []string {
	return []string{host + "." + namespace + ".svc." + domain, host + ".svc." + domain, host + "." + domain, host}
}

// parent is the service of the longest suffix: a wildcard host, or a headless
// service of whose pods name is one.
func (e *Explainer) parent(visible map[string]*model.OutboundService, name string) *model.OutboundService {
	for rest := name; ; {
		_, after, more := strings.Cut(rest, ".")
		if !more {
			return nil
		}
		rest = after
		if svc := visible["*."+rest]; svc != nil {
			return svc
		}
		if svc := visible[rest]; svc != nil && svc.Resolution == model.ResolveHeadless && rest != name {
			return svc
		}
	}
}

// meshName says whether a host can only be a name of the mesh's own DNS.
func (e *Explainer) meshName(host, domain string) bool {
	if !strings.Contains(host, ".") || strings.HasSuffix(host, ".svc") || strings.HasSuffix(host, ".svc."+domain) {
		return true
	}
	_, namespace, _ := strings.Cut(host, ".")
	return slices.ContainsFunc(e.snapshot.Workloads(), func(w *model.Workload) bool { return w.ID.Namespace == namespace })
}

// hosts are the names of services in the form in which one was asked for.
func (e *Explainer) hosts(asked string) []string {
	dots := strings.Count(asked, ".")
	var out []string
	for _, svc := range e.snapshot.Services() {
		parts := strings.Split(svc.Host, ".")
		out = append(out, strings.Join(parts[:min(dots+1, len(parts))], "."))
	}
	return out
}

func (e *Explainer) serviceTarget(t Target, svc *model.OutboundService, port string) (Target, error) {
	t.svc, t.Service, t.Kind = svc, svc.Key.String(), KindService
	if !strings.HasPrefix(svc.Host, "*") && !t.ordinal {
		t.Host = svc.Host
	}
	switch {
	case svc.External:
		t.Kind = KindExternal
	case svc.Resolution == model.ResolveHeadless:
		t.Kind = KindHeadless
	}
	for _, p := range svc.Ports {
		if strconv.Itoa(int(p.Number)) == port || p.Name == port {
			t.port = p
			break
		}
	}
	if t.port == nil {
		var have []string
		for _, p := range svc.Ports {
			have = append(have, strings.TrimSpace(strconv.Itoa(int(p.Number))+" "+p.Name))
		}
		return Target{}, fmt.Errorf("%s (%s) has no port %s: it has %s", svc.Key, svc.Host, port, strings.Join(have, ", "))
	}
	t.Port, t.Protocol, t.speaks = t.port.Number, t.port.Protocol.String(), speaks(t.port.Protocol)
	t.dial = append(t.dial, e.dialed(svc, t.port)...)
	return t, nil
}

// dialed are the addresses that a resolver gives for a service.
func (e *Explainer) dialed(svc *model.OutboundService, port *model.OutboundPort) []string {
	if len(svc.VIPs) > 0 {
		return svc.VIPs[:1]
	}
	if svc.Resolution != model.ResolveHeadless {
		return []string{""}
	}
	var out []string
	for _, endpoint := range e.endpointsOf(svc, port) {
		out = append(out, endpoint.Address)
	}
	return out
}

// ordinalTarget is one pod of a headless service by its own name.
func (e *Explainer) ordinalTarget(t Target, svc *model.OutboundService, port string) (Target, error) {
	pod := strings.TrimSuffix(t.Host, "."+svc.Host)
	t.ordinal = true
	t, err := e.serviceTarget(t, svc, port)
	if err != nil {
		return t, err
	}
	var known []string
	for _, address := range t.dial {
		if w := e.byAddress[address]; w != nil && w.ID.Name == pod {
			t.dial = []string{address}
			return t, nil
		} else if w != nil {
			known = append(known, w.ID.Name)
		}
	}
	return Target{}, fmt.Errorf("%s has no ready pod %s%s", svc.Key, pod, didYouMean(pod, known))
}

// addressTarget is a call by address: of a service, of a pod, or of nobody.
func (e *Explainer) addressTarget(t Target, port string, from Caller) (Target, error) {
	for _, svc := range e.services(from.id.Namespace) {
		if slices.Contains(svc.VIPs, t.Host) {
			address := t.Host
			t, err := e.serviceTarget(t, svc, port)
			t.dial = []string{address}
			return t, err
		}
	}
	w := e.byAddress[t.Host]
	if w == nil {
		return unknownTarget(t, port, t.Host)
	}
	number, err := portNumber(port)
	if err != nil {
		return Target{}, err
	}
	t.Kind, t.Port, t.Protocol, t.speaks, t.dial = KindPod, number, "tcp", simulate.TCP, []string{t.Host}
	for _, svc := range e.snapshot.Services() { // the protocol is that of whoever leads here
		for _, p := range svc.Ports {
			leads := slices.ContainsFunc(e.endpointsOf(svc, p), func(o model.OutboundEndpoint) bool {
				return o.Address == t.Host && o.Port == number
			})
			if leads && (t.svc == nil || svc.Resolution == model.ResolveHeadless) {
				t.svc, t.port, t.Service = svc, p, svc.Key.String()
				t.Protocol, t.speaks = p.Protocol.String(), speaks(p.Protocol)
			}
		}
	}
	return t, nil
}

// unknownTarget guesses the protocol by the port, as nobody declares it.
func unknownTarget(t Target, port, address string) (Target, error) {
	number, err := portNumber(port)
	if err != nil {
		return Target{}, err
	}
	t.Port, t.dial, t.speaks = number, []string{address}, simulate.TCP
	switch number {
	case 80, 8080:
		t.speaks = simulate.HTTP
	case 443, 8443:
		t.speaks = simulate.HTTPS
	}
	t.Protocol = string(t.speaks)
	return t, nil
}

func portNumber(port string) (uint16, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q is not a number in 1..65535, and no service is known that could have a port of this name", port)
	}
	return uint16(n), nil
}

func speaks(p model.Protocol) simulate.Protocol {
	switch p {
	case model.HTTP:
		return simulate.HTTP
	case model.HTTP2, model.GRPC:
		return simulate.GRPC
	case model.HTTPS, model.TLS:
		return simulate.HTTPS
	default:
		return simulate.TCP
	}
}
