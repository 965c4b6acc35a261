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
	sidecar   bool // of the caller
	identity  string
	target    app.Target
	secured   bool // the caller's application speaks TLS on every port
	cert      bool // and has a certificate of the mesh
	cluster   string
	simulated simulate.Call
}

func callerID(namespace string) model.WorkloadID {
	return model.WorkloadID{Namespace: namespace, Name: "caller"}
}

func identityOf(s *model.Snapshot, id model.WorkloadID) string {
	return identity.URI(s.Mesh().TrustDomain, id.Namespace, s.Workload(id).ServiceAccount)
}

// callOf addresses a call: a sidecar takes one to the service, others go to
// the endpoint.
func callOf(row matrixRow, s *model.Snapshot) matrixCall {
	ports := map[string]uint16{"http": 80, "grpc": 82, "tcp": 90, "https": 443}
	id, host, port := callerID(row.caller), row.service+".callee.svc.cluster.local", ports[row.protocol]
	c := matrixCall{
		sidecar: s.HasSidecar(id), identity: identityOf(s, id),
		secured: row.caller == "legacy-tls" || row.caller == "legacy-cert", cert: row.caller == "legacy-cert",
		target:    app.Target{Host: host, Port: port, Protocol: model.ParseProtocol("", row.protocol)},
		cluster:   fmt.Sprintf("outbound|%d||%s", port, host),
		simulated: simulate.Call{From: id, Host: host, Address: simulate.Resolve(s, host, port), Port: port, Protocol: simulate.Protocol(row.protocol)},
	}
	if !c.sidecar {
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
	err       error
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
	m.t.Helper()
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		return m.Dial(ctx, c.simulated.From, address)
	}
	if c.secured {
		dial = app.Secured(dial, m.tlsOf(c))
		if c.target.Protocol == model.HTTPS {
			c.target.Protocol = model.HTTP // that TLS is around it already
		}
	}
	client := app.NewClient("matrix", c.target, dial, "")
	defer client.Close()
	const limit = 5 * time.Second
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	before := m.opened(c)
	echo, err := client.Call(ctx, false)
	after := m.opened(c)
	o := realOutcome{echo: echo, err: err, encrypted: after.TLS > before.TLS}
	o.result, o.body = resultOf(c, err)
	if ctx.Err() != nil {
		o.result = "hangs"
	}
	return o
}

type opened struct{ All, TLS uint64 }

// opened are the connections of the caller's sidecar to the callee.
func (m *mesh) opened(c matrixCall) opened {
	m.t.Helper()
	if !c.sidecar {
		return opened{}
	}
	all, err := m.Connections(m.t.Context(), c.simulated.From)
	if err != nil {
		m.t.Fatal(err)
	}
	return opened(all[c.cluster])
}

// tlsOf is what an application without a sidecar brings. Its certificate is
// the one that a sidecar of it would have.
func (m *mesh) tlsOf(c matrixCall) *tls.Config {
	m.t.Helper()
	config := &tls.Config{InsecureSkipVerify: true, ServerName: c.target.Host}
	if c.target.Protocol.IsHTTP2() {
		config.NextProtos = []string{"h2"}
	}
	if c.cert {
		pair, err := m.Issue(c.simulated.From)
		if err != nil {
			m.t.Fatal(err)
		}
		cert, err := tls.X509KeyPair(pair.CertChain, pair.Key)
		if err != nil {
			m.t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	return config
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
