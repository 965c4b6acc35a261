package discovery

import (
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// half has one cluster in the version of its view, or twice, which Envoy would
// refuse.
func half(view byte, good bool) *translate.Half {
	empty := &translate.Table{}
	h := &translate.Half{Secrets: empty, SecretsRespelled: empty, Listeners: empty, Routes: empty}
	r := &translate.Resource{Name: "x", Version: string('0' + rune(view))}
	h.Clusters = &translate.Table{Resources: []*translate.Resource{r}}
	if !good {
		h.Clusters.Resources = append(h.Clusters.Resources, r)
	}
	return h
}

func TestWhatIsBadIsWithheld(t *testing.T) {
	tr := newTranslator(status.NewMetrics())
	tr.endpoints = &translate.Table{}
	class := model.ClientClass{Namespace: "shop"}
	built := 0
	make := func(view byte, good bool) {
		last := tr.client[class]
		tr.client = map[model.ClientClass]side{class: tr.refresh(remembered{view: model.Fingerprint{view}}, last, func(prev *translate.Half) *translate.Half {
			built++
			if prev != last.half {
				t.Errorf("previous half is %p, want the last one", prev)
			}
			return half(view, good)
		})}
	}
	versions := func() (out string) {
		for _, r := range tr.client[class].half.Clusters.Resources {
			out += r.Version
		}
		return out
	}
	make(1, false)
	problems := tr.problems()
	if versions() != "1" || len(problems) != 1 || problems[0].Code != "INTERNAL" || problems[0].On.String() != "Namespace shop" ||
		!strings.HasSuffix(problems[0].Message, "proxies keep the last good one: x: name used twice") {
		t.Fatalf("got %s, %v", versions(), problems)
	}
	make(2, true)
	good := tr.client[class].half
	if versions() != "2" || len(tr.problems()) != 0 {
		t.Fatalf("a good view: %v", tr.problems())
	}
	make(3, false)
	before := built
	make(3, false)
	if built != before || len(tr.problems()) != 1 {
		t.Error("the same bad view was translated again, or not told")
	}
	make(2, true)
	if built != before || tr.client[class].half != good || len(tr.problems()) != 0 {
		t.Errorf("built %d times, problems %v; want the remembered half", built-before, tr.problems())
	}
	make(3, false)
	if built != before+1 || len(tr.problems()) != 1 {
		t.Error("a bad half was remembered as a good one")
	}
}
