package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	deadline, tick := time.After(10*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for page := ""; !strings.Contains(page, text); page = get(t, url) {
		select {
		case <-deadline:
			t.Fatalf("%s shows\n%s\nwant %s", url, page, text)
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
