package discovery

import (
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// half is empty, or has a cluster twice, which Envoy would refuse.
func half(good bool) *translate.Half {
	empty := &translate.Table{}
	h := &translate.Half{Secrets: empty, SecretsRespelled: empty, Clusters: empty, Listeners: empty, Routes: empty}
	if !good {
		h.Clusters = &translate.Table{Resources: []*translate.Resource{{Name: "x"}, {Name: "x"}}}
	}
	return h
}

func TestABadHalfKeepsTheLastGoodOne(t *testing.T) {
	tr := newTranslator(status.NewMetrics())
	tr.endpoints = &translate.Table{}
	class := model.ClientClass{Namespace: "shop"}
	built := 0
	make := func(view byte, good bool) side {
		return tr.refresh(remembered{view: model.Fingerprint{view}}, tr.client[class], func(prev *translate.Half) *translate.Half {
			built++
			if prev != tr.client[class].half {
				t.Errorf("previous half is %p, want the last good one", prev)
			}
			return half(good)
		})
	}
	tr.client = map[model.ClientClass]side{class: make(1, false)}
	problems := tr.problems()
	if tr.client[class].half != nil || len(problems) != 1 || problems[0].Code != "INTERNAL" || problems[0].On.String() != "Namespace shop" ||
		!strings.HasSuffix(problems[0].Message, "they get none: x: name used twice") {
		t.Fatalf("got %+v, %v", tr.client[class], problems)
	}
	tr.client[class] = make(2, true)
	good := tr.client[class].half
	if good == nil || len(tr.problems()) != 0 {
		t.Fatalf("a good view: %v", tr.problems())
	}
	tr.client[class] = make(3, false)
	if problems = tr.problems(); tr.client[class].half != good || len(problems) != 1 || !strings.Contains(problems[0].Message, "they keep the last good one") {
		t.Errorf("got %+v, %v", tr.client[class], problems)
	}
	before := built
	tr.client[class] = make(3, false)
	if built != before {
		t.Error("the same bad view was translated again")
	}
	tr.client[class] = make(2, true)
	if built != before || tr.client[class].half != good || len(tr.problems()) != 0 {
		t.Errorf("built %d times, problems %v; want the remembered half", built-before, tr.problems())
	}
	tr.client[class] = make(3, false)
	if built != before+1 || len(tr.problems()) != 1 {
		t.Error("a bad half was remembered as a good one")
	}
}
