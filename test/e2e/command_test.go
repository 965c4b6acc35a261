package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/lab"
)

// output collects what a command prints, while it runs.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// labCommand is "pilot lab DIR", on addresses of this process's own.
func labCommand(dir string, args ...string) (*exec.Cmd, *output) {
	out := new(output)
	cmd := exec.Command(pilot, append([]string{"lab", dir, "--envoy", *envoyFlag, "--addr", controlAddress()}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, out
}

// startLab starts it and waits until traffic flows.
func startLab(t *testing.T, cmd *exec.Cmd, out *output) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // usually gone
		_ = cmd.Wait()
	})
	eventually(t, "traffic", time.Minute, func() bool {
		return strings.Contains(out.String(), "Envoys are live")
	}, out)
}

func eventually(t *testing.T, what string, limit time.Duration, done func() bool, out *output) {
	t.Helper()
	for start := time.Now(); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > limit {
			t.Fatalf("%s: not within %s\n%s", what, limit, out)
		}
	}
}

func readReport(t *testing.T, path string) lab.Report {
	t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var report lab.Report
	if err := json.Unmarshal(body, &report); err != nil {
		t.Fatal(err)
	}
	return report
}

func TestForAndReport(t *testing.T) {
	before := interfaces(t)
	path := filepath.Join(t.TempDir(), "report.json")
	cmd, out := labCommand(bookinfo(t), "--for", "2s", "--report", path)
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r := readReport(t, path)
	if r.Envoys != 5 || r.NACKs != 0 || r.Totals.Failed != 0 || r.Totals.Requests < 100 || len(r.Pairs) != 36 || r.Seconds < 2 {
		t.Errorf("report %+v", r)
	}
	for _, want := range []string{"CALLER", "CALLEE:PORT", "REQUESTS", "FAILED", "MTLS", "MODE", "CONFIG AGE",
		"bookinfo/client (no sidecar) -> ratings.bookinfo:9080", "plaintext, mode DISABLE"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("escape sequences although the output is no terminal")
	}
	assertNothingLeft(t, before)
}

func TestInterruptStopsEverything(t *testing.T) {
	for name, args := range map[string][]string{"proxy": nil, "capture": {"--capture"}} {
		t.Run(name, func(t *testing.T) {
			before := interfaces(t)
			cmd, out := labCommand(bookinfo(t), args...)
			startLab(t, cmd, out)
			if n := len(processesOf(home + "/pilot-lab-")); n != 5 {
				t.Errorf("%d Envoys run, want 5", n)
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			assertNothingLeft(t, before)
		})
	}
}

// A killed run leaves no process and blocks nothing; its files go with the
// next run.
func TestKilledRun(t *testing.T) {
	for name, args := range map[string][]string{"proxy": nil, "capture": {"--capture"}} {
		t.Run(name, func(t *testing.T) {
			before := interfaces(t)
			dir := bookinfo(t)
			cmd, out := labCommand(dir, args...)
			startLab(t, cmd, out)
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("killed without an error")
			}
			eventually(t, "the Envoys' end", 2*time.Second, func() bool { return len(processesOf(home+"/pilot-lab-")) == 0 }, out)
			next, out := labCommand(dir, append(args, "--for", "100ms")...)
			if err := next.Run(); err != nil {
				t.Errorf("the next run: %v\n%s", err, out)
			}
			assertNothingLeft(t, before)
		})
	}
}

func TestPortInUse(t *testing.T) {
	for name, address := range map[string]string{
		"workload":      network() + ".13:9080",
		"proxy":         network() + ".12:15002",
		"control plane": controlAddress() + ":15012",
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			before := interfaces(t)
			cmd, out := labCommand(bookinfo(t), "--for", "1s")
			var exit *exec.ExitError
			if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 2 {
				t.Fatalf("%v, want exit code 2\n%s", err, out)
			}
			if !strings.Contains(out.String(), address+" is in use by another program") {
				t.Errorf("the error does not name %s:\n%s", address, out)
			}
			if left := processesOf(home + "/pilot-lab-"); len(left) > 0 {
				t.Errorf("processes left behind: %v", left)
			}
			if after := interfaces(t); len(after) != len(before) {
				t.Errorf("interfaces left behind: %v", after)
			}
		})
	}
}

// What the lab cannot run, it says, all at once.
func TestBadPlans(t *testing.T) {
	dir := bookinfo(t)
	write(t, filepath.Join(dir, "more.yaml"), `apiVersion: v1
kind: Pod
metadata: {name: homeless, namespace: bookinfo}
spec: {containers: [{name: app}]}
---
apiVersion: v1
kind: Pod
metadata: {name: remote, namespace: bookinfo}
spec: {containers: [{name: app}]}
status: {podIP: 10.1.2.3}
`)
	cmd, out := labCommand(dir, "--for", "1s")
	if err := cmd.Run(); err == nil {
		t.Error("ran")
	}
	for _, want := range []string{
		"Pod bookinfo/homeless has no address: give it one in status.podIP",
		"Pod bookinfo/remote has the address 10.1.2.3: without capture the lab runs on 127.x addresses only",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// Root of a user namespace is enough for capture.
func TestCaptureInUserNamespace(t *testing.T) {
	if self, err := os.ReadFile("/proc/self/uid_map"); err != nil || strings.Fields(string(self))[2] == "1" || strings.Fields(string(self))[0] != strings.Fields(string(self))[1] {
		t.Skip("these tests run in a user namespace already")
	}
	envoy := readable(t, *envoyFlag)
	tmp, err := os.MkdirTemp(home, "user-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	const root, count = 200000, 65536 // ids that nobody has
	if err := os.Chown(tmp, root, root); err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(tmp, "report.json")
	cmd, out := labCommand(bookinfo(t), "--capture", "--for", "1s", "--report", report, "--envoy", envoy)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.Dir = "/"
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: root, Size: count}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids,
		Credential: &syscall.Credential{}, GidMappingsEnableSetgroups: true,
	}
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if r := readReport(t, report); !r.Capture || r.NACKs != 0 || r.Totals.Failed != 0 || r.Totals.Requests < 36 {
		t.Errorf("report %+v", r)
	}
}

// readable is a copy that every user may run.
func readable(t *testing.T, binary string) string {
	t.Helper()
	content, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(home, "envoy")
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
