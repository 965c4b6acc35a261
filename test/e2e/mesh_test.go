package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/lab"
)

// bookinfo is a copy of the small mesh, in which nothing decides but authPolicy.
func bookinfo(t *testing.T) string {
	t.Helper()
	return config(t, "testdata/bookinfo")
}

// config copies a directory, with addresses of this process's own, so that two
// runs on one machine do not meet.
func config(t *testing.T, from string) string {
	t.Helper()
	dir, err := os.MkdirTemp(home, "config-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(from, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing in %s: %v, %v", from, files, err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(content), "127.10.0.", network()+".")
		if filepath.Base(file) == "mesh.yaml" {
			// Drained within the tests' patience, and modes in force at once,
			// unless a test is about how they come into force.
			text += "\ndefaultConfig:\n  drainDuration: 1s\n"
			if !strings.Contains(text, "mtlsRollout") {
				text += immediate
			}
		}
		write(t, filepath.Join(dir, filepath.Base(file)), text)
	}
	return dir
}

const immediate = "mtlsRollout: {mode: IMMEDIATE}\n"

// network is a /24 in 127.0.0.0/8 that depends on the process.
func network() string { return fmt.Sprintf("127.%d.%d", 30+os.Getpid()%100, os.Getpid()/100%250) }

func controlAddress() string { return network() + ".250" }

// write replaces a file in one step, as editors do.
func write(t *testing.T, path, content string) {
	t.Helper()
	temp := path + ".new"
	if err := os.WriteFile(temp, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, path); err != nil {
		t.Fatal(err)
	}
}

// setMutualTLS edits authPolicy as the README of the example says.
func setMutualTLS(t *testing.T, dir string, on bool) {
	t.Helper()
	path := filepath.Join(dir, "mesh.yaml")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const off, onText = "# authPolicy: MUTUAL_TLS", "authPolicy: MUTUAL_TLS"
	text := strings.Replace(string(content), off, onText, 1)
	if !on {
		text = strings.Replace(text, onText, off, 1)
	}
	if text == string(content) {
		t.Fatalf("nothing to change in %s:\n%s", path, content)
	}
	write(t, path, text)
}

// mesh is a running lab under test.
type mesh struct {
	*lab.Lab
	t   *testing.T
	dir string
}

func startMesh(t *testing.T, dir string, capture bool) *mesh {
	t.Helper()
	return startMeshWith(t, lab.Options{Dir: dir, Capture: capture})
}

func startMeshWith(t *testing.T, o lab.Options) *mesh {
	t.Helper()
	before := interfaces(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	o.Envoy, o.Address, o.Out = *envoyFlag, controlAddress(), &logWriter{t}
	l, err := lab.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		assertNothingLeft(t, before)
	})
	return &mesh{l, t, o.Dir}
}

type logWriter struct{ t *testing.T }

func (w *logWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// until waits for all rows to be as wanted, and says which are not.
func (m *mesh) until(what string, limit time.Duration, wanted func(lab.Row) bool) time.Duration {
	m.t.Helper()
	start := time.Now()
	for {
		var wrong []string
		for _, r := range m.Rows() {
			if r.Requests == 0 || !wanted(r) {
				wrong = append(wrong, describe(r))
			}
		}
		if len(wrong) == 0 {
			return time.Since(start)
		}
		if time.Since(start) > limit {
			m.t.Fatalf("%s: not within %s:\n%s", what, limit, strings.Join(wrong, "\n"))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (m *mesh) eventually(what string, done func() bool) {
	m.t.Helper()
	for start := time.Now(); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			m.t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func describe(r lab.Row) string {
	return fmt.Sprintf("  %s -> %s:%d: %d of %d failed, %d now, mTLS now %.0f %%, mode %s, first error %q",
		r.Caller, r.Callee, r.Port, r.Failed, r.Requests, r.FailedNow, 100*r.Now, r.Mode, r.FirstError)
}

// sidecarFailures are the failed calls of callers with a sidecar, by row.
func (m *mesh) sidecarFailures() (failed, requests uint64) {
	totals := m.Report(m.t.Context()).Totals
	return totals.SidecarFailed, totals.SidecarRequests
}

// calm asserts that for a while no call of a caller with a sidecar fails.
func (m *mesh) calm(what string) {
	m.t.Helper()
	before := m.Rows()
	time.Sleep(2 * time.Second)
	for i, r := range m.Rows() {
		switch {
		case r.Sidecar && r.Requests == before[i].Requests:
			m.t.Errorf("%s: no calls any more: %s", what, describe(r))
		case r.Sidecar && r.Failed != before[i].Failed:
			m.t.Errorf("%s: %d calls failed: %s", what, r.Failed-before[i].Failed, describe(r))
		}
	}
}

func interfaces(t *testing.T) []net.Interface {
	t.Helper()
	list, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// assertNothingLeft looks for processes that name a directory of a lab, for
// such directories, and for network namespaces and interfaces.
func assertNothingLeft(t *testing.T, before []net.Interface) {
	t.Helper()
	if left := processesOf(home + "/pilot-lab-"); len(left) > 0 {
		t.Errorf("processes left behind: %v", left)
	}
	if dirs, err := filepath.Glob(filepath.Join(home, "pilot-lab-*")); err != nil || len(dirs) > 0 {
		t.Errorf("directories left behind: %v, %v", dirs, err)
	}
	if after := interfaces(t); !reflect.DeepEqual(names(after), names(before)) {
		t.Errorf("network interfaces changed: %v, before %v", names(after), names(before))
	}
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err == nil && strings.HasPrefix(link, "net:[") {
			t.Errorf("a network namespace is still open: %s", link)
		}
	}
}

func names(list []net.Interface) (names []string) {
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

// processesOf are the command lines that contain text, but this one.
func processesOf(text string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if content, err := os.ReadFile(file); err == nil && strings.Contains(string(content), text) {
			found = append(found, strings.ReplaceAll(string(content), "\x00", " "))
		}
	}
	return found
}
