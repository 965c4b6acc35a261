package e2e

import (
	"net"
	"strconv"
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
