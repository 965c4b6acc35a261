package discovery

import (
	"crypto"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	security "istio.io/api/security/v1alpha1"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/ads/wire"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/csr"
	"github.com/meshpilot/pilot/pkg/model"
)

// BenchmarkCertificateRequests are requests over real gRPC with mutual TLS,
// whose caller is in the same process. With -cpu 1 both share one core.
func BenchmarkCertificateRequests(b *testing.B) {
	for _, kind := range []identity.KeyType{identity.ECDSA, identity.RSA} {
		var key crypto.Signer = newKey(b, elliptic.P256())
		if kind == identity.RSA {
			key = newRSA(b, 2048)
		}
		b.Run(kind.String(), func(b *testing.B) { benchmarkRequests(b, kind, request(b, key, nil)) })
	}
}

func benchmarkRequests(b *testing.B, kind identity.KeyType, text string) {
	ca, err := identity.New(identity.Options{KeyType: kind})
	if err != nil {
		b.Fatal(err)
	}
	client := security.NewIstioCertificateServiceClient(dialed(b, ca, signing(b, ca)))
	ask := func() {
		if _, err := client.CreateCertificate(b.Context(), &security.IstioCertificateRequest{Csr: text}); err != nil {
			b.Error(err)
		}
	}
	ask() // shakes hands
	b.ReportAllocs()
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			ask()
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

// signing is the address of a server of certificate requests without limits.
func signing(b *testing.B, ca *identity.CA) string {
	h := newHub("cluster.local", slog.New(slog.NewTextHandler(io.Discard, nil)), status.NewMetrics())
	h.snapshot.Store(model.Build(model.Inputs{Mesh: model.Mesh{TrustDomain: "cluster.local"}}))
	close(h.configured)
	port := newPort(ca, "istio-system", identity.DefaultGraceRatio, h)
	o := signerOptions(ca, port, nil, h)
	o.PerAccount = csr.Limit{Interval: time.Nanosecond, Burst: int(time.Hour)}
	server := grpc.NewServer(append(ads.ServerOptions(), port.ServerOptions()...)...)
	csr.New(o).Register(server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = server.Serve(wire.Listen(l)) }()
	b.Cleanup(server.Stop)
	return l.Addr().String()
}

func dialed(b *testing.B, ca *identity.CA, address string) *grpc.ClientConn {
	pair, err := ca.Issue(cartURI, time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	leaf, err := tls.X509KeyPair(pair.CertChain, pair.Key)
	if err != nil {
		b.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Roots())
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{leaf}, RootCAs: roots, ServerName: "istiod.istio-system.svc",
	})))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return conn
}
