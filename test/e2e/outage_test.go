package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	statuspage "github.com/meshpilot/pilot/pkg/discovery/status"
)

// outage is a control plane in a process of its own, and the Envoy of
// details, which takes plaintext for an application of the test.
type outage struct {
	config, state, sidecar string // directories
	host                   string // address of details
}

// TestEvidenceOutlivesTheControlPlane: a control plane that is killed costs no
// request, and the one that follows says since when its evidence has no gap.
func TestEvidenceOutlivesTheControlPlane(t *testing.T) {
	dir, err := os.MkdirTemp(home, "outage-")
	if err != nil {
		t.Fatal(err)
	}
	o := outage{config: bookinfo(t), state: filepath.Join(dir, "state"), sidecar: filepath.Join(dir, "sidecar"), host: network() + ".12"}
	o.application(t)
	envoy := o.envoy(t)
	server := o.serve(t)
	eventually(t, "details answers", 20*time.Second, func() bool { return fetch(t, "http://"+o.host+":9080/") == "here" }, envoy)

	calls := load(t, "http://"+o.host+":9080/")
	page := func() statuspage.Traffic { return o.page(t) }
	eventually(t, "evidence", 10*time.Second, func() bool { return page().Complete && len(page().Ports) > 0 && page().Ports[0].Plain.Open > 0 }, envoy)
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = server.Wait() // it was killed
	time.Sleep(4 * time.Second)
	again := time.Now()
	server = o.serve(t)
	eventually(t, "evidence again", 20*time.Second, func() bool { return page().Complete && len(page().Ports) > 0 && len(page().Ports[0].Peers) > 0 }, envoy)
	t.Logf("evidence is complete %d ms after the control plane began again", time.Since(again).Milliseconds())
	if got := page(); got.StatsSince.Before(again) || got.LogsSince.Before(again) {
		t.Errorf("the gap is not told: logs since %s, stats since %s, the control plane since %s", got.LogsSince, got.StatsSince, again)
	}
	failed, all := calls()
	t.Logf("%d of %d requests failed", failed, all)
	if failed > 0 || all < 1000 {
		t.Errorf("%d of %d requests failed", failed, all)
	}
	stop(t, server)
}

// application answers behind details' Envoy.
func (o outage) application(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", network()+".112:9080")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "here") })}
	go func() { _ = server.Serve(l) }() // until it is closed
	t.Cleanup(func() { _ = server.Close() })
}

// envoy starts details' sidecar, which does not capture and finds its
// application at another address.
func (o outage) envoy(t *testing.T) *output {
	t.Helper()
	cmd := exec.Command(pilot, "bootstrap", o.config, "bookinfo/details-v1", "--interception-mode", "NONE", "--issue", "--stats-interval", "1s",
		"--state-dir", o.state, "--out", o.sidecar, "--discovery-address", controlAddress()+":15012", "--admin-port", freePort(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	path := filepath.Join(o.sidecar, "envoy.json")
	boot, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const mode = `"INTERCEPTION_MODE": "NONE"`
	text := strings.Replace(string(boot), mode, mode+`, "APP_ADDRESS": "`+network()+`.112"`, 1)
	if text == string(boot) {
		t.Fatalf("no interception mode in %s", boot)
	}
	write(t, path, text)
	out := new(output)
	envoy := exec.Command(*envoyFlag, "-c", path, "--disable-hot-restart", "--concurrency", "2", "--log-level", "warning")
	envoy.Stdout, envoy.Stderr = out, out
	envoy.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := envoy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = envoy.Process.Kill()
		_ = envoy.Wait() // it was killed
	})
	return out
}

func (o outage) serve(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd, out := process(t, "serve", o.config, "--state-dir", o.state,
		"--tls-address", controlAddress()+":15012", "--plaintext-address", "", "--metrics-address", "", "--http-address", controlAddress()+":8080")
	eventually(t, "the control plane serves", 10*time.Second, func() bool { return strings.Contains(out.String(), "msg=serving") }, out)
	return cmd
}

func (o outage) page(t *testing.T) statuspage.Traffic {
	t.Helper()
	var out []statuspage.Traffic
	if json.Unmarshal([]byte(fetch(t, "http://"+controlAddress()+":8080/debug/traffic?workload=bookinfo/details-v1")), &out) != nil || len(out) == 0 {
		return statuspage.Traffic{} // nothing was told yet
	}
	return out[0]
}

// load calls on kept connections and on new ones, until it is asked how many
// calls failed.
func load(t *testing.T, url string) (end func() (failed, all int64)) {
	t.Helper()
	var failed, all atomic.Int64
	stopping := make(chan struct{})
	var callers sync.WaitGroup
	for i := range 8 {
		transport := &http.Transport{DisableKeepAlives: i%2 == 0}
		client := http.Client{Transport: transport, Timeout: 5 * time.Second}
		callers.Go(func() {
			defer transport.CloseIdleConnections()
			for tick := time.NewTicker(10 * time.Millisecond); ; {
				select {
				case <-stopping:
					return
				case <-tick.C:
				}
				all.Add(1)
				answer, err := client.Get(url)
				if err != nil {
					failed.Add(1)
					continue
				}
				if body, err := io.ReadAll(answer.Body); err != nil || string(body) != "here" {
					failed.Add(1)
				}
				_ = answer.Body.Close()
			}
		})
	}
	return func() (int64, int64) {
		close(stopping)
		callers.Wait()
		return failed.Load(), all.Load()
	}
}
