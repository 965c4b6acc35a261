package relay

import (
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Only an update of the type is spoiled, only one with resources, and once.
func TestSpoiled(t *testing.T) {
	const kind, other = "type.googleapis.com/a", "type.googleapis.com/b"
	update := func(typeURL string, resources int) message {
		u := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: "1"}
		for range resources {
			u.Resources = append(u.Resources, &discoveryv3.Resource{Name: "x", Resource: &anypb.Any{TypeUrl: typeURL}})
		}
		m, err := proto.Marshal(u)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	resources := func(m message) int {
		var u discoveryv3.DeltaDiscoveryResponse
		if err := proto.Unmarshal(m, &u); err != nil || u.Nonce != "1" {
			t.Fatalf("%v, %v", &u, err)
		}
		return len(u.Resources)
	}
	r := &Relay{spoil: map[string]bool{}}
	r.Spoil(kind, true)
	for i, step := range []struct {
		m    message
		want int
	}{{update(other, 1), 1}, {update(kind, 0), 0}, {update(kind, 2), 3}, {update(kind, 2), 2}} {
		if got := resources(r.spoiled(step.m)); got != step.want {
			t.Errorf("message %d has %d resources, want %d", i, got, step.want)
		}
	}
	r.Spoil(kind, true)
	r.Spoil(kind, false)
	if got := resources(r.spoiled(update(kind, 1))); got != 1 {
		t.Error("spoiled although that was taken back")
	}
}
