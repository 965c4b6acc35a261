package meshconfig

import (
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

func TestRolloutAnnotation(t *testing.T) {
	for name, tc := range map[string]struct {
		annotation string
		want       *model.Rollout
		problem    string
	}{
		"over the mesh's settings": {
			annotation: "{mode: IMMEDIATE, deadline: 30s}",
			want:       &model.Rollout{Immediate: true, QuietPeriod: 20 * time.Second, Deadline: 30 * time.Second, OnDeadline: model.DeadlineProceed},
		},
		"JSON": {
			annotation: `{"onDeadline": "ROLLBACK"}`,
			want:       &model.Rollout{QuietPeriod: 20 * time.Second, Deadline: 10 * time.Minute, OnDeadline: model.DeadlineRollback},
		},
		"unknown field": {annotation: "{quiet: 1s}", problem: `unknown field "quiet"`},
		"bad value":     {annotation: "{quietPeriod: 1ms}", problem: `invalid mtls rollout quiet period "1ms"`},
		"no object":     {annotation: "soon", problem: "mtls-rollout has no effect"},
	} {
		t.Run(name, func(t *testing.T) {
			b, problems := Decode(strings.NewReader(`
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata:
  name: default
  namespace: shop
  annotations:
    pilot.meshpilot.io/mtls-rollout: '`+tc.annotation+`'
spec: {peers: [{mtls: {}}]}
`), "policy.yaml")
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			b.Mesh = DefaultMesh()
			b.Mesh.Rollout.QuietPeriod = 20 * time.Second
			b.Mesh.Rollout.OnDeadline = model.DeadlineProceed
			in, problems := Inputs(b, "cluster.local")
			equal(t, in.Policies[0].Rollout, tc.want)
			var texts []string
			for _, p := range problems {
				texts = append(texts, p.Code+" "+p.Message)
			}
			if got := strings.Join(texts, "\n"); tc.problem == "" && got != "" || !strings.Contains(got, tc.problem) {
				t.Errorf("problems %q, want %q", got, tc.problem)
			}
		})
	}
}
