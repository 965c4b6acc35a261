package replica

import (
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/rollout"
)

func others(proxies ...int) []rollout.Known {
	out := make([]rollout.Known, len(proxies))
	for i, n := range proxies {
		out[i].About = rollout.Replica{Revision: "r", Proxies: n}
	}
	return out
}

func TestExcess(t *testing.T) {
	silent, open, fresh := others(0), others(0), others(0)
	silent[0].Silent = "is silent"
	open[0].About.Open = true
	fresh[0].About.Revision = ""
	for name, c := range map[string]struct {
		own    rollout.Replica
		others []rollout.Known
		want   int
	}{
		"alone":                  {rollout.Replica{Proxies: 100}, nil, 0},
		"a new one":              {rollout.Replica{Proxies: 100}, others(0), 50},
		"by chance":              {rollout.Replica{Proxies: 60}, others(40), 0},
		"of three":               {rollout.Replica{Proxies: 600}, others(150, 150), 300},
		"few":                    {rollout.Replica{Proxies: 10}, others(0), 0},
		"fewer than others":      {rollout.Replica{Proxies: 10}, others(500), 0},
		"another is silent":      {rollout.Replica{Proxies: 100}, silent, 0},
		"another serves not yet": {rollout.Replica{Proxies: 100}, fresh, 0},
		"a target is under way":  {rollout.Replica{Proxies: 100}, open, 0},
		"one here is":            {rollout.Replica{Proxies: 100, Open: true}, others(0), 0},
	} {
		if got := Excess(c.own, c.others); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// Proxies move few at a time, and not before the excess has lasted.
func TestBalance(t *testing.T) {
	var b Balance
	own, start, moved := rollout.Replica{Proxies: 100}, time.Unix(1e9, 0), 0
	for second := range 61 {
		n := b.Move(own, others(100-own.Proxies), start.Add(time.Duration(second)*time.Second))
		if n > 0 && second < 30 {
			t.Fatalf("%d move after %d s", n, second)
		}
		own.Proxies -= n
		moved += n
	}
	if moved != 30 { // until chance alone could be the reason
		t.Errorf("%d moved, want 30", moved)
	}
}
