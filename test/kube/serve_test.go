package kube

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/meshpilot/pilot/internal/kubetest"
)

// The command itself: not ready without the API server, ready with it, and an
// edit of the ConfigMap is in force within a moment; its log is in one format.
func TestServe(t *testing.T) {
	c := kubetest.Start(t, kubetest.Options{})
	c.Namespace(t, "mesh", nil)
	settings(t, c, "mesh", "authPolicy: NONE\n")
	relay := c.Relay(t)
	relay.Refuse(true)
	cmd := exec.Command(programs.Pilot, "serve", "--kubeconfig", kubetest.Kubeconfig(t, relay.Config(c.Config()), ""), "--control-plane-namespace", "mesh",
		"--state-dir", t.TempDir(), "--plaintext-address", "127.0.0.1:0", "--tls-address", "", "--webhook-address", "", "--metrics-address", "", "--http-address", "127.0.0.1:0")
	log := &textLog{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("pilot serve ends with %v", err)
		}
		for line := range strings.Lines(log.String()) {
			if !strings.HasPrefix(line, "time=") {
				t.Errorf("a line that is not in the log's format: %s", line)
			}
		}
		if t.Failed() {
			t.Logf("its log:\n%s", log.String())
		}
	})
	page := func(path string) (int, string, error) {
		at := regexp.MustCompile(`http=(127\S+)`).FindStringSubmatch(log.String())
		if at == nil {
			return 0, "", fmt.Errorf("it does not serve yet")
		}
		resp, err := http.Get("http://" + at[1] + path)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body), err
	}
	shows := func(what, path string, status int, text string) {
		t.Helper()
		eventually(t, what, func() error {
			got, body, err := page(path)
			if err == nil && (got != status || !strings.Contains(body, text)) {
				err = fmt.Errorf("%s: %d %s", path, got, body)
			}
			return err
		})
	}
	shows("the API server refuses", "/readyz", http.StatusServiceUnavailable, "no complete configuration was read yet")
	eventually(t, "the log says so", func() error {
		if !strings.Contains(log.String(), "the Kubernetes API cannot be followed") {
			return fmt.Errorf("log: %s", log.String())
		}
		return nil
	})
	relay.Refuse(false)
	shows("it answers", "/readyz", http.StatusOK, "")
	settings(t, c, "mesh", "authPolicy: MUTUAL_TLS\n")
	shows("an edit", "/debug/mesh", http.StatusOK, "MUTUAL_TLS")
}
