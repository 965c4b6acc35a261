package lab

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/lab/app"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// manyWorkloads is how many Envoys a small machine runs without their start
// and traffic disturbing what one wants to see.
const manyWorkloads = 12

// plan is what the lab runs for one state of the configuration.
type plan struct {
	workloads []workload
	targets   []target
}

// workload is one application, with an Envoy if it has a sidecar.
type workload struct {
	id      model.WorkloadID
	address netip.Addr // where others reach it
	app     netip.Addr // what the application listens on
	uri     string     // its identity
	sidecar bool
	ports   []port // that the application serves, sorted
}

type port struct {
	number   uint16
	protocol model.Protocol
	only     bool // the application speaks nothing else
}

// target is a service port that traffic goes to.
type target struct {
	host      string
	port      uint16
	protocol  model.Protocol
	vip       string // empty: headless
	endpoints []endpoint
}

type endpoint struct {
	address  string
	port     uint16
	workload model.WorkloadID
}

// makePlan says what to run, or everything that stands against it.
func makePlan(b meshconfig.Bundle, in model.Inputs, capture bool) (plan, error) {
	var errs []error
	for _, pod := range b.Pods {
		if pod.Status.PodIP == "" {
			errs = append(errs, fmt.Errorf("Pod %s/%s has no address: give it one in status.podIP, for example 127.10.0.11", pod.Namespace, pod.Name))
		}
	}
	ports := containerPorts(b, in)
	var p plan
	owner := map[netip.Addr]string{}
	for i := range in.Workloads {
		w, err := makeWorkload(&in.Workloads[i], in.Mesh.TrustDomain, capture)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, address := range slices.Compact([]netip.Addr{w.address, w.app}) {
			if other, taken := owner[address]; taken {
				errs = append(errs, fmt.Errorf("%s and %s both need the address %s: change one", other, w.id, address))
			}
			if address != anyAddress() {
				owner[address] = w.id.String()
			}
		}
		w.ports = ports[w.id]
		p.workloads = append(p.workloads, w)
	}
	if len(p.workloads) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("there is no workload: the lab runs the Pods and WorkloadEntries of the directory"))
	}
	slices.SortFunc(p.workloads, func(a, b workload) int { return a.id.Compare(b.id) })
	p.targets = makeTargets(in, ports)
	return p, errors.Join(errs...)
}

func anyAddress() netip.Addr { return netip.IPv4Unspecified() }

func makeWorkload(w *model.Workload, trustDomain string, capture bool) (workload, error) {
	address, err := netip.ParseAddr(w.Address)
	if err != nil || !address.Is4() {
		return workload{}, fmt.Errorf("%s has the address %q: the lab needs IPv4", w.Key, w.Address)
	}
	made := workload{
		id: w.ID, address: address, app: anyAddress(), sidecar: w.Sidecar,
		uri: identity.URI(trustDomain, w.ID.Namespace, w.ServiceAccount),
	}
	if capture {
		if address == controlPlaneAddress() || address == clientAddress() {
			return workload{}, fmt.Errorf("%s has the address %s, which the lab uses itself: change it", w.Key, address)
		}
		return made, nil
	}
	if !address.IsLoopback() {
		return workload{}, fmt.Errorf("%s has the address %s: without capture the lab runs on 127.x addresses only; change it, for example to 127.10.0.11, or use --capture", w.Key, address)
	}
	made.app = address
	if w.Sidecar {
		made.app = appAddress(address)
	}
	return made, nil
}

// appAddress is where the application of a workload without capture listens,
// for its sidecar owns the workload's address: ten networks further, so
// 127.20.0.11 for 127.10.0.11.
func appAddress(a netip.Addr) netip.Addr {
	b := a.As4()
	b[1] += 10
	return netip.AddrFrom4(b)
}

// containerPorts are those that services lead to, those that probes ask, and
// those that Pods declare. A Pod's own name of a port, if it names a protocol,
// says what the application speaks there, whatever Services call it.
func containerPorts(b meshconfig.Bundle, in model.Inputs) map[model.WorkloadID][]port {
	found := map[model.WorkloadID][]port{}
	add := func(id model.WorkloadID, p port) {
		if !slices.ContainsFunc(found[id], func(o port) bool { return o.number == p.number }) {
			found[id] = append(found[id], p)
		}
	}
	declared(b, func(id model.WorkloadID, number uint16, protocol model.Protocol) {
		if protocol != model.TCP {
			add(id, port{number, protocol, protocol == model.HTTPS || protocol == model.TLS})
		}
	})
	for _, s := range in.Services {
		for _, sp := range s.Ports {
			for _, e := range sp.Endpoints {
				add(e.Workload, port{number: e.Port, protocol: sp.Protocol})
			}
		}
	}
	for i := range in.Workloads {
		for _, probe := range in.Workloads[i].Probes {
			protocol := model.HTTP
			if probe.Path == "" {
				protocol = model.HTTPS
			}
			add(in.Workloads[i].ID, port{number: probe.Port, protocol: protocol})
		}
	}
	declared(b, func(id model.WorkloadID, number uint16, protocol model.Protocol) {
		add(id, port{number: number, protocol: protocol})
	})
	for _, list := range found {
		slices.SortFunc(list, func(a, b port) int { return cmp.Compare(a.number, b.number) })
	}
	return found
}

// declared are the container ports that Pods declare, by name or without.
func declared(b meshconfig.Bundle, do func(id model.WorkloadID, number uint16, named model.Protocol)) {
	for _, pod := range b.Pods {
		for _, c := range pod.Spec.Containers {
			for _, p := range c.Ports {
				if p.Protocol == "" || p.Protocol == "TCP" {
					do(model.WorkloadID{Namespace: pod.Namespace, Name: pod.Name}, uint16(p.ContainerPort), model.ParseProtocol("", p.Name))
				}
			}
		}
	}
}

// makeTargets are the service ports with an endpoint that the lab runs. Callers
// speak what the application does.
func makeTargets(in model.Inputs, ports map[model.WorkloadID][]port) []target {
	known := map[model.WorkloadID]bool{}
	for i := range in.Workloads {
		known[in.Workloads[i].ID] = true
	}
	var targets []target
	for _, s := range in.Services {
		if strings.HasPrefix(s.Host, "*") || s.External {
			continue
		}
		for _, sp := range s.Ports {
			t := target{host: s.Host, port: sp.Number, protocol: sp.Protocol}
			if len(s.VIPs) > 0 {
				t.vip = s.VIPs[0]
			}
			for _, e := range sp.Endpoints {
				if e.Ready && known[e.Workload] {
					t.endpoints = append(t.endpoints, endpoint{e.Address, e.Port, e.Workload})
					i := slices.IndexFunc(ports[e.Workload], func(p port) bool { return p.number == e.Port })
					t.protocol = ports[e.Workload][i].protocol
				}
			}
			if len(t.endpoints) > 0 {
				targets = append(targets, t)
			}
		}
	}
	slices.SortFunc(targets, func(a, b target) int {
		return cmp.Or(cmp.Compare(a.host, b.host), cmp.Compare(a.port, b.port))
	})
	return targets
}

// through is the target as a caller with a sidecar reaches it: its virtual
// address, or an endpoint of its own choice if it is headless.
func (t target) through() app.Target {
	address := t.vip
	if address == "" {
		address = t.endpoints[0].address
	}
	return app.Target{Host: t.host, Port: t.port, Protocol: t.protocol, Address: join(address, t.port)}
}

// direct are the target's endpoints as a caller without a sidecar dials them.
func (t target) direct() []app.Target {
	var all []app.Target
	for _, e := range t.endpoints {
		all = append(all, app.Target{Host: t.host, Port: t.port, Protocol: t.protocol, Address: join(e.address, e.port)})
	}
	return all
}

// addClient adds a caller without a sidecar, unless there is one.
func (p *plan) addClient(capture bool) {
	if slices.ContainsFunc(p.workloads, func(w workload) bool { return !w.sidecar }) {
		return
	}
	client := workload{id: model.WorkloadID{Name: "client-without-sidecar"}, address: netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if capture {
		client.address = clientAddress()
	}
	p.workloads = append(p.workloads, client)
}
