package e2e

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/lab"
	"github.com/meshpilot/pilot/pkg/lab/drill"
)

// A short drill with everything going wrong but restarts of Envoys, whose
// losses would only be explained: none is lost. Where modes are in force at
// once, the same drill loses some, so the zero means something.
func TestDrill(t *testing.T) {
	for _, tc := range []struct {
		mode   string
		edits  int
		faults []string
	}{
		{"GATED", 3, []string{"late", "drop", "pilot"}},
		{"GATED", 3, []string{"forget"}},
		{"IMMEDIATE", 3, nil},
	} {
		t.Run(strings.Join(append([]string{tc.mode}, tc.faults...), ","), func(t *testing.T) {
			dir := config(t, "testdata/drill")
			write(t, filepath.Join(dir, "mesh.yaml"), "mtlsRollout: {mode: "+tc.mode+"}\n")
			before := interfaces(t)
			report, err := drill.Drill(t.Context(), drill.Options{
				Lab: lab.Options{Dir: dir, Capture: true, Envoy: *envoyFlag, Address: controlAddress(), Out: &logWriter{t}},
				N:   tc.edits, Seed: 1, Faults: tc.faults,
			})
			if err != nil && !errors.Is(err, drill.ErrLost) {
				t.Fatal(err)
			}
			assertNothingLeft(t, before)
			if report.Edits != tc.edits || report.Total.Calls < 500 || report.Calls[lab.SlowRequest].Calls == 0 || report.Calls[lab.LongConnection].Calls == 0 {
				t.Errorf("%d edits, %+v", report.Edits, report.Calls)
			}
			if tc.mode == "GATED" && err != nil {
				t.Error(err)
			}
		})
	}
}
