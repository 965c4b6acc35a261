package discovery

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/feed"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

func (h *hub) counted(read, excess uint64) {
	h.metrics.Records.WithLabelValues("read").Add(float64(read))
	h.metrics.Records.WithLabelValues("excess").Add(float64(excess))
}

func (h *hub) plaintextRefused(id model.WorkloadID, port uint16, more uint64) {
	group := id.Name
	if s := h.snapshot.Load(); s != nil {
		if w := s.Workload(id); w != nil && w.Group != "" {
			group = w.Group
		}
	}
	h.metrics.PlaintextRefused.WithLabelValues(id.Namespace, group, strconv.Itoa(int(port))).Add(float64(more))
}

// owners are the workloads by address. An address of several says nothing.
func owners(s *model.Snapshot) map[string]model.WorkloadID {
	by := map[string]model.WorkloadID{}
	if s == nil {
		return by
	}
	for _, w := range s.Workloads() {
		if _, twice := by[w.Address]; twice {
			by[w.Address] = model.WorkloadID{}
		} else {
			by[w.Address] = w.ID
		}
	}
	return by
}

// traffic is what /debug/traffic shows.
func (h *hub) traffic() []status.Traffic {
	by := owners(h.snapshot.Load())
	var out []status.Traffic
	h.feed.Each(func(id model.WorkloadID, p feed.Proxy) {
		t := status.Traffic{
			Namespace: id.Namespace, Workload: id.Name, LogsSince: p.Logs, StatsSince: p.Stats, Complete: p.Complete(),
			HandshakeErrors: p.HandshakeErrors, Records: p.Records, Excess: p.Excess, Ports: []status.TrafficPort{},
		}
		for _, port := range slices.Sorted(maps.Keys(p.Ports)) {
			t.Ports = append(t.Ports, trafficPort(port, p.Ports[port], by))
		}
		out = append(out, t)
	})
	slices.SortFunc(out, func(a, b status.Traffic) int {
		return strings.Compare(a.Namespace+"/"+a.Workload, b.Namespace+"/"+b.Workload)
	})
	return out
}

func trafficPort(port uint16, t feed.Traffic, by map[string]model.WorkloadID) status.TrafficPort {
	out := status.TrafficPort{
		Port: port, Plain: connections(t.Plain), MutualTLS: connections(t.Mesh),
		Refused: t.Refused, LastPlaintext: t.LastPlain, Others: t.Others, Peers: make([]status.TrafficPeer, len(t.Peers)),
	}
	for i, p := range t.Peers {
		out.Peers[i] = status.TrafficPeer{Address: p.Address, Kind: p.Kind.String(), Port: p.Port, Count: p.Count, First: p.First, Last: p.Last}
		if id := by[p.Address]; id != (model.WorkloadID{}) {
			out.Peers[i].Workload = id.String()
		}
	}
	return out
}

func connections(o feed.Open) status.Connections {
	return status.Connections{Open: o.Active, Total: o.Total, Known: o.Known, At: o.At}
}

const (
	// A client may still send plaintext for a while after it was told to send
	// mTLS; what it begins later bypasses the service.
	podCallSettles = 10 * time.Second
	podCallForgets = 10 * time.Minute // after the last one
)

// podCall is a mesh client that sends a workload plaintext, though it is told
// to send mTLS to the service that leads there.
type podCall struct {
	client, server model.WorkloadID
	port           uint16
}

// podCalls reports plaintext calls to pods' own addresses, and says when to
// look again.
func (h *hub) podCalls(now time.Time) (again time.Time) {
	s := h.snapshot.Load()
	if s == nil {
		return time.Time{}
	}
	by := owners(s)
	mutual := mutualTLS{s: s, views: map[model.ClientClass]*model.ClientView{}}
	calls := map[podCall]time.Time{}
	var found []meshconfig.Problem
	h.feed.Each(func(server model.WorkloadID, p feed.Proxy) {
		for port, t := range p.Ports {
			for _, peer := range t.Peers {
				call := podCall{by[peer.Address], server, port}
				if peer.Kind == feed.AppTLS || now.Sub(peer.Began) > podCallForgets || call.client == (model.WorkloadID{}) {
					continue
				}
				host := mutual.host(call)
				if host == "" {
					continue
				}
				since, before := h.calls[call]
				if !before {
					since = now
				}
				calls[call] = since
				if peer.Began.Sub(since) > podCallSettles {
					found = append(found, podCallProblem(call, peer, host))
				}
			}
		}
	})
	h.calls = calls
	slices.SortFunc(found, func(a, b meshconfig.Problem) int {
		return strings.Compare(a.On.String()+a.Message, b.On.String()+b.Message)
	})
	h.problems.Set("traffic", found...)
	if len(calls) > 0 {
		return now.Add(podCallSettles)
	}
	return time.Time{}
}

func podCallProblem(c podCall, peer feed.Peer, host string) meshconfig.Problem {
	what := "is served there as long as the port takes plaintext"
	if peer.Kind == feed.Refused {
		what = "is refused there"
	}
	return meshconfig.Problem{
		Code: "POD_IP_CALL", Severity: meshconfig.Info, On: model.Key{Kind: "Proxy", Namespace: c.client.Namespace, Name: c.client.Name},
		Message: fmt.Sprintf("it calls port %d of %s by the pod's address, so in plaintext, which %s; by the name %s it would use mutual TLS",
			c.port, c.server, what, host),
	}
}

// mutualTLS knows which services clients send mTLS to.
type mutualTLS struct {
	s     *model.Snapshot
	views map[model.ClientClass]*model.ClientView
}

// host is the service that leads to the call's port, host:port, if the client
// sends it mTLS; else empty.
func (m mutualTLS) host(c podCall) string {
	if !m.s.HasSidecar(c.client) || !m.s.AcceptsMesh(c.server, c.port) {
		return ""
	}
	client, ok := m.s.ProxyOf(c.client)
	if !ok {
		return ""
	}
	class, _, ok := m.s.ClassOf(client)
	if !ok {
		return ""
	}
	server, _ := m.s.ProxyOf(c.server)
	_, serverClass, ok := m.s.ClassOf(server)
	if !ok {
		return ""
	}
	if m.views[class] == nil {
		m.views[class] = m.s.ClientView(class)
	}
	for _, p := range m.s.ServerView(serverClass).Ports {
		if p.Port == c.port {
			return mutualAt(m.views[class], p.Host, p.ServicePort)
		}
	}
	return ""
}

func mutualAt(v *model.ClientView, host string, number uint16) string {
	for _, svc := range v.Services {
		if svc.Host != host {
			continue
		}
		for _, port := range svc.Ports {
			if port.Number == number && (port.TLS == model.ClientMesh || port.TLS == model.ClientMixed) {
				return fmt.Sprintf("%s:%d", host, number)
			}
		}
	}
	return ""
}
