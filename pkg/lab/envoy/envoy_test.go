package envoy

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestCountConnections(t *testing.T) {
	got := countConnections([]stat{
		{"cluster.outbound|9000||a.shop.svc.cluster.local.upstream_cx_total", 7},
		{"cluster.outbound|9000||a.shop.svc.cluster.local.ssl.handshake", 3},
		{"cluster.outbound|90||mixed.shop.svc.cluster.local.upstream_cx_total", 10},
		{"cluster.outbound|90||mixed.shop.svc.cluster.local.transport_socket_match.mesh.ssl.handshake", 4},
		{"cluster.inbound|9000||.upstream_cx_total", 5},
		{"cluster.xds-grpc.ssl.handshake", 1},
	})
	want := map[string]Connections{
		"outbound|9000||a.shop.svc.cluster.local":   {7, 3},
		"outbound|90||mixed.shop.svc.cluster.local": {10, 4},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// script stands for an Envoy: what matters here is how processes end.
func script(t *testing.T, text string) Spec {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return Spec{Name: "shop/cart", Binary: "/bin/sh", Args: []string{path}, Dir: dir}
}

func start(t *testing.T, s Spec) *Process {
	t.Helper()
	e, err := Start(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	return e
}

func nowhere(context.Context, string) (net.Conn, error) { return nil, os.ErrDeadlineExceeded }

func TestEarlyEndShowsTheLog(t *testing.T) {
	e := start(t, script(t, "for i in $(seq 30); do echo line $i >&2; done; exit 3"))
	err := e.WaitLive(t.Context(), NewAdmin("127.0.0.1:1", nowhere))
	if err == nil {
		t.Fatal("live")
	}
	for _, want := range []string{"shop/cart", "exit status 3", "line 30", "envoy.log"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "line 1\n") {
		t.Errorf("the whole log is in the error: %v", err)
	}
}

func TestStop(t *testing.T) {
	e := start(t, script(t, "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"))
	e.Stop()
	if err := e.Died(); err != nil {
		t.Errorf("stopped, yet: %v", err)
	}
	killed := start(t, script(t, "sleep 60"))
	if err := killed.process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := killed.Died(); err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("%v, want that it ended by itself", err)
	}
}

func TestWaitLive(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked < 3 {
			http.Error(w, "INITIALIZING", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("LIVE\n"))
	})}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Close() })
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}
	e := start(t, script(t, "sleep 60"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := e.WaitLive(ctx, NewAdmin(ln.Addr().String(), dial)); err != nil {
		t.Fatal(err)
	}
	if asked != 3 {
		t.Errorf("asked %d times, want until it is live", asked)
	}
}

// The cause of a crash stands before traces that are longer than the tail.
func TestTailHasTheCause(t *testing.T) {
	path := filepath.Join(t.TempDir(), "envoy.log")
	text := "[critical][assert] assert failure: inotify_fd_ >= 0.\n" + strings.Repeat("[critical][backtrace] #0\n", 100)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tailOf(path); !strings.HasPrefix(got, "    [critical][assert] assert failure: inotify_fd_ >= 0.\n") {
		t.Errorf("tail begins with %.80q", got)
	}
}
