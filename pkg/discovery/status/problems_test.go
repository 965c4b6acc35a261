package status

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

func TestProblems(t *testing.T) {
	var log bytes.Buffer
	m := NewMetrics()
	handler := slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	p := NewProblems(slog.New(handler), m)
	logged := func() string { defer log.Reset(); return log.String() }
	now := noon()
	tie := meshconfig.Problem{Code: "TIE", Severity: meshconfig.Warning, On: model.Key{Kind: "Policy", Namespace: "a", Name: "p"}, Message: "older wins"}
	bad := meshconfig.Problem{Code: "INVALID", Severity: meshconfig.Error, On: model.Key{Kind: "Policy", Namespace: "b", Name: "q"}, Field: "peers", Message: "no"}

	p.Set("source", bad)
	p.Set("compile", tie, bad)
	list := p.List(now)
	if len(list) != 2 || list[0].Problem != bad || list[1].Problem != tie || list[0].Since != now {
		t.Fatalf("got %v, want the error first and each once", list)
	}
	want := "level=ERROR msg=no code=INVALID object=\"Policy b/q\" field=peers\n" +
		"level=WARN msg=\"older wins\" code=TIE object=\"Policy a/p\"\n"
	if got := logged(); got != want {
		t.Errorf("log: got %s, want %s", got, want)
	}

	later := now.Add(time.Minute)
	p.Set("source", bad)
	p.Set("compile", tie)
	if list = p.List(later); len(list) != 2 || list[0].Since != now {
		t.Errorf("got %v, want the same since noon", list)
	}
	if got := logged(); got != "" {
		t.Errorf("logged again: %s", got)
	}

	p.Set("compile")
	if list = p.List(later); len(list) != 1 || list[0].Problem != bad {
		t.Errorf("got %v, want what the source states", list)
	}
	if got := logged(); got != "level=INFO msg=\"problem is gone: older wins\" code=TIE object=\"Policy a/p\"\n" {
		t.Errorf("log: got %s", got)
	}
	metric := "# HELP pilot_problems Problems in force.\n# TYPE pilot_problems gauge\npilot_problems{code=\"INVALID\",severity=\"error\"} 1\n"
	if err := testutil.GatherAndCompare(m.Registry(), strings.NewReader(metric), "pilot_problems"); err != nil {
		t.Error(err)
	}

	p.Set("source")
	p.List(later)
	p.Set("compile", bad)
	if list = p.List(later.Add(time.Second)); list[0].Since != later.Add(time.Second) {
		t.Errorf("since %v, want a problem that came back to be new", list[0].Since)
	}
}

func TestMetricsAreWellFormed(t *testing.T) {
	problems, err := testutil.GatherAndLint(NewMetrics().Registry())
	if err != nil || len(problems) > 0 {
		t.Errorf("got %v %v", problems, err)
	}
	w := get(testPages(t), "GET", "/metrics", "127.0.0.1:1")
	if w.Code != 404 {
		t.Errorf("metrics on the pages' port: got %d", w.Code)
	}
}

// A held target is logged once, whoever blocks meanwhile.
func TestHeldIsReworded(t *testing.T) {
	var log strings.Builder
	p := NewProblems(slog.New(slog.NewTextHandler(&log, nil)), NewMetrics())
	clock := func(seconds int) time.Time { return noon().Add(time.Duration(seconds) * time.Second) }
	held := func(text string) meshconfig.Problem {
		return meshconfig.Problem{Code: "ROLLOUT_HELD", Severity: meshconfig.Warning, Message: text}
	}
	p.Reword("a", held("one blocks"))
	p.List(clock(1))
	p.Reword("a", held("two block"))
	p.Reword("a", held("three block"))
	list := p.List(clock(5))
	if len(list) != 1 || list[0].Message != "three block" || !list[0].Since.Equal(clock(1)) {
		t.Errorf("%+v", list)
	}
	if strings.Count(log.String(), "level=") != 1 {
		t.Errorf("logged\n%s", log.String())
	}
	p.Set("a")
	p.List(clock(6))
	if !strings.Contains(log.String(), "problem is gone: three block") || strings.Count(log.String(), "level=") != 2 {
		t.Errorf("logged\n%s", log.String())
	}
}
