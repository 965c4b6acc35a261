package traffic

import (
	"fmt"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/feed"
	"github.com/meshpilot/pilot/pkg/model"
)

func mesh(names ...string) *model.Snapshot {
	in := model.Inputs{Mesh: model.Mesh{Domain: "cluster.local", TrustDomain: "cluster.local"}}
	for i, name := range names {
		in.Workloads = append(in.Workloads, model.Workload{
			ID: model.WorkloadID{Namespace: "shop", Name: name}, Address: fmt.Sprintf("10.0.0.%d", i+1), Group: name[:4], ServiceAccount: "default", Sidecar: true,
		})
	}
	return model.Build(in)
}

// told is a feed's line of a peer.
func told(address string, count uint64, first, last time.Time) feed.Peer {
	return feed.Peer{Address: address, Port: 8080, Count: count, First: first, Last: last}
}

// What the feed forgets and counts anew is added up, over the pods of a group,
// under the name that the caller had then.
func TestHistory(t *testing.T) {
	var h History
	s := mesh("cart-1", "cart-2", "web1")
	id := func(name string) model.WorkloadID { return model.WorkloadID{Namespace: "shop", Name: name} }
	start := time.Unix(1_000_000, 0)
	later := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }
	note := func(s *model.Snapshot, server string, p feed.Peer) {
		h.noteAll(map[model.WorkloadID]feed.Proxy{id(server): {Ports: map[uint16]feed.Traffic{8080: {Peers: []feed.Peer{p}}}}}, s, p.Last)
	}
	note(s, "cart-1", told("10.0.0.3", 2, later(0), later(1)))
	note(s, "cart-1", told("10.0.0.3", 5, later(0), later(2)))
	note(s, "cart-1", told("10.0.0.3", 1, later(10), later(10))) // forgotten, and seen again
	note(s, "cart-2", told("10.0.0.3", 3, later(5), later(6)))
	note(mesh("cart-1"), "cart-1", told("10.0.0.3", 2, later(10), later(11))) // the caller is gone
	got := h.Of("shop", "cart", 8080)
	if len(got) != 1 || got[0].Count != 10 || !got[0].First.Equal(later(0)) || !got[0].Last.Equal(later(11)) || got[0].Workload != id("web1") || !got[0].Sidecar {
		t.Errorf("got %+v", got)
	}
	if got := h.Of("shop", "cart", 8080, id("cart-2")); len(got) != 1 || got[0].Count != 3 {
		t.Errorf("of one server: %+v", got)
	}
	if got := h.Of("shop", "cart", 9090); len(got) != 0 {
		t.Errorf("of another port: %+v", got)
	}
	h.noteAll(nil, s, later(11).Add(Remembered+time.Second))
	if got := h.Of("shop", "cart", 8080); len(got) != 0 {
		t.Errorf("after a day: %+v", got)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	var h History
	s, start := mesh("cart-1"), time.Unix(1_000_000, 0)
	for i := range 3 * maxSeen {
		at := start.Add(time.Duration(i) * time.Second)
		p := told(fmt.Sprintf("10.1.%d.%d", i/100, i%100), 1, at, at)
		h.noteAll(map[model.WorkloadID]feed.Proxy{{Namespace: "shop", Name: "cart-1"}: {Ports: map[uint16]feed.Traffic{8080: {Peers: []feed.Peer{p}}}}}, s, at)
	}
	if got := h.Of("shop", "cart", 8080); len(got) != maxSeen || got[0].Address != "10.1.1.91" {
		t.Errorf("%d are remembered, the newest %+v", len(got), got[0])
	}
}
