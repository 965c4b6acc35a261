package fakeenvoy

import (
	"context"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// wire is one of the two protocols. A failed send shows in receive.
type wire interface {
	// subscribe tells the names of a type that are wanted: all, and what of
	// them is new or no longer wanted; held goes with the first request.
	subscribe(url string, all, add, drop []string, held map[string]Resource)
	answer(r Response, names []string) error
	receive() (Response, error)
}

func dial(ctx context.Context, client discoveryv3.AggregatedDiscoveryServiceClient, o Options) (wire, error) {
	if o.SotW {
		stream, err := client.StreamAggregatedResources(ctx)
		return &sotw{stream, o, map[string]*last{}}, err
	}
	stream, err := client.DeltaAggregatedResources(ctx, grpc.StaticMethod())
	return &delta{stream: stream, options: o}, err
}

// refusal is the status of a NACK; nil, which encodes as nothing, for an ACK.
func refusal(r Response) *status.Status {
	if r.Refused == "" {
		return nil
	}
	return status.New(codes.Internal, r.Refused)
}

type delta struct {
	stream  grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]
	options Options
	greeted bool
}

func (d *delta) send(r *discoveryv3.DeltaDiscoveryRequest) error {
	if !d.greeted {
		r.Node, d.greeted = d.options.Node, true
	}
	return d.stream.Send(r)
}

func (d *delta) subscribe(url string, _, add, drop []string, held map[string]Resource) {
	r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesSubscribe: add, ResourceNamesUnsubscribe: drop}
	for name, resource := range held {
		if r.InitialResourceVersions == nil {
			r.InitialResourceVersions = map[string]string{}
		}
		r.InitialResourceVersions[name] = resource.Version
	}
	_ = d.send(r)
}

func (d *delta) answer(r Response, _ []string) error {
	return d.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeURL, ResponseNonce: r.Nonce, ErrorDetail: refusal(r).Proto()})
}

func (d *delta) receive() (Response, error) {
	m, err := d.stream.Recv()
	if err != nil {
		return Response{}, err
	}
	r := Response{TypeURL: m.GetTypeUrl(), Version: m.GetSystemVersionInfo(), Nonce: m.GetNonce(), Removed: m.GetRemovedResources(), Resources: map[string]Resource{}}
	for _, resource := range m.GetResources() {
		r.Resources[resource.GetName()] = Resource{resource.GetVersion(), resource.GetResource()}
	}
	return r, nil
}

type sotw struct {
	stream  grpc.BidiStreamingClient[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]
	options Options
	last    map[string]*last
}

// last is what the next request of a type repeats.
type last struct{ version, nonce string }

func (s *sotw) send(r *discoveryv3.DiscoveryRequest) error {
	r.Node = s.options.Node
	return s.stream.Send(r)
}

func (s *sotw) subscribe(url string, all, _, _ []string, held map[string]Resource) {
	l := s.last[url]
	if l == nil {
		l = &last{}
		s.last[url] = l
		for _, resource := range held {
			l.version = resource.Version // of the type's last response
		}
	}
	_ = s.send(&discoveryv3.DiscoveryRequest{TypeUrl: url, ResourceNames: all, VersionInfo: l.version, ResponseNonce: l.nonce})
}

func (s *sotw) answer(r Response, names []string) error {
	l := s.last[r.TypeURL]
	l.nonce = r.Nonce
	if r.Refused == "" {
		l.version = r.Version
	}
	return s.send(&discoveryv3.DiscoveryRequest{
		TypeUrl: r.TypeURL, ResourceNames: names, VersionInfo: l.version, ResponseNonce: l.nonce, ErrorDetail: refusal(r).Proto(),
	})
}

func (s *sotw) receive() (Response, error) {
	m, err := s.stream.Recv()
	if err != nil {
		return Response{}, err
	}
	r := Response{TypeURL: m.GetTypeUrl(), Version: m.GetVersionInfo(), Nonce: m.GetNonce(), Resources: map[string]Resource{}}
	for _, body := range m.GetResources() {
		r.Resources[nameOf(body)] = Resource{m.GetVersionInfo(), body}
	}
	return r, nil
}
