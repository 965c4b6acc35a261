package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	security "istio.io/api/security/v1alpha1"

	"github.com/meshpilot/pilot/pkg/identity"
)

const vm, token = "spiffe://cluster.local/ns/shop/sa/vm", "a-long-secret"

// ca is a real CA behind real gRPC over TLS, in memory.
type ca struct {
	security.UnimplementedIstioCertificateServiceServer
	listener *bufconn.Listener

	mu     sync.Mutex
	signer *identity.CA
	roots  []byte // sent as the last element
	olds   []byte // accepted of clients besides
	down   bool   // nobody answers
	server tls.Certificate
	calls  []call
}

type call struct {
	at      time.Time
	by      string // certificate or token
	seconds int64
	org     string
}

func newSigner(t *testing.T) *identity.CA {
	t.Helper()
	signer, err := identity.NewCA(identity.DefaultOrg, identity.DefaultRootTTL)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// startCA must be stopped before its bubble ends; the test's cleanup does.
func startCA(t *testing.T, signer *identity.CA) *ca {
	t.Helper()
	c := &ca{listener: bufconn.Listen(1 << 20), signer: signer, roots: signer.Roots()}
	shown, err := signer.IssueControlPlane("cluster.local", "istio-system")
	c.show(t, shown, err)
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			clients := x509.NewCertPool()
			clients.AppendCertsFromPEM(c.roots)
			clients.AppendCertsFromPEM(c.olds)
			return &tls.Config{
				Certificates: []tls.Certificate{c.server}, ClientCAs: clients,
				ClientAuth: tls.VerifyClientCertIfGiven, NextProtos: []string{"h2"},
			}, nil
		},
	})))
	security.RegisterIstioCertificateServiceServer(server, c)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(c.listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return c
}

// show makes the server present the pair.
func (c *ca) show(t *testing.T, shown identity.KeyPair, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(shown.CertChain, shown.Key)
	if err != nil {
		t.Fatal(err)
	}
	c.set(func() { c.server = cert })
}

func (c *ca) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *ca) called() []call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]call(nil), c.calls...)
}

func (c *ca) dial(ctx context.Context, _ string) (net.Conn, error) {
	c.mu.Lock()
	down := c.down
	c.mu.Unlock()
	if down {
		return nil, errors.New("nobody there")
	}
	return c.listener.DialContext(ctx)
}

func (c *ca) CreateCertificate(ctx context.Context, r *security.IstioCertificateRequest) (*security.IstioCertificateResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	by := "nothing"
	if p, _ := peer.FromContext(ctx); len(p.AuthInfo.(credentials.TLSInfo).State.VerifiedChains) > 0 {
		by = "certificate"
	} else if md, _ := metadata.FromIncomingContext(ctx); len(md["authorization"]) == 1 && md["authorization"][0] == "Bearer "+token {
		by = "token"
	} else {
		return nil, status.Error(codes.Unauthenticated, "no client certificate is presented")
	}
	block, _ := pem.Decode([]byte(r.Csr))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	made := call{at: time.Now(), by: by, seconds: r.ValidityDuration}
	if len(csr.Subject.Organization) > 0 {
		made.org = csr.Subject.Organization[0]
	}
	c.calls = append(c.calls, made)
	chain, err := c.signer.Sign(identity.Request{URI: vm, Key: csr.PublicKey, TTL: time.Duration(r.ValidityDuration) * time.Second})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &security.IstioCertificateResponse{CertChain: []string{string(chain), string(c.roots)}}, nil
}

// machine is an agent of c in a new directory with the root file and a token.
func machine(t *testing.T, c *ca, change ...func(*Options)) (*agent, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	log := new(bytes.Buffer) // one goroutine logs
	o := Options{
		CAAddress: "istiod.istio-system.svc:15012",
		Files:     Files{dir + "/cert-chain.pem", dir + "/key.pem", dir + "/root-cert.pem"},
		Token:     filepath.Join(dir, "token"), TTL: time.Hour, GraceRatio: 0.5,
		Log: slog.New(slog.NewTextHandler(log, nil)),
	}
	for _, c := range change {
		c(&o)
	}
	write(t, o.Files.RootCert, c.signer.Roots(), 0o644)
	write(t, o.Token, []byte(token+"\n"), 0o600)
	a, err := newAgent(o)
	if err != nil {
		t.Fatal(err)
	}
	a.dial = c.dial
	return a, log
}

func write(t *testing.T, path string, content []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, content, mode); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
