package adopt

import (
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/model"
)

func TestWait(t *testing.T) {
	start := time.Unix(100, 0)
	cart, front := model.WorkloadID{Namespace: "shop", Name: "cart"}, model.WorkloadID{Namespace: "shop", Name: "front"}
	says := func(id model.WorkloadID, holds bool, after time.Duration) ads.Claim {
		return ads.Claim{Proxy: model.Proxy{ID: id}, Holds: holds, At: start.Add(after)}
	}
	const s = time.Second
	for name, tc := range map[string]struct {
		declared bool
		claims   []ads.Claim
		after    time.Duration
		wait     bool
	}{
		"nobody yet":                    {true, nil, s, true},
		"nobody for long":               {true, nil, 29 * s, true},
		"nobody at all":                 {true, nil, 30 * s, false},
		"a new one came late":           {true, []ads.Claim{says(cart, false, 10*s)}, 12 * s, true},
		"and has waited":                {true, []ads.Claim{says(cart, false, 10*s)}, 13 * s, false},
		"nobody is declared, nor comes": {false, nil, 3 * s, false},
		"nobody is declared":            {false, nil, s, true},
		"all are there and new":         {true, []ads.Claim{says(cart, false, 0), says(front, false, 0)}, s, false},
		"all are there and one speaks":  {true, []ads.Claim{says(cart, true, 0), says(front, true, s)}, s, true},
		"one holds something":           {true, []ads.Claim{says(cart, true, 0)}, 20 * s, true},
		"one holds something, too late": {true, []ads.Claim{says(cart, true, 0)}, 30 * s, false},
		"one is new, the other is away": {true, []ads.Claim{says(cart, false, 0)}, 3 * s, false},
	} {
		w := Wait{Since: start}
		if tc.declared {
			w.Expect = []model.WorkloadID{cart, front}
		}
		claims := func(tell func(ads.Claim)) {
			for _, c := range tc.claims {
				tell(c)
			}
		}
		now := start.Add(tc.after)
		if got := w.Until(claims, now); got.IsZero() == tc.wait || tc.wait && !got.After(now) {
			t.Errorf("%s: until %v", name, got)
		}
	}
}
