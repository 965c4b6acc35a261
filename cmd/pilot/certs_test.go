package main

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/inspect"
)

// certificates is a pair of a new CA.
func certificates(t *testing.T) identity.KeyPair {
	t.Helper()
	ca, err := identity.NewCA("root", 24*365*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue("spiffe://cluster.local/ns/shop/sa/cart", 19*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func TestCertsOfDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := (identity.Dir{Path: dir}).Publish(certificates(t)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"", exitOK, "18h59m left, renewal in 9h29m\n"},
		{"--fail-within 12h", exitOK, "1 holder, 0 errors, 0 warnings\nfirst outage if nothing is renewed: "},
		{"--fail-within 72h", exitFindings, "in 18h59m, " + dir + ": spiffe://cluster.local/ns/shop/sa/cart ends\n"},
		{"--workload-cert-grace-period-ratio 0.75", exitOK, "renewal in 4h44m\n"},
		{"--trust-domain other,more", exitFindings, "  error: its trust domain is cluster.local, not other or more [TRUST_DOMAIN]\n"},
		{"-o json", exitOK, `"identity": "spiffe://cluster.local/ns/shop/sa/cart"`},
	} {
		code, stdout, stderr := run(t, append([]string{"certs", dir}, strings.Fields(c.args)...)...)
		if code != c.code || stderr != "" || !strings.Contains(stdout, c.want) {
			t.Errorf("%s: exit %d, stderr %q, no %q in\n%s", c.args, code, stderr, c.want, stdout)
		}
	}
}

func TestCertsOfPEM(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(path, certificates(t).Roots, 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, _ := run(t, "certs", path, "--fail-within", "720h")
	if code != exitOK || !strings.Contains(stdout, "root  O=root  by itself  364 days left\n") {
		t.Errorf("exit %d\n%s", code, stdout)
	}
}

func secretYAML(namespace, account string, pair identity.KeyPair) string {
	text := fmt.Sprintf("kind: Secret\ntype: istio.io/key-and-cert\nmetadata:\n  name: istio.%s\n  namespace: %s\n"+
		"  annotations: {istio.io/service-account.name: %s}\ndata:\n", account, namespace, account)
	for name, content := range map[string][]byte{"cert-chain.pem": pair.CertChain, "key.pem": pair.Key, "root-cert.pem": pair.Roots} {
		text += "  " + name + ": " + base64.StdEncoding.EncodeToString(content) + "\n"
	}
	return text
}

func TestCertsOfSecrets(t *testing.T) {
	pair := certificates(t)
	good := secretYAML("shop", "cart", pair)
	list := "kind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(good), "\n", "\n  ") + "\n"
	for name, c := range map[string]struct {
		text string
		code int
		want string
	}{
		"several":      {"kind: Service\n---\n" + good + "---\n" + good, exitOK, "Secret shop/istio.cart\n  leaf  spiffe://cluster.local/ns/shop/sa/cart "},
		"list":         {list, exitOK, "1 holder, 0 errors, 0 warnings\n"},
		"of another":   {secretYAML("shop", "web", pair), exitFindings, "but must be for service account shop/web [IDENTITY]\n"},
		"none":         {"kind: Service\n", exitTrouble, "no Secret of type istio.io/key-and-cert or istio.io/ca-root in it"},
		"no YAML":      {"a: [", exitTrouble, "neither PEM nor YAML"},
		"no base64":    {"kind: Secret\nmetadata: {name: x}\ndata: {key.pem: SECRET*}\n", exitTrouble, "line 1: Secret x: data[key.pem] is not base64"},
		"not a Secret": {"kind: Secret\ndata: SECRET*\n", exitTrouble, "line 1: no object as Kubernetes has it"},
	} {
		path := filepath.Join(t.TempDir(), "secrets.yaml")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, stdout, stderr := run(t, "certs", path)
		if code != c.code || !strings.Contains(stdout+stderr, c.want) || strings.Contains(stdout+stderr, "SECRET*") {
			t.Errorf("%s: exit %d, no %q in\n%s%s", name, code, c.want, stdout, stderr)
		}
	}
}

func TestCertsOfServer(t *testing.T) {
	pair := certificates(t)
	parsed := func(text []byte) []*x509.Certificate {
		certs, err := identity.ParseCertificates(text)
		if err != nil {
			t.Fatal(err)
		}
		return certs
	}
	chain := parsed(pair.CertChain)
	held := []inspect.Public{
		inspect.Show("control plane", chain, parsed(pair.Roots)), inspect.Show("proxy shop/cart-1", chain, nil),
		inspect.Show("proxy shop/old", parsed(certificates(t).CertChain), nil),
	}
	pages := status.Pages{
		State:        func(context.Context) (status.State, error) { return status.State{}, nil },
		Certificates: func() []inspect.Public { return held },
	}
	server := httptest.NewServer(pages.Handler())
	defer server.Close()
	code, stdout, stderr := run(t, "certs", "--server", server.URL)
	for _, want := range []string{
		"control plane\n  leaf  spiffe://cluster.local/ns/shop/sa/cart  by O=root  18h59m left, renewal in 9h29m\n  root  O=root ",
		"proxy shop/cart-1\n  leaf  spiffe://cluster.local/ns/shop/sa/cart  by O=root  18h59m left\n\n",
		"proxy shop/old\n", "error: no given root has signed it: there is a root of the issuer's name", "3 holders, 1 error, 0 warnings\n",
	} {
		if code != exitFindings || stderr != "" || !strings.Contains(stdout, want) {
			t.Errorf("exit %d, stderr %q, no %q in\n%s", code, stderr, want, stdout)
		}
	}
	held = nil
	if code, _, stderr := run(t, "certs", "--server", server.URL); code != exitTrouble || stderr != "pilot: there are no certificates: plaintext xDS has none\n" {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// Nothing that is printed has a key in it.
func TestCertsPrintsNoKey(t *testing.T) {
	pair := certificates(t)
	body := strings.Split(string(pair.Key), "\n")[1][:20]
	swapped := pair
	swapped.CertChain, swapped.Key = pair.Key, pair.CertChain
	for _, p := range []identity.KeyPair{pair, swapped} {
		path := filepath.Join(t.TempDir(), "secrets.yaml")
		if err := os.WriteFile(path, []byte(secretYAML("shop", "cart", p)), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, output := range []string{"text", "json"} {
			if _, stdout, stderr := run(t, "certs", path, "-o", output); strings.Contains(stdout+stderr, body) {
				t.Errorf("a key is in\n%s%s", stdout, stderr)
			}
		}
	}
}

func TestCertsUsage(t *testing.T) {
	for args, want := range map[string]string{
		"certs":                               "Give a directory or file, or --server URL",
		"certs a --server http://127.0.0.1:1": "a and --server exclude each other",
		"certs x --workload-cert-grace-period-ratio 2": "workload cert grace period ratio 2 should be within [0, 1]",
		"certs /nowhere/at/all":                        "no such file or directory",
	} {
		if code, _, stderr := run(t, strings.Fields(args)...); code != exitTrouble || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %q", args, code, stderr)
		}
	}
	var report inspect.Report
	dir := t.TempDir()
	if err := (identity.Dir{Path: dir}).Publish(certificates(t)); err != nil {
		t.Fatal(err)
	}
	_, stdout, _ := run(t, "certs", dir, dir, "-o", "json")
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || len(report.Holders) != 2 {
		t.Errorf("%v, %+v", err, report)
	}
}
