package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const joinToken = "a-token-of-this-test-only"

// joining is a control plane and a machine that belongs to its mesh.
type joining struct {
	config, state string // directories of the control plane
	tokens        string
	machine       string // the machine's directory
	admin         string // of its Envoy
}

// TestMachine: a plain machine joins by a token, once; its certificate is
// renewed from then on, also after the control plane was away; and Envoy, which
// the agent runs, takes each new one.
func TestMachine(t *testing.T) {
	j := newJoining(t)
	server, _ := j.serve(t)
	agent, out := j.agent(t, "--workload-cert-ttl", "16s", "--grace-period-ratio", "0.8",
		"--envoy-bootstrap", filepath.Join(j.machine, "envoy.json"), "--envoy-binary", *envoyFlag, "--", "--log-level", "warn")
	eventually(t, "Envoy is live", 20*time.Second, func() bool { return fetch(t, "http://"+j.admin+"/ready") == "LIVE\n" }, out)
	first := j.leaf(t)
	if uri := first.URIs[0].String(); uri != "spiffe://cluster.local/ns/bookinfo/sa/details" {
		t.Errorf("identity %s", uri)
	}

	// Nobody has the token any more.
	if err := os.Remove(filepath.Join(j.machine, "token")); err != nil {
		t.Fatal(err)
	}
	write(t, j.tokens, "")
	before := j.renewed(t, first, out)
	j.envoyHas(t, before, out)

	stop(t, server)
	eventually(t, "a renewal fails", 10*time.Second, func() bool { return strings.Contains(out.String(), "retry_in=5s") }, out)
	server, _ = j.serve(t)
	after := j.renewed(t, before, out)
	if left := before.NotAfter.Sub(after.NotBefore.Add(2 * time.Minute)); left < time.Second {
		t.Errorf("the next certificate came %s before the end of the last", left)
	}
	j.envoyHas(t, after, out)
	if n := strings.Count(out.String(), "Envoy started"); n != 1 {
		t.Errorf("Envoy started %d times", n)
	}

	stop(t, agent)
	if fetch(t, "http://"+j.admin+"/ready") != "" {
		t.Error("Envoy outlives its agent")
	}
	j.refused(t)
	stop(t, server)
}

// refused: a lifetime above the maximum is told word for word, and leaves the
// files alone.
func (j joining) refused(t *testing.T) {
	t.Helper()
	before := j.leaf(t)
	agent, out := j.agent(t, "--workload-cert-ttl", "200h")
	const text = "requested TTL 200h0m0s is greater than the max allowed TTL 168h0m0s"
	eventually(t, text, 5*time.Second, func() bool { return strings.Contains(out.String(), text) }, out)
	if !j.leaf(t).Equal(before) {
		t.Error("the files changed")
	}
	stop(t, agent)
}

func newJoining(t *testing.T) joining {
	t.Helper()
	dir, err := os.MkdirTemp(home, "machine-")
	if err != nil {
		t.Fatal(err)
	}
	j := joining{
		config: bookinfo(t), state: filepath.Join(dir, "state"), tokens: filepath.Join(dir, "tokens"),
		machine: filepath.Join(dir, "machine"), admin: "127.0.0.1:" + freePort(t),
	}
	_, port, _ := net.SplitHostPort(j.admin)
	// It makes the CA too, and a certificate that the agent is to get itself.
	cmd := exec.Command(pilot, "bootstrap", j.config, "bookinfo/details-v1", "--interception-mode", "NONE", "--issue",
		"--state-dir", j.state, "--out", j.machine, "--discovery-address", j.address(), "--admin-port", port)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.RemoveAll(j.certs()); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(j.certs(), 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(j.state, "ca-cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{
		filepath.Join(j.certs(), "root-cert.pem"): string(root),
		filepath.Join(j.machine, "token"):         joinToken + "\n",
		j.tokens:                                  joinToken + " bookinfo/details\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return j
}

func (j joining) certs() string { return filepath.Join(j.machine, "certs") }

func (j joining) address() string { return controlAddress() + ":15012" }

// serve starts the control plane and waits for its ports.
func (j joining) serve(t *testing.T) (*exec.Cmd, *output) {
	t.Helper()
	cmd, out := process(t, "serve", j.config, "--state-dir", j.state, "--bootstrap-tokens", j.tokens,
		"--tls-address", j.address(), "--plaintext-address", "", "--metrics-address", "", "--http-address", "")
	eventually(t, "the control plane serves", 10*time.Second, func() bool { return strings.Contains(out.String(), "msg=serving") }, out)
	return cmd, out
}

func (j joining) agent(t *testing.T, args ...string) (*exec.Cmd, *output) {
	t.Helper()
	certs := j.certs()
	return process(t, append([]string{
		"node-agent", "--ca-address", j.address(), "--token", filepath.Join(j.machine, "token"),
		"--cert-chain", certs + "/cert-chain.pem", "--key", certs + "/key.pem", "--root-cert", certs + "/root-cert.pem",
	}, args...)...)
}

// leaf is the machine's certificate, which must fit the key and be valid.
func (j joining) leaf(t *testing.T) *x509.Certificate {
	t.Helper()
	data := j.certs() + "/..data"
	pair, err := tls.LoadX509KeyPair(data+"/cert-chain.pem", data+"/key.pem")
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(pair.Leaf.NotAfter); left < 0 {
		t.Fatalf("the machine's certificate is over since %s", -left)
	}
	return pair.Leaf
}

func (j joining) renewed(t *testing.T, from *x509.Certificate, out *output) *x509.Certificate {
	t.Helper()
	eventually(t, "a renewal", 15*time.Second, func() bool { return !j.leaf(t).Equal(from) }, out)
	return j.leaf(t)
}

// envoyHas waits until Envoy shows no other certificate than the leaf, or a
// later one.
func (j joining) envoyHas(t *testing.T, leaf *x509.Certificate, out *output) {
	t.Helper()
	eventually(t, "Envoy takes the certificate", 5*time.Second, func() bool {
		var answer struct {
			Certificates []struct {
				Chain []struct {
					Expiry time.Time `json:"expiration_time"`
				} `json:"cert_chain"`
			} `json:"certificates"`
		}
		if err := json.Unmarshal([]byte(fetch(t, "http://"+j.admin+"/certs")), &answer); err != nil {
			t.Fatal(err)
		}
		chains := 0
		for _, c := range answer.Certificates {
			for _, leafOf := range c.Chain {
				if leafOf.Expiry.Before(leaf.NotAfter) {
					return false
				}
				chains++
			}
		}
		return chains > 0
	}, out)
}

// process is a pilot of its own, which ends with the test.
func process(t *testing.T, args ...string) (*exec.Cmd, *output) {
	t.Helper()
	out := new(output)
	cmd := exec.Command(pilot, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill() // the test failed before it stopped it
			_ = cmd.Wait()
		}
		if t.Failed() {
			t.Logf("pilot %s:\n%s", args[0], out)
		}
	})
	return cmd, out
}

// stop asks for the end, and wants it without an error.
func stop(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v", cmd.Args[1], err)
	}
}

// fetch is empty while nobody answers.
func fetch(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}
