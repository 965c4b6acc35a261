package wire

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func request(t testing.TB, m proto.Message) *Request {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	r := &Request{}
	half := len(data) / 2 // as it comes in frames
	if err := (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(data[:half]), mem.SliceBuffer(data[half:])}, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func texts(names func(func([]byte) bool)) []string {
	var all []string
	for name := range names {
		all = append(all, string(name))
	}
	return all
}

func TestDeltaRequest(t *testing.T) {
	m := &discoveryv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: "me"}, TypeUrl: "type", ResponseNonce: "7",
		ResourceNamesSubscribe: []string{"a", "", "b"}, ResourceNamesUnsubscribe: []string{"c"},
		InitialResourceVersions: map[string]string{"x": "1", "y": "", "": "3"},
		ErrorDetail:             status.New(codes.Internal, "bad").Proto(),
	}
	r := request(t, m)
	if err := r.Parse(true); err != nil {
		t.Fatal(err)
	}
	node := &corev3.Node{}
	if err := proto.Unmarshal(r.Node, node); err != nil || node.GetId() != "me" {
		t.Errorf("node %v, %v", node, err)
	}
	if string(r.TypeURL) != "type" || string(r.Nonce) != "7" || !r.Refused || string(r.Error) != "bad" {
		t.Errorf("%+v", r)
	}
	versions := map[string]string{}
	for name, version := range r.Versions() {
		versions[string(name)] = string(version)
	}
	if !slices.Equal(texts(r.Subscribe()), m.GetResourceNamesSubscribe()) || !slices.Equal(texts(r.Unsubscribe()), m.GetResourceNamesUnsubscribe()) ||
		!maps.Equal(versions, m.GetInitialResourceVersions()) {
		t.Errorf("%v %v %v", texts(r.Subscribe()), texts(r.Unsubscribe()), versions)
	}
	r.Free()
	r = request(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: "type"})
	if err := r.Parse(true); err != nil || r.Refused || r.Node != nil || len(r.Nonce) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestSotwRequest(t *testing.T) {
	m := &discoveryv3.DiscoveryRequest{VersionInfo: "v", Node: &corev3.Node{Id: "me"}, ResourceNames: []string{"a", "b"}, TypeUrl: "type", ResponseNonce: "7"}
	r := request(t, m)
	if err := r.Parse(false); err != nil {
		t.Fatal(err)
	}
	if string(r.Version) != "v" || string(r.TypeURL) != "type" || string(r.Nonce) != "7" || r.Refused || !slices.Equal(texts(r.Names()), m.GetResourceNames()) {
		t.Errorf("%+v", r)
	}
}

// What is written must be what protobuf reads.
func TestResponses(t *testing.T) {
	resources := []Resource{
		{Name: "one", Version: "0123456789abcdef", TypeURL: "type", Value: bytes.Repeat([]byte("x"), 300)},
		{Name: "", Version: "", TypeURL: "type", Value: nil},
	}
	for _, delta := range []bool{true, false} {
		body := []byte{}
		for _, r := range resources {
			before := len(body)
			if body = r.Append(body, delta); len(body)-before != r.Size(delta) {
				t.Errorf("delta %v: %d bytes, Size says %d", delta, len(body)-before, r.Size(delta))
			}
		}
		m := &Message{Parts: mem.BufferSlice{mem.SliceBuffer(Head("v", "type", "7")), mem.SliceBuffer(body)}}
		if delta {
			m.Parts = append(m.Parts, mem.SliceBuffer(AppendRemoved(nil, "gone")))
		}
		parts, err := (codec{}).Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var got, want proto.Message = &discoveryv3.DiscoveryResponse{}, sotwResponse(resources)
		if delta {
			got, want = &discoveryv3.DeltaDiscoveryResponse{}, deltaResponse(resources)
		}
		if err := proto.Unmarshal(parts.Materialize(), got); err != nil || !proto.Equal(got, want) {
			t.Errorf("delta %v: got %v, want %v, %v", delta, got, want, err)
		}
	}
}

func deltaResponse(resources []Resource) proto.Message {
	m := &discoveryv3.DeltaDiscoveryResponse{SystemVersionInfo: "v", TypeUrl: "type", Nonce: "7", RemovedResources: []string{"gone"}}
	for _, r := range resources {
		m.Resources = append(m.Resources, &discoveryv3.Resource{Name: r.Name, Version: r.Version, Resource: &anypb.Any{TypeUrl: r.TypeURL, Value: r.Value}})
	}
	return m
}

func sotwResponse(resources []Resource) proto.Message {
	m := &discoveryv3.DiscoveryResponse{VersionInfo: "v", TypeUrl: "type", Nonce: "7"}
	for _, r := range resources {
		m.Resources = append(m.Resources, &anypb.Any{TypeUrl: r.TypeURL, Value: r.Value})
	}
	return m
}

// Other services on the same server speak plain protobuf.
func TestOtherMessages(t *testing.T) {
	c := codec{encoding.GetCodecV2(grpcproto.Name)}
	data, err := c.Marshal(&corev3.Node{Id: "me"})
	if err != nil {
		t.Fatal(err)
	}
	node := &corev3.Node{}
	if err := c.Unmarshal(data, node); err != nil || node.GetId() != "me" || c.Name() != "proto" {
		t.Errorf("%v, %v", node, err)
	}
}

// FuzzRequest: bytes that protobuf takes are read as protobuf reads them, and
// no bytes make a panic.
func FuzzRequest(f *testing.F) {
	seed, err := proto.Marshal(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "type", ResourceNamesSubscribe: []string{"a"}, InitialResourceVersions: map[string]string{"x": "1"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:len(seed)-1])
	f.Add([]byte{0x0a})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &Request{data: data}
		err := r.Parse(true)
		_ = (&Request{data: data}).Parse(false)
		names := texts(r.Subscribe())
		for range r.Versions() {
		}
		m := &discoveryv3.DeltaDiscoveryRequest{}
		if proto.Unmarshal(data, m) != nil {
			return
		}
		if err != nil || string(r.TypeURL) != m.GetTypeUrl() || !slices.Equal(names, m.GetResourceNamesSubscribe()) {
			t.Errorf("%v: type %q, names %q, protobuf reads %v", err, r.TypeURL, names, m)
		}
	})
}
