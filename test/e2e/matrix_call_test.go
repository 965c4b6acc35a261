package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/lab/app"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/simulate"
)

// matrixCall is a call of the matrix as it is really made and as it is
// simulated.
type matrixCall struct {
	sidecar  bool // of the caller
	identity string
	target   app.Target
	secured  bool // the caller's application speaks TLS on every port
	cert     bool // and has a certificate of the mesh
	// undeclared: the server speaks first, and no port says so.
	undeclared bool
	cluster    string
	simulated  simulate.Call
}

func callerID(namespace string) model.WorkloadID {
	return model.WorkloadID{Namespace: namespace, Name: "caller"}
}

func identityOf(s *model.Snapshot, id model.WorkloadID) string {
	return identity.URI(s.Mesh().TrustDomain, id.Namespace, s.Workload(id).ServiceAccount)
}

// portKind is what the table calls a protocol.
type portKind struct {
	port      uint16
	speaks    model.Protocol    // the applications with each other
	simulated simulate.Protocol // the same
	only      simulate.Protocol // that the callee takes
}

func portKinds() map[string]portKind {
	return map[string]portKind{
		"http":       {80, model.HTTP, simulate.HTTP, ""},
		"grpc":       {82, model.GRPC, simulate.GRPC, ""},
		"tcp":        {90, model.TCP, simulate.TCP, ""},
		"https":      {443, model.HTTPS, simulate.HTTPS, ""},
		"https-only": {444, model.HTTPS, simulate.HTTPS, simulate.HTTPS},
		"http-tls":   {83, model.HTTPS, simulate.HTTPS, simulate.HTTPS},
		"mysql":      {3306, model.MySQL, simulate.TCP, simulate.TCP},
		"tcp-first":  {91, model.MySQL, simulate.TCP, simulate.TCP},
		"unnamed":    {9999, model.MySQL, simulate.TCP, simulate.TCP}, // of the pod
	}
}

// callOf addresses a call: a sidecar takes one to the service, others go to
// the endpoint.
func callOf(row matrixRow, s *model.Snapshot) matrixCall {
	kind := portKinds()[row.protocol]
	id, host, port := callerID(row.caller), row.service+".callee.svc.cluster.local", kind.port
	c := matrixCall{
		sidecar: s.HasSidecar(id), identity: identityOf(s, id),
		secured: row.caller == "legacy-tls" || row.caller == "legacy-cert", cert: row.caller == "legacy-cert",
		undeclared: kind.speaks == model.MySQL && row.protocol != "mysql",
		target:     app.Target{Host: host, Port: port, Protocol: kind.speaks},
		cluster:    fmt.Sprintf("outbound|%d||%s", port, host),
		simulated: simulate.Call{
			From: id, Host: host, Address: simulate.Resolve(s, host, port), Port: port, Protocol: kind.simulated, App: simulate.App{Only: kind.only},
		},
	}
	if row.protocol == "unnamed" {
		pod := map[bool]string{true: "bare", false: "server"}[row.service == "bare"]
		c.simulated.Address = s.Workload(model.WorkloadID{Namespace: "callee", Name: pod}).Address
	} else if !c.sidecar {
		for _, g := range s.Endpoints() {
			if g.Host == host && g.Port == port && g.Subset == "" && len(g.Endpoints) > 0 {
				c.simulated.Address, c.simulated.Port = g.Endpoints[0].Address, g.Endpoints[0].Port
			}
		}
	}
	if c.secured {
		c.simulated.Protocol = simulate.HTTPS // to simulate, all TLS of applications
	}
	c.target.Address = net.JoinHostPort(c.simulated.Address, fmt.Sprint(c.simulated.Port))
	return c
}

// presents says whether the callee gets a certificate of the mesh.
func (c matrixCall) presents(sent simulate.Sent) bool {
	return c.cert || sent == simulate.MeshTLS || sent == simulate.MutualTLS
}

// realOutcome is what became of a call on real Envoys, in simulate's words.
type realOutcome struct {
	result    string
	body      string // of a refusal
	echo      app.Echo
	encrypted bool // by the caller's sidecar
	took      time.Duration
	err       error
	broken    error // the test itself
}

// saw describes what reached the application.
func (o realOutcome) saw() string {
	switch {
	case o.err != nil:
		return ""
	case o.echo.TLS > 0:
		return strings.TrimSuffix(strings.Repeat("TLS in ", o.echo.TLS), " in ")
	case o.echo.Peer != "":
		return "plaintext, " + o.echo.Peer
	}
	return "plaintext"
}

// really makes the call once, on a connection of its own.
func (m *mesh) really(c matrixCall) realOutcome {
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		return m.Dial(ctx, c.simulated.From, address)
	}
	if c.secured {
		config, err := m.tlsOf(c)
		if err != nil {
			return realOutcome{broken: err}
		}
		dial = app.Secured(dial, config)
		if c.target.Protocol == model.HTTPS {
			c.target.Protocol = model.HTTP // that TLS is around it already
		}
	}
	client := app.NewClient("matrix", c.target, dial, "")
	defer client.Close()
	const limit = 10 * time.Second
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	before, brokenBefore := m.opened(c)
	start := time.Now()
	echo, err := client.Call(ctx, false)
	took := time.Since(start)
	after, brokenAfter := m.opened(c)
	o := realOutcome{echo: echo, err: err, encrypted: after.TLS > before.TLS, took: took, broken: errors.Join(brokenBefore, brokenAfter)}
	o.result, o.body = resultOf(c, err)
	if ctx.Err() != nil {
		o.result = "hangs"
	}
	return o
}

type opened struct{ All, TLS uint64 }

// opened are the connections of the caller's sidecar to the callee.
func (m *mesh) opened(c matrixCall) (opened, error) {
	if !c.sidecar {
		return opened{}, nil
	}
	all, err := m.Connections(m.t.Context(), c.simulated.From)
	return opened(all[c.cluster]), err
}

// tlsOf is what an application without a sidecar brings. Its certificate is
// the one that a sidecar of it would have.
func (m *mesh) tlsOf(c matrixCall) (*tls.Config, error) {
	config := &tls.Config{InsecureSkipVerify: true, ServerName: c.target.Host}
	if c.target.Protocol.IsHTTP2() {
		config.NextProtos = []string{"h2"}
	}
	if c.cert {
		pair, err := m.Issue(c.simulated.From)
		if err != nil {
			return nil, err
		}
		cert, err := tls.X509KeyPair(pair.CertChain, pair.Key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{cert}
	}
	return config, nil
}

// resultOf says it in simulate's words; a status of gRPC as the status of
// HTTP that Envoy made it of.
func resultOf(c matrixCall, err error) (result, body string) {
	http := c.target.Protocol.IsHTTP() && !c.secured
	var network net.Error
	switch {
	case err == nil && http:
		return "200", ""
	case err == nil:
		return "works", ""
	case errors.As(err, &network):
		return "closed", ""
	}
	for prefix, status := range map[string]string{
		"status 403: ": "403", "grpc-status 7: ": "403", "status 503": "503", "grpc-status 14": "503",
	} {
		if text, ok := strings.CutPrefix(err.Error(), prefix); ok {
			return status, text
		}
	}
	return "closed", ""
}
