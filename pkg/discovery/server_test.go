package discovery

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/meshconfig"
)

// memory is a source that publishes one bundle, or fails.
type memory struct {
	bundle meshconfig.Bundle
	err    error
}

func (m memory) Run(ctx context.Context, publish func(meshconfig.Bundle, []meshconfig.Problem)) error {
	if m.err != nil {
		return m.err
	}
	publish(m.bundle, nil)
	<-ctx.Done()
	return nil
}

func local(source meshconfig.Source) Options {
	const free = "127.0.0.1:0"
	return Options{
		Source: source, PlaintextAddress: free, MetricsAddress: free, HTTPAddress: free,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

// running serves until the test's end, which demands a clean stop.
func running(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	cancel := func() { stop(errors.New("a signal")) } // as signal.NotifyContext does
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(2 * stopTime):
			t.Error("does not stop")
		}
	})
	return s
}

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

// eventually polls what has no event to wait for.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("never " + what)
		case <-tick.C:
		}
	}
}

func TestServer(t *testing.T) {
	s := running(t, local(memory{bundle: bundle(t, shop, strings.ReplaceAll(strictCart, "name: cart", "name: card"))}))
	pages := "http://" + s.Addresses().HTTP
	eventually(t, "ready", func() bool { code, _ := fetch(t, pages+"/readyz"); return code == 200 })
	if code, body := fetch(t, pages+"/debug/mesh"); code != 200 || !strings.Contains(body, `"source": "built-in defaults"`) {
		t.Errorf("mesh: got %d %s", code, body)
	}
	eventually(t, "done", func() bool { e := s.Edits(); return len(e) == 1 && e[0].Done })
	code, body := fetch(t, "http://"+s.Addresses().Metrics+"/metrics")
	if code != 200 || !strings.Contains(body, "\npilot_edits_total 1\n") || !strings.Contains(body, `pilot_problems{code="NO_SERVICE",severity="warning"} 1`) {
		t.Errorf("metrics: got %d %s", code, body)
	}
	if s.Addresses().TLS != "" {
		t.Errorf("TLS at %s", s.Addresses().TLS)
	}
}

// mute is a source that has nothing yet.
type mute struct{}

func (mute) Run(ctx context.Context, _ func(meshconfig.Bundle, []meshconfig.Problem)) error {
	<-ctx.Done()
	return nil
}

func TestServerIsNotReadyBeforeItsSource(t *testing.T) {
	s := running(t, local(mute{}))
	if code, body := fetch(t, "http://"+s.Addresses().HTTP+"/readyz"); code != 503 || !strings.Contains(body, "no complete configuration") {
		t.Errorf("got %d %s", code, body)
	}
}

func TestServerEndsWithItsSource(t *testing.T) {
	refused := errors.New("two errors")
	err := Run(t.Context(), local(memory{err: refused}))
	if !errors.Is(err, refused) {
		t.Errorf("got %v, want what the source says", err)
	}
}

func TestListenRefuses(t *testing.T) {
	ca, err := identity.New(identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	cases := []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"port in use", func(o *Options) { o.HTTPAddress = address },
			address + " is in use by another program; stop it, or choose another address with --http-address"},
		{"no address", func(o *Options) { o.MetricsAddress = "metrics" }, "cannot listen on metrics (--metrics-address)"},
		{"plaintext for all", func(o *Options) { o.PlaintextAddress = ":0" }, "allow it with --plaintext-remote"},
		{"no CA", func(o *Options) { o.TLSAddress = "127.0.0.1:0" }, "127.0.0.1:0 needs a CA"},
		{"tokens for nothing", func(o *Options) { o.BootstrapTokens = "tokens" }, "--bootstrap-tokens needs --tls-address"},
		{"no file of tokens", func(o *Options) { o.TLSAddress, o.CA, o.BootstrapTokens = "127.0.0.1:0", ca, "absent" }, "--bootstrap-tokens: open absent: no such file"},
		{"no source", func(o *Options) { o.Source = nil }, "no source of configuration"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o := local(mute{})
			c.change(&o)
			if _, err := Listen(o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	o := local(mute{})
	o.PlaintextAddress, o.PlaintextRemote = "0.0.0.0:0", true
	s, err := Listen(o)
	if err != nil {
		t.Fatalf("told so: %v", err)
	}
	s.closePorts()
}

// TestPlaintextWarns: who opens xDS without TLS to other machines is told
// what that means, each time; on loopback nothing is said.
func TestPlaintextWarns(t *testing.T) {
	for address, warns := range map[string]bool{"127.0.0.1:0": false, "0.0.0.0:0": true} {
		var log bytes.Buffer
		o := local(memory{bundle: bundle(t, shop)})
		o.PlaintextAddress, o.PlaintextRemote = address, true
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		s, err := Listen(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // it stops as soon as it serves
		if err := s.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(log.String(), "open to other machines"); got != warns {
			t.Errorf("%s: warned %v, want %v\n%s", address, got, warns, log.String())
		}
	}
}
