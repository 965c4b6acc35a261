package model

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Snapshot is the mesh at one moment: indexed, immutable, safe for any number
// of readers.
type Snapshot struct {
	mesh      Mesh
	workloads []*Workload
	byID      map[WorkloadID]*hosted
	byShape   map[shapeKey]*hosted // one workload for all of its class
	policies  *policyIndex
	staged    *phaseIndex // nil: no phases
	rollouts  map[Key]Rollout

	services  []*OutboundService
	special   map[string][]*OutboundService // by client namespace, where some differ
	variants  []*Variant
	rules     *ruleIndex
	scoped    bool // some service is not exported to all namespaces
	endpoints []*EndpointGroup
}

// hosted is a workload and what services lead to it.
type hosted struct {
	*Workload
	sidecar bool
	ports   []boundPort // sorted by container port, then host, then service port
	modes   []Decision  // parallel to containers
	other   Decision    // of the ports that are not in containers
	// containers are the container ports that a service or a port-level policy
	// names, ascending.
	containers []uint16
	selected   []candidate // the policy rules that select it
	probes     []Probe     // sorted
	shape      string
}

type shapeKey struct{ namespace, identity, shape string }

// Build indexes inputs. It is total: Compile has validated what it needs.
func Build(in Inputs) *Snapshot {
	s := &Snapshot{
		mesh:     in.Mesh,
		byID:     make(map[WorkloadID]*hosted, len(in.Workloads)),
		byShape:  make(map[shapeKey]*hosted, len(in.Workloads)),
		policies: indexPolicies(in.Policies),
		staged:   indexPhases(in.Phases),
		rollouts: map[Key]Rollout{},
		rules:    indexRules(in.Rules, in.Mesh.RootNamespace),
	}
	for i := range in.Policies {
		if own := in.Policies[i].Rollout; own != nil {
			s.rollouts[in.Policies[i].Key] = *own
		}
	}
	services := make([]*Service, len(in.Services))
	for i := range in.Services {
		services[i] = &in.Services[i]
	}
	slices.SortFunc(services, func(a, b *Service) int { return strings.Compare(a.Host, b.Host) })
	s.indexWorkloads(in)
	s.bindPorts(services)
	for _, w := range s.workloads {
		s.resolve(s.byID[w.ID])
	}
	s.settlePhases()
	s.indexShapes()
	s.indexServices(services, in.Rules)
	return s
}

func (s *Snapshot) indexWorkloads(in Inputs) {
	slab := make([]hosted, len(in.Workloads)) // one allocation for all
	for i := range in.Workloads {
		w := &in.Workloads[i]
		if _, twice := s.byID[w.ID]; twice {
			continue
		}
		slab[i] = hosted{Workload: w, sidecar: w.Sidecar}
		s.byID[w.ID] = &slab[i]
		s.workloads = append(s.workloads, w)
	}
	slices.SortFunc(s.workloads, func(a, b *Workload) int { return a.ID.Compare(b.ID) })
	for _, id := range in.Connected {
		if h := s.byID[id]; h != nil {
			h.sidecar = true
		}
	}
}

// bindPorts gives each workload the (service, port) pairs that lead to it.
func (s *Snapshot) bindPorts(services []*Service) {
	for _, service := range services {
		if service.Resolution == ResolveDNS {
			continue
		}
		for i := range service.Ports {
			port := &service.Ports[i]
			for _, endpoint := range port.Endpoints {
				if h := s.byID[endpoint.Workload]; h != nil {
					h.ports = append(h.ports, boundPort{endpoint.Port, service, port})
				}
			}
		}
	}
}

// resolve decides the modes of a workload's ports.
func (s *Snapshot) resolve(h *hosted) {
	slices.SortFunc(h.ports, func(a, b boundPort) int {
		return cmp.Or(int(a.container)-int(b.container), strings.Compare(a.service.Host, b.service.Host), int(a.port.Number)-int(b.port.Number))
	})
	h.ports = slices.Compact(h.ports)
	h.probes = sortedProbes(h.Probes)
	h.selected = s.policies.selected(h.Workload)
	for _, pair := range h.ports {
		h.containers = append(h.containers, pair.container)
	}
	for _, c := range h.selected {
		if c.rule.Rank == RankPort {
			h.containers = append(h.containers, c.rule.ContainerPort)
		}
	}
	slices.Sort(h.containers)
	h.containers = slices.Compact(h.containers)
	h.modes = make([]Decision, len(h.containers))
	for i, container := range h.containers {
		h.modes[i] = s.decide(h, container)
	}
	h.other = s.decide(h, 0)
}

// indexShapes finds out who shares a server class.
func (s *Snapshot) indexShapes() {
	for _, w := range s.workloads {
		h := s.byID[w.ID]
		h.shape = s.staged.shape(h) + h.shapeBy(s.policies.labelKeys(h.ID.Namespace))
		key := shapeKey{h.ID.Namespace, h.ServiceAccount, h.shape}
		if s.byShape[key] == nil {
			s.byShape[key] = h
		}
	}
}

func (s *Snapshot) decide(h *hosted, container uint16) Decision {
	return s.policies.decide(&s.mesh, h.Workload, h.selected, container, h.pairs(container))
}

// shapeBy is all of the workload that its server half depends on; labels only
// by the keys that selectors mention.
func (h *hosted) shapeBy(labelKeys []string) string {
	var shape strings.Builder
	for _, pair := range h.ports {
		shape.WriteString(strconv.Itoa(int(pair.container)))
		shape.WriteByte('=')
		shape.WriteString(pair.service.Host)
		shape.WriteByte(':')
		shape.WriteString(strconv.Itoa(int(pair.port.Number)))
		shape.WriteByte(' ')
	}
	for _, p := range h.probes {
		shape.WriteString("probe=" + strconv.Itoa(int(p.Port)) + strconv.Quote(p.Path) + strconv.FormatBool(p.GRPC) + " ")
	}
	for _, key := range labelKeys {
		if value, ok := h.Labels[key]; ok {
			shape.WriteString(key + "=" + strconv.Quote(value) + " ")
		}
	}
	return strings.TrimSuffix(shape.String(), " ")
}

// pairs is SP(w,p) of the spec.
func (h *hosted) pairs(container uint16) []boundPort {
	from, _ := slices.BinarySearchFunc(h.ports, container, func(p boundPort, c uint16) int { return int(p.container) - int(c) })
	to := from
	for to < len(h.ports) && h.ports[to].container == container {
		to++
	}
	return h.ports[from:to]
}

// decision is what is decided about a container port, named or not.
func (h *hosted) decision(container uint16) Decision {
	if i, ok := slices.BinarySearch(h.containers, container); ok {
		return h.modes[i]
	}
	return h.other
}

// Mesh is the mesh configuration. Do not change it.
func (s *Snapshot) Mesh() *Mesh { return &s.mesh }

// Workloads are all workloads, sorted by ID. Do not change them.
func (s *Snapshot) Workloads() []*Workload { return s.workloads }

// Workload is nil if the ID is unknown.
func (s *Snapshot) Workload(id WorkloadID) *Workload {
	if h := s.byID[id]; h != nil {
		return h.Workload
	}
	return nil
}

// HasSidecar says whether a sidecar is known or was seen at the workload.
func (s *Snapshot) HasSidecar(id WorkloadID) bool {
	h := s.byID[id]
	return h != nil && h.sidecar
}

// AcceptsMesh says whether a container port takes mesh mTLS.
func (s *Snapshot) AcceptsMesh(id WorkloadID, container uint16) bool {
	h := s.byID[id]
	return h != nil && s.acceptsMesh(h, container)
}

// Services are all services as most clients see them, sorted by host.
func (s *Snapshot) Services() []*OutboundService { return s.services }

// Endpoints are the endpoints of the mesh, sorted by host and service port.
func (s *Snapshot) Endpoints() []*EndpointGroup { return s.endpoints }

// Decision is the mode of a container port with its reason. Of a port that no
// service names, it is what policies say about such ports.
func (s *Snapshot) Decision(id WorkloadID, container uint16) Decision {
	h := s.byID[id]
	if h == nil {
		return Decision{Rank: RankNone}
	}
	return h.decision(container)
}

// ProxyOf is the proxy that a workload's own sidecar would be.
func (s *Snapshot) ProxyOf(id WorkloadID) (Proxy, bool) {
	w := s.Workload(id)
	if w == nil {
		return Proxy{}, false
	}
	return Proxy{ID: id, Type: Sidecar, Address: w.Address}, true
}

// ClassOf is who p shares its configuration with; false if its workload is
// unknown. Namespace, identity and shape come from the workload, never from
// what the proxy says.
func (s *Snapshot) ClassOf(p Proxy) (ClientClass, ServerClass, bool) {
	h := s.byID[p.ID]
	if h == nil {
		return ClientClass{}, ServerClass{}, false
	}
	capture := s.mesh.Capture
	switch {
	case p.Capture != nil:
		capture = *p.Capture
	case h.Capture != nil:
		capture = *h.Capture
	}
	client := ClientClass{Namespace: h.ID.Namespace, Type: p.Type, Capture: capture}
	server := ServerClass{
		Namespace: h.ID.Namespace, Identity: h.ServiceAccount,
		Type: p.Type, Capture: capture, Shape: h.shape, Local: p.Local,
	}
	if capture == CaptureNone {
		server.Address = h.Address
	}
	return client, server, true
}
