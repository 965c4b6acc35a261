package adopt

import (
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/model"
)

// How long a first start waits for proxies to say what they hold. Envoy tries
// to connect again after at most 30 s.
const (
	again   = 100 * time.Millisecond
	quiet   = 200 * time.Millisecond // Envoy's first requests come at once
	shortly = 3 * time.Second        // if who is there holds nothing, or nobody is expected
	longest = 30 * time.Second
)

// Bytes is how much of what proxies say may wait in memory.
const Bytes = 256 << 20

// Wait is for the proxies of a mesh of which nothing is stored.
type Wait struct {
	Since  time.Time          // the first configuration came
	Expect []model.WorkloadID // that have a sidecar
}

// Until is when to look again; zero: all there is to know is known, or may be
// waited for no longer.
func (w *Wait) Until(claims func(tell func(ads.Claim)), now time.Time) time.Time {
	there := map[model.WorkloadID]bool{}
	anything, speaking := false, false
	first := w.Since
	claims(func(c ads.Claim) {
		if len(there) == 0 || c.At.Before(first) {
			first = c.At
		}
		there[c.Proxy.ID] = true
		anything = anything || c.Holds || c.Silent
		speaking = speaking || now.Sub(c.At) < quiet
	})
	missing := len(w.Expect) == 0 // somebody may come whom no object declares
	for _, id := range w.Expect {
		missing = missing || !there[id]
	}
	end := w.Since.Add(longest)
	if news := first.Add(shortly); !anything && (len(there) > 0 || len(w.Expect) == 0) && news.Before(end) {
		end = news // who is new waits no longer than that
	}
	if !missing && !speaking || !now.Before(end) {
		return time.Time{}
	}
	return now.Add(again)
}
