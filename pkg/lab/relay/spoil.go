package relay

import (
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// spoiledName is the resource that no Envoy takes.
const spoiledName = "spoiled-on-the-way"

// spoiled is the message, or, if it is an update of a type that is to be
// spoiled, one with a resource more, which cannot be read.
func (r *Relay) spoiled(m message) message {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spoil) == 0 {
		return m
	}
	var update discoveryv3.DeltaDiscoveryResponse
	if proto.Unmarshal(m, &update) != nil || len(update.Resources) == 0 || !r.spoil[update.TypeUrl] {
		return m
	}
	delete(r.spoil, update.TypeUrl)
	update.Resources = append(update.Resources, &discoveryv3.Resource{
		Name: spoiledName, Version: "0", Resource: &anypb.Any{TypeUrl: update.TypeUrl, Value: []byte{0xff}},
	})
	spoiled, err := proto.Marshal(&update)
	if err != nil {
		return m
	}
	return spoiled
}
