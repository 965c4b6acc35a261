package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

// countingListener counts accepted connections.
type countingListener struct {
	net.Listener
	accepted *atomic.Int32
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return conn, err
}

func listen(t *testing.T) (net.Listener, *atomic.Int32) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := new(atomic.Int32)
	return countingListener{ln, accepted}, accepted
}

func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}

func start(t *testing.T, name string, ln net.Listener, p model.Protocol) {
	t.Helper()
	server := NewServer(name, nil)
	if err := server.Serve(ln, p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestEveryProtocolAnswers(t *testing.T) {
	for _, p := range []model.Protocol{model.TCP, model.HTTP, model.HTTP2, model.GRPC, model.HTTPS, model.TLS, model.Mongo, model.Redis, model.MySQL} {
		t.Run(p.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			ln, accepted := listen(t)
			start(t, "cart", ln, p)
			target := Target{Host: "cart.shop", Port: 80, Protocol: p, Address: ln.Addr().String()}
			client := NewClient("web", target, dialTCP, "")
			t.Cleanup(client.Close)
			for _, keepAlive := range []bool{true, true, true, false, false} {
				echo, err := client.Call(ctx, keepAlive)
				if err != nil {
					t.Fatal(err)
				}
				if echo.Name != "cart" || echo.Body != "web" {
					t.Errorf("answer %+v, want cart to have got web", echo)
				}
				if p.IsHTTP() && echo.Host != "cart.shop:80" {
					t.Errorf("host %q", echo.Host)
				}
			}
			if got := accepted.Load(); got != 3 {
				t.Errorf("%d connections, want 1 kept and 2 of their own", got)
			}
		})
	}
}

func TestAnswerNamesThePeer(t *testing.T) {
	for xfcc, want := range map[string][2]string{
		"": {},
		"By=spiffe://d/ns/a/sa/cart;Hash=0f;URI=spiffe://d/ns/a/sa/web":        {"spiffe://d/ns/a/sa/web", "0f"},
		`Hash=1;URI=spiffe://d/ns/a/sa/edge,Hash=2;URI="spiffe://d/ns/b/sa/x"`: {"spiffe://d/ns/b/sa/x", "2"},
		"By=spiffe://d/ns/a/sa/cart":                                           {},
	} {
		if got := [2]string{peerOf(xfcc, "URI"), peerOf(xfcc, "Hash")}; got != want {
			t.Errorf("%q: %q, want %q", xfcc, got, want)
		}
	}
}

// A refused call is made once, and its error says why.
func TestRefusals(t *testing.T) {
	var calls atomic.Int32
	refuse := func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if strings.HasPrefix(r.Header.Get("Content-Type"), grpcContentType) {
			w.Header().Set("Content-Type", grpcContentType)
			w.Header().Set("Grpc-Status", "7")
			w.Header().Set("Grpc-Message", "plaintext refused")
			return
		}
		http.Error(w, "plaintext refused", http.StatusForbidden)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	ln, _ := listen(t)
	server := &http.Server{Handler: http.HandlerFunc(refuse), Protocols: protocols}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Close() })
	for p, want := range map[model.Protocol]string{
		model.HTTP:  "status 403: plaintext refused",
		model.HTTP2: "status 403: plaintext refused",
		model.GRPC:  "grpc-status 7: plaintext refused",
	} {
		calls.Store(0)
		client := NewClient("web", Target{Host: "cart", Port: 80, Protocol: p, Address: ln.Addr().String()}, dialTCP, "")
		_, err := client.Call(t.Context(), true)
		client.Close()
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", p, err, want)
		}
		if got := calls.Load(); got != 1 {
			t.Errorf("%s: called %d times", p, got)
		}
	}
}

// A kept connection that the server closes costs the call that was on it, and
// is never repaired silently.
func TestBrokenConnectionIsAFailure(t *testing.T) {
	for _, p := range []model.Protocol{model.HTTP, model.HTTP2, model.TCP} {
		ln, accepted := listen(t)
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				one := make([]byte, 1)
				_, _ = conn.Read(one)
				conn.Close()
			}
		}()
		client := NewClient("web", Target{Host: "cart", Port: 80, Protocol: p, Address: ln.Addr().String()}, dialTCP, "")
		if _, err := client.Call(t.Context(), true); err == nil {
			t.Errorf("%s: no error", p)
		}
		client.Close()
		ln.Close()
		if got := accepted.Load(); got != 1 {
			t.Errorf("%s: %d connections for one call", p, got)
		}
	}
}

// TLS that arrives on any port is answered, and told.
func TestAnswerTellsOfTLS(t *testing.T) {
	for _, p := range []model.Protocol{model.TCP, model.HTTP, model.GRPC} {
		ln, _ := listen(t)
		start(t, "cart", ln, p)
		config := &tls.Config{InsecureSkipVerify: true}
		dial := Secured(dialTCP, config)
		client := NewClient("web", Target{Host: "cart", Port: 80, Protocol: p, Address: ln.Addr().String()}, dial, "")
		echo, err := client.Call(t.Context(), false)
		client.Close()
		if err != nil || echo.TLS != 1 || echo.Name != "cart" {
			t.Errorf("%s: %+v, %v; want one layer at cart", p, echo, err)
		}
	}
}

// An application that speaks nothing but TLS closes what else arrives, and
// presents the certificate that it was given.
func TestServeTLS(t *testing.T) {
	cert, err := ownCertificate("partner")
	if err != nil {
		t.Fatal(err)
	}
	ln, _ := listen(t)
	server := NewServer("cart", &cert)
	if err := server.ServeTLS(ln); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	presented := false
	config := &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		presented = bytes.Equal(s.PeerCertificates[0].Raw, cert.Certificate[0])
		return nil
	}}
	for _, c := range []struct {
		name     string
		protocol model.Protocol
		dial     Dial
		works    bool
	}{
		{"TLS", model.HTTP, Secured(dialTCP, config), true},
		{"plaintext", model.HTTP, dialTCP, false},
		{"TLS in TLS", model.HTTPS, Secured(dialTCP, config), false},
	} {
		client := NewClient("web", Target{Host: "cart", Port: 443, Protocol: c.protocol, Address: ln.Addr().String()}, c.dial, "")
		echo, err := client.Call(t.Context(), false)
		client.Close()
		if (err == nil) != c.works || c.works && echo.TLS != 1 {
			t.Errorf("%s: %+v, %v; works should be %t", c.name, echo, err, c.works)
		}
	}
	if !presented {
		t.Error("another certificate was presented")
	}
}

func TestLongAndSlow(t *testing.T) {
	for _, p := range []model.Protocol{model.TCP, model.HTTP, model.HTTP2, model.GRPC, model.HTTPS, model.TLS, model.MySQL} {
		t.Run(p.String(), func(t *testing.T) {
			ln, _ := listen(t)
			start(t, "cart", ln, p)
			client := NewClient("web", Target{Host: "cart", Port: 80, Protocol: p, Address: ln.Addr().String()}, dialTCP, "")
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if p.IsHTTP() {
				begin := time.Now()
				if echo, err := client.Slow(ctx, 50*time.Millisecond); err != nil || echo.Name != "cart" || time.Since(begin) < 50*time.Millisecond {
					t.Errorf("%v, %v after %s", echo, err, time.Since(begin))
				}
			}
			long, err := client.Long(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if p == model.HTTP {
				if long != nil {
					t.Error("HTTP/1.1 has something long")
				}
				return
			}
			for _, text := range []string{"one", "two", "three"} {
				if err := long.Echo(ctx, text); err != nil {
					t.Fatal(err)
				}
			}
			long.Close()
			if err := long.Echo(ctx, "four"); err == nil {
				t.Error("answered although it is closed")
			}
		})
	}
}

// A stream that is refused in trailers only, as Envoy refuses gRPC, was never
// open.
func TestLongStreamRefused(t *testing.T) {
	ln, _ := listen(t)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { refuseGRPC(w, errors.New("nobody there")) })}
	go func() { _ = server.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	client := NewClient("web", Target{Host: "cart", Port: 80, Protocol: model.GRPC, Address: ln.Addr().String()}, dialTCP, "")
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if long, err := client.Long(ctx); err == nil || !strings.Contains(err.Error(), "nobody there") {
		t.Errorf("%v, %v", long, err)
	}
}

// Who finds a kept connection closed is told since when it may be.
func TestKeptLinesCut(t *testing.T) {
	ln, _ := listen(t)
	server := NewServer("cart", nil)
	if err := server.Serve(ln, model.TCP); err != nil {
		t.Fatal(err)
	}
	client := NewClient("web", Target{Host: "cart", Port: 90, Protocol: model.TCP, Address: ln.Addr().String()}, dialTCP, "")
	defer client.Close()
	if _, err := client.Call(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	answered := time.Now()
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := client.Call(t.Context(), true)
	var cut *CutError
	if !errors.As(err, &cut) || cut.Used.After(answered) || cut.Error() == "" {
		t.Errorf("%v", err)
	}
	if _, err := client.Call(t.Context(), true); err == nil || errors.As(err, &cut) {
		t.Errorf("a connection that was never open: %v", err)
	}
}
