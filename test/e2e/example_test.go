package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/explain"
	"github.com/meshpilot/pilot/pkg/lab"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/file"
	"github.com/meshpilot/pilot/pkg/model"
)

// In the example, real calls are what explain says of them, before and after
// the edit that the example invites to.
func TestExampleIsAsExplained(t *testing.T) {
	for name, capture := range map[string]bool{"proxy": false, "capture": true} {
		t.Run(name, func(t *testing.T) {
			dir := config(t, "../../examples/bookinfo")
			atOnce(t, dir)
			m := startMesh(t, dir, capture)
			as := func(r lab.Row) bool { return isExplained(r, explainer(t, dir)) }
			m.until("as explained at the start", 5*time.Second, func(r lab.Row) bool { return as(r) && r.Requests >= 10 })
			m.calm("before any edit")
			if failed, of := m.sidecarFailures(); failed != 0 {
				t.Errorf("%d of %d calls failed before any edit", failed, of)
			}
			m.change("authPolicy on", as, func() { setMutualTLS(t, dir, true) })
			m.change("authPolicy off", as, func() { setMutualTLS(t, dir, false) })
		})
	}
}

// atOnce lets modes be in force at once, which the example has in phases.
func atOnce(t *testing.T, dir string) {
	t.Helper()
	const phases = "mtlsRollout:\n"
	path := filepath.Join(dir, "mesh.yaml")
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), phases) {
		t.Fatalf("no %q in %s: %v", phases, path, err)
	}
	write(t, path, strings.Replace(string(text), phases, phases+"  mode: IMMEDIATE\n", 1))
}

func explainer(t *testing.T, dir string) *explain.Explainer {
	t.Helper()
	bundle, _, err := file.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	in, _ := meshconfig.Inputs(bundle, "cluster.local")
	return explain.New(model.Build(in), nil)
}

func isExplained(r lab.Row, e *explain.Explainer) bool {
	answer, err := e.Ask(r.Caller, net.JoinHostPort(r.Callee, strconv.Itoa(int(r.Port))))
	if err != nil {
		return false
	}
	switch answer.Verdict {
	case explain.VerdictMTLS:
		return mutual(r)
	case explain.VerdictPlaintext:
		return plaintext(r)
	case explain.VerdictRefused:
		return refused(r)
	default:
		return false
	}
}
