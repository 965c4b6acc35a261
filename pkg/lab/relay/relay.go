// Package relay stands between one Envoy and the control plane, and spoils
// their talk on demand: it hands messages on late, ends all streams, or makes
// an update such that Envoy refuses it. It knows nothing else of either.
package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const largest = 64 << 20 // of a message

// Options say between whom a relay stands.
type Options struct {
	Listener net.Listener // Envoy connects to it
	// Server is shown to Envoy, Client and Roots to the control plane; Name is
	// what the control plane's certificate must be for.
	Server func() (*tls.Certificate, error)
	Client func() (*tls.Certificate, error)
	Roots  func() *x509.CertPool
	Name   string
	Dial   func(ctx context.Context) (net.Conn, error) // to the control plane
}

// Relay serves one Envoy.
type Relay struct {
	server   *grpc.Server
	upstream *grpc.ClientConn

	mu      sync.Mutex
	delay   time.Duration
	cut     bool
	spoil   map[string]bool // by type URL: the next update with resources
	streams map[int]context.CancelFunc
	next    int
}

// New starts to serve, until Close.
func New(o Options) (*Relay, error) {
	r := &Relay{spoil: map[string]bool{}, streams: map[int]context.CancelFunc{}}
	client := credentials.NewTLS(&tls.Config{
		ServerName: o.Name, InsecureSkipVerify: true, // by the roots of now, below
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots: o.Roots(), DNSName: o.Name, Intermediates: pool(state.PeerCertificates[1:])})
			return err
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return o.Client() },
	})
	var err error
	r.upstream, err = grpc.NewClient("passthrough:///control-plane", grpc.WithTransportCredentials(client),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return o.Dial(ctx) }),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 500 * time.Millisecond}}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(largest), grpc.MaxCallSendMsgSize(largest)))
	if err != nil {
		return nil, err
	}
	server := credentials.NewTLS(&tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return o.Server() },
	})
	r.server = grpc.NewServer(grpc.Creds(server), grpc.ForceServerCodecV2(raw{}), grpc.MaxRecvMsgSize(largest), grpc.MaxSendMsgSize(largest),
		grpc.UnknownServiceHandler(r.serve))
	go func() { _ = r.server.Serve(o.Listener) }() // ends with Close
	return r, nil
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

// Close ends everything.
func (r *Relay) Close() error {
	r.Drop()
	r.server.Stop()
	return r.upstream.Close()
}

// Delay makes every message to Envoy so much later; their order stays.
func (r *Relay) Delay(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delay = d
}

// Drop ends all streams; Envoy opens new ones.
func (r *Relay) Drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, end := range r.streams {
		end()
	}
}

// Cut ends all streams and lets no new one begin, until it is undone.
func (r *Relay) Cut(cut bool) {
	r.mu.Lock()
	r.cut = cut
	r.mu.Unlock()
	if cut {
		r.Drop()
	}
}

// Spoil makes Envoy refuse the next update of the type; with on false it
// takes that back, if none has come.
func (r *Relay) Spoil(typeURL string, on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spoil[typeURL] = on
}

func (r *Relay) open(end context.CancelFunc) (number int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut {
		return 0, false
	}
	r.next++
	r.streams[r.next] = end
	return r.next, true
}

func (r *Relay) closed(number int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.streams, number)
}

// serve hands on one stream of any method.
func (r *Relay) serve(_ any, down grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(down)
	md, _ := metadata.FromIncomingContext(down.Context())
	ctx, end := context.WithCancel(metadata.NewOutgoingContext(down.Context(), md.Copy()))
	defer end()
	number, ok := r.open(end)
	if !ok {
		return status.Error(codes.Unavailable, "the control plane is away")
	}
	defer r.closed(number)
	up, err := r.upstream.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	go requests(down, up, end)
	err = r.responses(ctx, up, down)
	if ctx.Err() != nil && down.Context().Err() == nil {
		return status.Error(codes.Unavailable, "dropped")
	}
	return err
}

func requests(from grpc.ServerStream, to grpc.ClientStream, fail func()) {
	for {
		var m message
		err := from.RecvMsg(&m)
		if err == nil {
			err = to.SendMsg(&m)
		} else if errors.Is(err, io.EOF) {
			_ = to.CloseSend() // the other direction tells the end
			return
		}
		if err != nil {
			if !errors.Is(err, io.EOF) { // of a send: why it ended is read there
				fail()
			}
			return
		}
	}
}

// late is a message, and when Envoy gets it.
type late struct {
	message
	at time.Time
}

// responses are read at once and handed on when they are due, so that a delay
// does not add up.
func (r *Relay) responses(ctx context.Context, from grpc.ClientStream, to grpc.ServerStream) error {
	queue, failed := make(chan late, 1<<10), make(chan error, 1)
	go func() {
		defer close(queue)
		for {
			var m message
			if err := from.RecvMsg(&m); err != nil {
				failed <- err
				return
			}
			r.mu.Lock()
			at := time.Now().Add(r.delay)
			r.mu.Unlock()
			select {
			case queue <- late{m, at}:
			case <-ctx.Done():
				failed <- ctx.Err()
				return
			}
		}
	}()
	for next := range queue {
		if wait := time.Until(next.at); wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m := r.spoiled(next.message)
		if err := to.SendMsg(&m); err != nil {
			return err
		}
	}
	if err := <-failed; !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// message is one as it is on the wire.
type message []byte

// raw hands messages on without reading them.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*message))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*message) = data.Materialize()
	return nil
}
