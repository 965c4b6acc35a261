// Package traffic reads the evidence of the feed with the mesh in mind: whose
// an address is, and which plaintext could be mutual TLS.
package traffic

import (
	"maps"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/discovery/feed"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/model"
)

// Owners are the workloads by address. An address of several says nothing.
func Owners(s *model.Snapshot) map[string]model.WorkloadID {
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

// Page is what /debug/traffic shows. The snapshot may be nil.
func Page(f *feed.Feed, s *model.Snapshot) []status.Traffic {
	by := Owners(s)
	var out []status.Traffic
	f.Each(func(id model.WorkloadID, p feed.Proxy) {
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
