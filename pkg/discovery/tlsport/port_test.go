package tlsport

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/meshpilot/pilot/pkg/identity"
)

func newCA(t *testing.T, o identity.Options) *identity.CA {
	t.Helper()
	ca, err := identity.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// testPort is a port whose surroundings the test can change.
type testPort struct {
	*Port
	domains    []string
	configured chan struct{}
	refused    []string
	expires    atomic.Int64 // nanoseconds; 0: not told
	log        bytes.Buffer
}

func newTestPort(t *testing.T, ca *identity.CA) *testPort {
	p := &testPort{domains: []string{"a.example"}, configured: make(chan struct{})}
	p.Port = New(Options{
		CA: ca, Namespace: "istio-system", Grace: identity.DefaultGraceRatio,
		Configured: p.configured, Domains: func() []string { return p.domains },
		Refused:       func(reason string) { p.refused = append(p.refused, reason) },
		NoCertificate: func(why error) error { return why },
		Expires:       func(at time.Time) { p.expires.Store(at.UnixNano()) },
		Log:           slog.New(slog.NewTextHandler(&p.log, nil)),
	})
	return p
}

func (p *testPort) leaf(t *testing.T) *x509.Certificate {
	t.Helper()
	cert, err := p.current(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

func TestTheCertificateFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		short := identity.Options{Lifetimes: identity.Lifetimes{Max: time.Hour}}
		p := newTestPort(t, newCA(t, short))
		first := p.leaf(t)
		if p.expires.Load() != first.NotAfter.UnixNano() {
			t.Errorf("told that it expires at %v, not %v", p.expires.Load(), first.NotAfter.UnixNano())
		}
		time.Sleep(26 * time.Minute) // renewals come up to 5 % of an hour before its half
		if p.leaf(t) != first {
			t.Error("renewed too early")
		}
		time.Sleep(5 * time.Minute)
		second := p.leaf(t)
		if second.SerialNumber.Cmp(first.SerialNumber) == 0 || p.expires.Load() != second.NotAfter.UnixNano() {
			t.Error("not renewed after half of its life")
		}

		p.domains = []string{"b.example", "a.example"}
		third := p.leaf(t)
		if len(third.URIs) != 2 || third.URIs[0].String() != identity.ControlPlaneURI("b.example", "istio-system") ||
			third.URIs[1].String() != identity.ControlPlaneURI("a.example", "istio-system") {
			t.Errorf("after a change of the trust domain: %v", third.URIs)
		}

		p.options.CA = newCA(t, short)
		time.Sleep(lookTime)
		fourth := p.leaf(t)
		if !p.options.CA.Signed(fourth) {
			t.Error("still of the CA before")
		}

		// A CA that cannot issue: what there is stays until its end.
		p.options.CA = newCA(t, identity.Options{RootTTL: time.Nanosecond})
		for range 10 {
			time.Sleep(time.Second)
			if p.leaf(t) != fourth {
				t.Error("a certificate of an expired CA")
			}
		}
		if n := strings.Count(p.log.String(), "cannot be renewed"); n != 1 {
			t.Errorf("logged %d times in 10 s:\n%s", n, p.log.String())
		}
		time.Sleep(time.Hour)
		if _, err := p.current(time.Now()); err == nil {
			t.Error("an expired certificate is shown")
		}
	})
}

func TestNoRenewalAtEveryHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPort(t, newCA(t, identity.Options{}))
		p.renewal.Ratio = 1 // is always due
		if first := p.leaf(t); p.leaf(t) != first {
			t.Error("renewed at once")
		}
	})
}

// shake is one handshake with the port; give is the caller's certificate.
func (p *testPort) shake(t *testing.T, give *identity.KeyPair) (client error, conn net.Conn, info credentials.AuthInfo, server error) {
	t.Helper()
	near, far := net.Pipe()
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}} // the port is tested, not its caller
	if give != nil {
		pair, err := tls.X509KeyPair(give.CertChain, give.Key)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	shaken := make(chan error, 1)
	go func() {
		c := tls.Client(near, config)
		err := c.HandshakeContext(t.Context())
		shaken <- err
		if err == nil {
			_, _ = io.Copy(io.Discard, c) // the goodbye
		}
		near.Close()
	}()
	conn, info, server = p.credentials().ServerHandshake(far)
	if server != nil {
		far.Close()
	}
	return <-shaken, conn, info, server
}

func TestHandshakesWaitForTheConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPort(t, newCA(t, identity.Options{}))
		done := make(chan error)
		go func() {
			_, conn, _, err := p.shake(t, nil)
			if err == nil {
				conn.Close()
			}
			done <- err
		}()
		time.Sleep(time.Minute)
		select {
		case err := <-done:
			t.Fatalf("ended before the configuration: %v", err)
		default:
		}
		close(p.configured)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestWhoHasVerifiedChains(t *testing.T) {
	ca, other := newCA(t, identity.Options{}), newCA(t, identity.Options{})
	issue := func(ca *identity.CA) *identity.KeyPair {
		pair, err := ca.Issue("spiffe://a.example/ns/shop/sa/cart", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return &pair
	}
	stolen := issue(ca)
	stolen.Key = issue(ca).Key
	for name, tc := range map[string]struct {
		give     *identity.KeyPair
		verified bool
	}{
		"its own": {issue(ca), true}, "none": {nil, false}, "of another CA": {issue(other), false},
	} {
		p := newTestPort(t, ca)
		close(p.configured)
		client, conn, info, err := p.shake(t, tc.give)
		if client != nil || err != nil {
			t.Fatalf("%s: %v, %v", name, client, err)
		}
		if n := len(info.(credentials.TLSInfo).State.VerifiedChains); n > 0 != tc.verified {
			t.Errorf("%s: %d chains", name, n)
		}
		if counted := p.strangers.all == 1; counted == tc.verified {
			t.Errorf("%s: %d strangers", name, p.strangers.all)
		}
		conn.Close()
		conn.Close()
		if p.strangers.all != 0 || len(p.strangers.by) != 0 {
			t.Errorf("%s: a closed connection is counted", name)
		}
	}
	if _, err := tls.X509KeyPair(stolen.CertChain, stolen.Key); err == nil {
		t.Error("crypto/tls takes another's certificate")
	}
}

// TestACertificateNeedsItsKey: a certificate is public, so that showing it
// proves nothing.
func TestACertificateNeedsItsKey(t *testing.T) {
	ca := newCA(t, identity.Options{})
	p := newTestPort(t, ca)
	close(p.configured)
	pair := func() tls.Certificate {
		issued, err := ca.Issue("spiffe://a.example/ns/shop/sa/cart", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.X509KeyPair(issued.CertChain, issued.Key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	stolen := pair()
	stolen.PrivateKey = pair().PrivateKey
	near, far := net.Pipe()
	go func() {
		c := tls.Client(near, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{stolen}})
		_ = c.HandshakeContext(t.Context()) // the server's answer counts
		near.Close()
	}()
	if _, _, err := p.credentials().ServerHandshake(far); err == nil || len(p.refused) != 1 || p.refused[0] != "handshake" {
		t.Errorf("%v, refused %v", err, p.refused)
	}
}

// pipe is a connection from an address.
type pipe struct {
	net.Conn
	from   string
	closed bool
}

func (p *pipe) RemoteAddr() net.Addr {
	a, _ := net.ResolveTCPAddr("tcp", p.from)
	return a
}

func (p *pipe) Close() error { p.closed = true; return nil }

func TestStrangersAreBounded(t *testing.T) {
	var s strangers
	var open []net.Conn
	from := func(address string) (*pipe, error) {
		p := &pipe{from: address}
		conn, err := s.admit(p)
		if err == nil {
			open = append(open, conn)
		}
		return p, err
	}
	for range mostOfOne {
		if _, err := from("192.0.2.1:1000"); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := from("192.0.2.1:2000"); !errors.Is(err, errStrangers) || !p.closed {
		t.Errorf("one more of the same address: %v, closed %v", err, p.closed)
	}
	for i := range mostStrangers - mostOfOne {
		address := net.JoinHostPort(net.IPv4(198, 51, byte(i>>8), byte(i)).String(), "1000")
		if _, err := from(address); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := from("203.0.113.1:1000"); !errors.Is(err, errStrangers) {
		t.Errorf("one more in all: %v", err)
	}
	for _, conn := range open {
		conn.Close()
	}
	if s.all != 0 || len(s.by) != 0 {
		t.Errorf("%d are counted of %d addresses", s.all, len(s.by))
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPort(t, newCA(t, identity.Options{Lifetimes: identity.Lifetimes{Max: time.Hour}}))
		ctx, cancel := context.WithCancel(t.Context())
		var times atomic.Int32
		done := make(chan struct{})
		go func() { defer close(done); p.Watch(ctx, func() { times.Add(1) }) }()
		wait := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		wait(time.Hour)
		if p.expires.Load() != 0 || times.Load() != 0 {
			t.Error("before the configuration")
		}
		close(p.configured)
		synctest.Wait()
		first := p.expires.Load()
		wait(10*time.Minute + time.Second)
		if times.Load() != 11 || p.expires.Load() != first {
			t.Errorf("called %d times, expires %v after %v", times.Load(), p.expires.Load(), first)
		}
		wait(25 * time.Minute)
		if p.expires.Load() <= first {
			t.Error("not renewed while nobody connects")
		}
		cancel()
		<-done
	})
}
