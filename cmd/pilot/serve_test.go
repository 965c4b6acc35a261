package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/identity"
)

// serving starts the command with any free ports and gives the log line that
// names them.
func serving(t *testing.T, state string, more ...string) (ports string) {
	t.Helper()
	return servingTo(t, io.Discard, shop, state, more...)
}

// servingTo serves any directory, and its log goes on to w.
func servingTo(t *testing.T, w io.Writer, dir, state string, more ...string) (ports string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	stderr, log := io.Pipe()
	code := make(chan int)
	go func() {
		c := execute(ctx, append([]string{
			"serve", dir, "--state-dir", state, "--plaintext-address", "127.0.0.1:0", "--tls-address", "127.0.0.1:0",
			"--metrics-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0",
		}, more...), io.Discard, log)
		log.Close()
		code <- c
	}()
	t.Cleanup(func() {
		stop()
		if c := <-code; c != exitOK {
			t.Errorf("serve ended with exit code %d", c)
		}
	})
	lines := bufio.NewScanner(io.TeeReader(stderr, w))
	for lines.Scan() {
		if strings.Contains(lines.Text(), "msg=serving") {
			go io.Copy(w, stderr)
			return lines.Text()
		}
	}
	t.Fatal("serve ended without serving")
	return ""
}

func portOf(t *testing.T, ports, name string) string {
	t.Helper()
	m := regexp.MustCompile(name + `=(127\.0\.0\.1:\d+)`).FindStringSubmatch(ports)
	if m == nil {
		t.Fatalf("no %s in %q", name, ports)
	}
	return m[1]
}

// TestServe: all ports answer, and port 15012 takes a certificate that
// bootstrap --issue made from the same state directory.
func TestServe(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	ports := serving(t, state)
	for name, path := range map[string]string{"metrics": "/metrics", "http": "/debug/problems"} {
		resp, err := http.Get("http://" + portOf(t, ports, name) + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}

	out := filepath.Join(t.TempDir(), "proxy")
	if code, _, stderr := run(t, "bootstrap", shop, "shop/cart", "--out", out, "--issue", "--state-dir", state); code != exitOK {
		t.Fatal(stderr)
	}
	certs := filepath.Join(out, "certs")
	pair, err := tls.LoadX509KeyPair(filepath.Join(certs, identity.CertChainFile), filepath.Join(certs, identity.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(certs, identity.RootCertFile))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	conn, err := tls.Dial("tcp", portOf(t, ports, "tls"), &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "istiod.istio-system.svc", NextProtos: []string{"h2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.ConnectionState().PeerCertificates[0].URIs; len(got) != 1 || got[0].String() != identity.ControlPlaneURI("cluster.local", "istio-system") {
		t.Errorf("the control plane shows %v", got)
	}
	boot, err := os.ReadFile(filepath.Join(out, bootstrapFile))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(boot, []byte(filepath.Join(certs, identity.KeyFile))) {
		t.Error("the bootstrap's node does not name the issued key")
	}
}

func TestServeRefuses(t *testing.T) {
	state := t.TempDir()
	bad := broken(t)
	if err := os.WriteFile(filepath.Join(state, "ca-key.pem"), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name   string
		args   []string
		stderr string
	}{
		{"errors", []string{bad}, "pilot: " + bad + " has 2 errors"},
		{"errors without TLS", []string{bad, "--tls-address", ""}, "unknown field \"conectTimeout\", did you mean \"connectTimeout\"?"},
		{"broken CA", []string{shop, "--state-dir", state}, "pilot: --state-dir: there is " + state + "/ca-key.pem, but no " + state +
			"/ca-cert.pem: bring it back; or move the other away for a new CA, which no proxy trusts yet"},
		{"plaintext to all", []string{shop, "--plaintext-address", ":0", "--tls-address", ""}, "or allow it with --plaintext-remote"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"serve", "--plaintext-address", "127.0.0.1:0", "--metrics-address", "", "--http-address", ""}, c.args...)
			code, _, stderr := run(t, args...)
			if code != exitTrouble || !strings.HasSuffix(strings.TrimSpace(stderr), c.stderr) {
				t.Errorf("exit %d, stderr\n%s\nwant exit 2 and\n%s", code, stderr, c.stderr)
			}
		})
	}
}
