package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/lab"
)

// A change must be in force within the refresh delay and 2 s.
const inForce = time.Second + 2*time.Second

func plaintext(r lab.Row) bool { return r.FailedNow == 0 && r.Now == 0 }
func mutual(r lab.Row) bool    { return r.FailedNow == 0 && r.Now == 1 }

// refused: all new calls. A TCP connection from before lives until it drains,
// so half of the calls, those on a kept one, may still be answered.
func refused(r lab.Row) bool {
	if r.Protocol == "tcp" {
		return r.FailedNow > 0
	}
	return r.FailedNow > 0 && r.Now == 0
}

// allMutual is the mesh with authPolicy MUTUAL_TLS.
func allMutual(r lab.Row) bool {
	if !r.Sidecar {
		return refused(r) && r.Mode == "STRICT"
	}
	return mutual(r) && r.Mode == "STRICT"
}

const ratingsPolicy = `apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata:
  name: ratings
  namespace: bookinfo
spec:
  targets:
    - name: ratings
  peers:
    - mtls: {}
`

const ratings = "ratings.bookinfo.svc.cluster.local"

// ratingsMutual is the mesh with that policy.
func ratingsMutual(r lab.Row) bool {
	if r.Callee == ratings {
		return allMutual(r)
	}
	return plaintext(r) && r.Mode == "DISABLE"
}

// The main promise: an edit of one file turns mutual TLS on and off in a mesh
// under load, nothing is restarted, and Envoy refuses nothing.
func TestToggle(t *testing.T) {
	for name, capture := range map[string]bool{"proxy": false, "capture": true} {
		t.Run(name, func(t *testing.T) {
			dir := bookinfo(t)
			m := startMesh(t, dir, capture)
			if n := len(m.Sidecars()); n < 3 {
				t.Fatalf("%d sidecars, want at least 3", n)
			}
			m.until("plaintext at the start", 5*time.Second, func(r lab.Row) bool { return plaintext(r) && r.Requests >= 10 })
			m.calm("before any edit")
			if failed, of := m.sidecarFailures(); failed != 0 {
				t.Errorf("%d of %d calls failed before any edit", failed, of)
			}
			m.assertDumps("at the start")

			m.change("authPolicy on", allMutual, func() { setMutualTLS(t, dir, true) })
			m.change("authPolicy off", plaintext, func() { setMutualTLS(t, dir, false) })
			policy := filepath.Join(dir, "policy.yaml")
			m.change("Policy for ratings", ratingsMutual, func() { write(t, policy, ratingsPolicy) })
			m.change("Policy deleted", plaintext, func() {
				if err := os.Remove(policy); err != nil {
					t.Fatal(err)
				}
			})

			report := m.Report(t.Context())
			if report.NACKs != 0 {
				t.Errorf("the Envoys refused %d updates", report.NACKs)
			}
			if len(report.Edits) != 4 {
				t.Errorf("%d edits in the report, want 4: %+v", len(report.Edits), report.Edits)
			}
			for _, e := range report.Edits {
				if !e.Complete || e.Refused > 0 || e.Responses == 0 || e.LastACKMS <= 0 {
					t.Errorf("edit not acknowledged by all: %+v", e)
				}
				t.Logf("edit: %s", e)
			}
		})
	}
}

// change makes an edit and proves that it takes effect in time, that calls
// work again afterwards, and that each Envoy has exactly what is rendered.
func (m *mesh) change(what string, wanted func(lab.Row) bool, edit func()) {
	m.t.Helper()
	failed, requests := m.sidecarFailures()
	edited := time.Now()
	edit()
	took := m.until(what, inForce, wanted)
	m.assertDumps("after " + what)
	time.Sleep(time.Until(edited.Add(inForce))) // old connections are cut at drain time
	lost, all := m.sidecarFailures()
	m.t.Logf("%s: in force after %d ms; %d of %d calls between sidecars were lost", what, took.Milliseconds(), lost-failed, all-requests)
	if limit := (all - requests) / 4; lost-failed > limit {
		m.t.Errorf("%s: %d calls between sidecars were lost, more than %d", what, lost-failed, limit)
	}
	m.calm("after " + what)
}
