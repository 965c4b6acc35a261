package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/secrets"
)

func TestCAFlagsRefuse(t *testing.T) {
	some := filepath.Join(t.TempDir(), "some.pem")
	for name, tc := range map[string]struct {
		args   []string
		stderr string
	}{
		"nothing":       {[]string{"--self-signed-ca=false"}, "pilot: no signing cert has been specified"},
		"no key":        {[]string{"--signing-cert", some}, "pilot: no signing key has been specified"},
		"no root":       {[]string{"--signing-cert", some, "--signing-key", some}, "pilot: no root cert has been specified"},
		"only the root": {[]string{"--root-cert", some}, "pilot: no signing cert has been specified"},
		"both":          {[]string{"--signing-cert", some, "--self-signed-ca"}, "pilot: --self-signed-ca and the files of another CA exclude each other"},
		"ratio":         {[]string{"--workload-cert-grace-period-ratio", "1.2"}, "pilot: workload cert grace period ratio 1.2 should be within [0, 1]"},
		"key type":      {[]string{"--key-type", "dsa"}, `pilot: --key-type: key type "dsa" is neither ecdsa nor rsa`},
		"no lifetime":   {[]string{"--workload-cert-ttl", "0s"}, "must be above 0"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{
				"serve", shop, "--state-dir", t.TempDir(), "--plaintext-address", "", "--tls-address", "127.0.0.1:0",
				"--metrics-address", "", "--http-address", "",
			}, tc.args...)
			code, _, stderr := run(t, args...)
			if code != exitTrouble || !strings.HasSuffix(strings.TrimSpace(stderr), tc.stderr) {
				t.Errorf("exit %d, stderr\n%s\nwant exit 2 and\n%s", code, stderr, tc.stderr)
			}
		})
	}
}

// TestTTLAboveMax: the control plane starts, says it loudly, and itself has a
// certificate; nobody else gets one.
func TestTTLAboveMax(t *testing.T) {
	state := t.TempDir()
	ttl := []string{"--workload-cert-ttl", "24h", "--max-workload-cert-ttl", "2h"}
	ports := serving(t, state, append(ttl, "--workload-cert-grace-period-ratio", "0.9")...)
	conn, err := tls.Dial("tcp", portOf(t, ports, "tls"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	args := append([]string{"bootstrap", shop, "shop/cart", "--out", filepath.Join(t.TempDir(), "proxy"), "--issue", "--state-dir", state}, ttl...)
	code, _, stderr := run(t, args...)
	if want := "requested TTL 24h0m0s is greater than the max allowed TTL 2h0m0s"; code != exitTrouble || !strings.Contains(stderr, want) {
		t.Errorf("exit %d, stderr %s, want %s", code, stderr, want)
	}
	problems, metrics := "http://"+portOf(t, ports, "http")+"/debug/problems?severity=error", "http://"+portOf(t, ports, "metrics")+"/metrics"
	for _, want := range []struct{ page, text string }{
		{problems, `"code": "TTL_ABOVE_MAX"`},
		{problems, "--workload-cert-ttl 24h0m0s is greater than --max-workload-cert-ttl 2h0m0s"},
		{metrics, `pilot_problems{code="TTL_ABOVE_MAX",severity="error"} 1`},
		{metrics, `pilot_certificates_total{code="OK"} 1`},
		{metrics, "pilot_root_certificate_expiry_timestamp_seconds 2."},
	} {
		shows(t, want.page, want.text)
	}
}

// shows polls a page until it holds a text.
func shows(t *testing.T, url, text string) {
	t.Helper()
	holds(t, url, func() string { return get(t, url) }, text)
}

func holds(t *testing.T, what string, read func() string, text string) {
	t.Helper()
	deadline, tick := time.After(10*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for found := read(); !strings.Contains(found, text); found = read() {
		select {
		case <-deadline:
			t.Fatalf("%s shows\n%s\nwant %s", what, found, text)
		case <-tick.C:
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestParseDNSNames(t *testing.T) {
	got, err := parseDNSNames("cart.shop:cart.example, my.cart.shop:my.example,cart.shop:cart.test")
	if err != nil {
		t.Fatal(err)
	}
	want := map[secrets.Account][]string{
		{Namespace: "shop", Name: "cart"}: {"cart.example", "cart.test"}, {Namespace: "shop", Name: "my.cart"}: {"my.example"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, bad := range []string{"cart.shop", "cart:cart.example", ".shop:x", "cart.:x", "cart.shop:", "cart.shop:a:b"} {
		if got, err := parseDNSNames(bad); err == nil {
			t.Errorf("%s: %v", bad, got)
		}
	}
}

// TestServeSecrets: every account gets a Secret with which port 15012 lets it
// in, and no page, metric or log line shows a key of anybody.
func TestServeSecrets(t *testing.T) {
	state, dir := t.TempDir(), filepath.Join(t.TempDir(), "secrets")
	var log lockedBuffer
	ports := servingTo(t, &log, shop, state, "--secrets-dir", dir)
	metrics, pages := "http://"+portOf(t, ports, "metrics")+"/metrics", "http://"+portOf(t, ports, "http")
	shows(t, metrics, "\npilot_secrets 3\n")

	certs := filepath.Join(dir, "shop", "istio.cart")
	pair, err := tls.LoadX509KeyPair(filepath.Join(certs, identity.CertChainFile), filepath.Join(certs, identity.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	text, err := os.ReadFile(filepath.Join(certs, identity.RootCertFile))
	if err != nil || !roots.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", portOf(t, ports, "tls"), &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "istiod.istio-system.svc", NextProtos: []string{"h2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	all := get(t, metrics)
	for _, page := range []string{"", "problems", "proxies", "edits", "config", "mtls", "explain?all=true", "check", "endpoints", "mesh"} {
		all += get(t, pages+"/debug/"+page)
	}
	all += log.String()
	for _, secret := range keyLines(t, state, dir) {
		if strings.Contains(all, secret) {
			t.Fatal("a key is shown")
		}
	}
	if !strings.Contains(all, "secrets of service accounts written") || !strings.Contains(all, "trustDomain") {
		t.Error("the log and the pages are not what they were")
	}
}

// TestTrustDomainFollows: an edit of the trust domain reaches the certificates
// of accounts and of the control plane without a restart.
func TestTrustDomainFollows(t *testing.T) {
	config := edited(t, nil)
	dir := filepath.Join(t.TempDir(), "secrets")
	ports := servingTo(t, io.Discard, config, t.TempDir(), "--secrets-dir", dir)
	shows(t, "http://"+portOf(t, ports, "metrics")+"/metrics", "\npilot_secrets 3\n")
	mesh := "authPolicy: NONE\ntrustDomain: mesh.example\ntrustDomainAliases: [cluster.local]\n"
	if err := os.WriteFile(filepath.Join(config, "mesh.yaml"), []byte(mesh), 0o600); err != nil {
		t.Fatal(err)
	}
	chain := filepath.Join(dir, "shop", "istio.cart", identity.CertChainFile)
	holds(t, chain, func() string {
		text, err := os.ReadFile(chain)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := identity.ParseCertificates(text)
		if err != nil {
			t.Fatal(err)
		}
		return certs[0].URIs[0].String()
	}, "spiffe://mesh.example/ns/shop/sa/cart")
	conn, err := tls.Dial("tcp", portOf(t, ports, "tls"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.ConnectionState().PeerCertificates[0].URIs[0].Host; got != "mesh.example" {
		t.Errorf("the control plane is of %s", got)
	}
}

// lockedBuffer is written and read by different goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// keyLines are the lines of all keys below some directories.
func keyLines(t *testing.T, dirs ...string) (lines []string) {
	t.Helper()
	keys := 0
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || !strings.HasSuffix(path, "key.pem") {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			block, _ := pem.Decode(text)
			if block == nil {
				return fmt.Errorf("%s holds no key", path)
			}
			keys++
			lines = append(lines, base64.StdEncoding.EncodeToString(block.Bytes)[:60], hex.EncodeToString(block.Bytes)[:60])
			for _, line := range strings.Split(string(text), "\n") {
				if line != "" && !strings.HasPrefix(line, "-----") {
					lines = append(lines, line)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if keys != 4 { // of the CA and three accounts
		t.Fatalf("%d keys found", keys)
	}
	return lines
}

func TestALooseKeyOfTheCA(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "ca-key.pem")
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true} {
		if err := errors.Join(os.WriteFile(key, nil, 0o600), os.Chmod(key, mode)); err != nil {
			t.Fatal(err)
		}
		for _, f := range []caFlags{{dir: dir}, {dir: "/nowhere", files: identity.Files{SigningKey: key}}} {
			var log strings.Builder
			f.warnLooseKey(newLog(&log))
			if got := strings.Contains(log.String(), "chmod 600"); got != want {
				t.Errorf("mode %o: %q", mode, log.String())
			}
		}
	}
}
