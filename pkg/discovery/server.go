package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/ads/wire"
	"github.com/meshpilot/pilot/pkg/discovery/phases"
	"github.com/meshpilot/pilot/pkg/discovery/replica"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/discovery/survey"
	"github.com/meshpilot/pilot/pkg/discovery/tlsport"
	"github.com/meshpilot/pilot/pkg/discovery/traffic"
	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/csr"
	"github.com/meshpilot/pilot/pkg/identity/secrets"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/readiness"
)

// stopTime is how long open requests may take when the server stops.
const stopTime = 5 * time.Second

// Options say what a control plane serves, and where. An empty address is no
// port; port 0 is any free one.
type Options struct {
	Source meshconfig.Source
	Domain string // DNS suffix of services; empty is cluster.local
	// CA issues the certificates of TLSAddress, and verifies its callers. It is
	// followed and reported on; nil only without TLSAddress.
	CA *identity.CA
	// Secrets keeps those of the service accounts of Source; nil is none.
	Secrets *secrets.Controller
	// AccountObjects keeps Secrets only of accounts that are objects: of one
	// that is gone, workloads may be left. Else what a workload names is one.
	AccountObjects bool
	// Roots publishes the roots of the CA; nil is nobody.
	Roots RootsPublisher

	// Phases keeps how far changes of modes are, so that they can be carried
	// out on proof; nil: a mode is in force at once.
	Phases phases.Store
	// Replicas are the control planes that run beside this one and share its
	// phases, in place of Phases; nil: there is none.
	Replicas replica.Group

	PlaintextAddress string // xDS without TLS, usually 127.0.0.1:15010
	// PlaintextRemote allows a PlaintextAddress that other machines reach:
	// whoever does may then read every workload's configuration.
	PlaintextRemote bool
	TLSAddress      string // xDS and certificate requests over TLS, usually :15012
	Namespace       string // in the control plane's identity; empty is istio-system
	// Grace is the part of its lifetime that the port's certificate has left
	// when it is renewed; 0 is identity.DefaultGraceRatio.
	Grace float64
	// BootstrapTokens is a file of tokens with which machines without a
	// certificate may ask for one; empty is none.
	BootstrapTokens string
	// Authenticators are asked about callers that have no certificate, and no
	// token of BootstrapTokens.
	Authenticators []csr.Authenticator
	// ListenTLS opens TLSAddress where net.Listen does not reach: in another
	// network namespace. Nil is net.Listen.
	ListenTLS      func(address string) (net.Listener, error)
	MetricsAddress string // /metrics, usually :15014
	HTTPAddress    string // /readyz and /debug/, usually :8080
	DebugRemote    bool   // /debug/ answers other machines too

	// Beside runs while the server does, and may ask for its state at any
	// time; nil is nothing.
	Beside func(ctx context.Context, state func() status.State)

	Log *slog.Logger // nil is slog.Default
}

// Addresses are where a Server listens; empty is no port.
type Addresses struct{ Plaintext, TLS, Metrics, HTTP string }

// Server is a control plane whose ports are open.
type Server struct {
	options   Options
	hub       *hub
	metrics   *status.Metrics
	port      *tlsport.Port  // nil without one
	tokens    *csr.TokenFile // nil without one
	listeners []net.Listener
	addresses Addresses
	serve     []func() error                // run until their stop
	stop      []func(context.Context) error // in order
}

// Run serves until ctx ends or something fails.
func Run(ctx context.Context, o Options) error {
	s, err := Listen(o)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// Listen opens all ports. An error names the port, and the flag of pilot
// serve that chooses another.
func Listen(o Options) (*Server, error) {
	o.Log = cmp.Or(o.Log, slog.Default())
	o.Domain = cmp.Or(o.Domain, "cluster.local")
	o.Namespace = cmp.Or(o.Namespace, "istio-system")
	o.Grace = cmp.Or(o.Grace, identity.DefaultGraceRatio)
	if err := check(o); err != nil {
		return nil, err
	}
	m := status.NewMetrics()
	s := &Server{options: o, metrics: m, hub: newHub(o.Domain, o.Log, m)}
	switch {
	case o.Replicas != nil:
		s.hub.stage(newReplicated(o.Replicas, m))
	case o.Phases != nil:
		r, err := newRollouts(o.Phases, m)
		if err != nil {
			return nil, err
		}
		s.hub.stage(r)
	}
	if o.TLSAddress != "" {
		var err error
		if s.tokens, err = openTokens(o.BootstrapTokens); err != nil {
			return nil, err
		}
		s.port = newPort(o.CA, o.Namespace, o.Grace, s.hub)
	}
	for _, port := range []struct {
		address, flag string
		bound         *string
		serve         func(net.Listener)
	}{
		{o.PlaintextAddress, "--plaintext-address", &s.addresses.Plaintext, func(l net.Listener) { s.addGRPC(l, nil) }},
		{o.TLSAddress, "--tls-address", &s.addresses.TLS, func(l net.Listener) { s.addGRPC(wire.Listen(l), s.port) }},
		{o.MetricsAddress, "--metrics-address", &s.addresses.Metrics, func(l net.Listener) { s.addHTTP(l, m.Handler()) }},
		{o.HTTPAddress, "--http-address", &s.addresses.HTTP, func(l net.Listener) { s.addHTTP(l, s.pages().Handler()) }},
	} {
		if port.address == "" {
			continue
		}
		open := listenTCP
		if port.bound == &s.addresses.TLS && o.ListenTLS != nil {
			open = o.ListenTLS
		}
		l, err := listen(open, port.address, port.flag)
		if err != nil {
			s.closePorts()
			return nil, err
		}
		s.listeners = append(s.listeners, l)
		*port.bound = l.Addr().String()
		port.serve(l)
	}
	return s, nil
}

func check(o Options) error {
	switch {
	case o.Source == nil:
		return errors.New("no source of configuration")
	case o.TLSAddress != "" && o.CA == nil:
		return fmt.Errorf("%s needs a CA", o.TLSAddress)
	case o.TLSAddress == "" && o.BootstrapTokens != "":
		return errors.New("--bootstrap-tokens needs --tls-address, where tokens are taken")
	case o.PlaintextAddress != "" && !o.PlaintextRemote && !loopback(o.PlaintextAddress):
		return fmt.Errorf("%s is reachable from other machines, and plaintext xDS tells them everything; "+
			"use 127.0.0.1, or allow it with --plaintext-remote", o.PlaintextAddress)
	}
	return nil
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true // listen has the better error
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func listenTCP(address string) (net.Listener, error) { return net.Listen("tcp", address) }

func listen(open func(string) (net.Listener, error), address, flag string) (net.Listener, error) {
	l, err := open(address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use by another program; stop it, or choose another address with %s: %w", address, flag, err)
	case err != nil:
		return nil, fmt.Errorf("cannot listen on %s (%s): %w", address, flag, err)
	}
	return l, nil
}

// addGRPC serves xDS and takes evidence of traffic; with TLS certificate
// requests too.
func (s *Server) addGRPC(l net.Listener, port *tlsport.Port) {
	options := ads.ServerOptions()
	if port != nil {
		options = append(options, port.ServerOptions()...)
	}
	server := grpc.NewServer(options...)
	s.hub.store.Register(server)
	s.hub.feed.Register(server)
	if port != nil {
		csr.New(signerOptions(s.options.CA, port, s.tokens, s.hub, s.options.Authenticators...)).Register(server)
	}
	s.serve = append(s.serve, func() error { return server.Serve(l) })
	s.stop = append(s.stop, func(ctx context.Context) error {
		done := make(chan struct{})
		go func() { server.GracefulStop(); close(done) }()
		select {
		case <-done:
		case <-ctx.Done():
			server.Stop()
			<-done
		}
		return nil
	})
}

func (s *Server) addHTTP(l net.Listener, h http.Handler) {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	s.serve = append(s.serve, func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	s.stop = append(s.stop, func(ctx context.Context) error {
		if err := server.Shutdown(ctx); err != nil {
			return errors.Join(err, server.Close())
		}
		return nil
	})
}

func (s *Server) closePorts() {
	for _, l := range s.listeners {
		_ = l.Close() // nothing was accepted on it
	}
}

// Addresses are where the server listens.
func (s *Server) Addresses() Addresses { return s.addresses }

// State is what the pages show, for callers in the same process.
func (s *Server) State() status.State {
	state := *s.hub.published.Load()
	state.Now = time.Now()
	state.Proxies = s.hub.proxies()
	return state
}

// Edits are the last edits, oldest first, and how far each has come.
func (s *Server) Edits() []status.Edit { return s.hub.published.Load().Edits }

// Rollouts are all targets and how far each is; none without phases.
func (s *Server) Rollouts() []status.Rollout { return s.hub.published.Load().Rollouts }

// Run serves until ctx ends or something fails. A source that refuses its
// configuration at the start is such a failure.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failure := make(chan error, 1) // the first
	var wg sync.WaitGroup
	start := func(work func() error) {
		wg.Go(func() {
			if err := work(); err != nil && ctx.Err() == nil {
				select {
				case failure <- err:
				default:
				}
				cancel()
			}
		})
	}
	for _, serve := range s.serve {
		start(serve)
	}
	s.startCA(ctx, start)
	s.startSecrets(ctx, start)
	s.startRoots(ctx, start)
	if beside := s.options.Beside; beside != nil {
		start(func() error { beside(ctx, s.State); return nil })
	}
	if s.port != nil {
		start(func() error {
			s.port.Watch(ctx, func() { s.hub.reports.put("tokens", tokenProblems(s.tokens)) })
			return nil
		})
	}
	s.options.Log.Info("serving", "plaintext", s.addresses.Plaintext, "tls", s.addresses.TLS,
		"metrics", s.addresses.Metrics, "http", s.addresses.HTTP)
	if at := s.addresses.Plaintext; at != "" && !loopback(at) {
		s.options.Log.Warn("xDS without TLS is open to other machines: whoever reaches it reads every workload's configuration, and may act for any proxy; "+
			"use the port with TLS, or 127.0.0.1", "address", at)
	}
	start(func() error { s.hub.run(ctx); return nil })
	start(func() error { return s.options.Source.Run(ctx, s.hub.publish) })

	<-ctx.Done()
	s.options.Log.Info("stopping")
	s.hub.store.Close() // proxies look for another replica at once
	s.hub.feed.Close()
	deadline, done := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer done()
	var stops sync.WaitGroup
	for _, stop := range s.stop {
		stops.Go(func() {
			if err := stop(deadline); err != nil {
				s.options.Log.Warn("a port did not close in time", "error", err)
			}
		})
	}
	stops.Wait()
	wg.Wait()
	select {
	case err := <-failure:
		return err
	default:
		return nil
	}
}

// pages shows what the hub published last and what the store knows.
func (s *Server) pages() status.Pages {
	return status.Pages{
		Ready: func() []string {
			return s.hub.unready()
		},
		State: func(context.Context) (status.State, error) { return s.State(), nil },
		Config: func(_ context.Context, node string) ([]status.Resources, bool, error) {
			sent, ok := s.hub.store.Config(node)
			out := make([]status.Resources, len(sent))
			for i, r := range sent {
				out[i] = status.Resources(r)
			}
			return out, ok, nil
		},
		Traffic:      func() []status.Traffic { return traffic.Page(s.hub.feed, s.hub.snapshot.Load()) },
		Certificates: s.certificates,
		Readiness: func(state status.State, of []status.Rollout) []readiness.Facts {
			return survey.Sources{Store: s.hub.store, Feed: s.hub.feed, History: &s.hub.history, Versions: &s.hub.versions}.Facts(state.Snapshot, of, time.Now())
		},
		Remote: s.options.DebugRemote,
	}
}

// proxies are the connected proxies as the page shows them.
func (h *hub) proxies() []status.Proxy {
	list := h.store.Proxies()
	out := make([]status.Proxy, len(list))
	snapshot, unsound := h.snapshot.Load(), h.unsound.Load()
	for i, p := range list {
		identity, _ := h.peers.of(p.Stream)
		out[i] = status.Proxy{
			Node: p.Node, Workload: p.Proxy.ID.String(), Identity: identity,
			Protocol: "state of the world", Connected: p.Connected, Known: p.Known, Certificates: p.Secrets, Types: map[string]status.Exchange{},
		}
		out[i].Reached, out[i].Behind = p.Reached, lagOf(p, snapshot, unsound)
		if unsound.has(p.Proxy, snapshot) {
			out[i].Reached = 0
		}
		if p.Delta {
			out[i].Protocol = "delta"
		}
		for _, t := range p.Types {
			out[i].Types[status.TypeName(t.TypeURL)] = status.Exchange{
				Sent: t.Sent, SentAt: t.SentAt, Acked: t.Acked, AckedAt: t.AckedAt,
				Withheld: slices.Clone(t.Refused), RefusedAt: t.NackedAt, RefusedFor: t.Nack,
			}
		}
	}
	return out
}
