package replica

import (
	"time"

	"github.com/meshpilot/pilot/pkg/rollout"
)

const (
	// steadyTime is how long a replica has too many proxies before some move:
	// others may just have started.
	steadyTime = 30 * time.Second
	// moveTime lies between two moves, of mostMoved proxies each.
	moveTime  = 5 * time.Second
	mostMoved = 10
	// roomy is how many proxies more than its share, and a fifth of it, a
	// replica keeps: chance alone spreads them so.
	roomy = 10
)

// Balance says when proxies are to look for another replica.
type Balance struct{ since, moved time.Time }

// Move is how many are to move now.
func (b *Balance) Move(own rollout.Replica, others []rollout.Known, now time.Time) int {
	excess := Excess(own, others)
	switch {
	case excess == 0:
		b.since = time.Time{}
		return 0
	case b.since.IsZero():
		b.since = now
	}
	if now.Sub(b.since) < steadyTime || now.Sub(b.moved) < moveTime {
		return 0
	}
	b.moved = now
	return min(excess, mostMoved)
}

// Excess is how many proxies a replica has beyond its share; none while that is
// not far, another does not answer, or some target is under way.
func Excess(own rollout.Replica, others []rollout.Known) int {
	total, open := own.Proxies, own.Open
	for _, k := range others {
		if k.Silent != "" || k.About.Revision == "" {
			return 0
		}
		total += k.About.Proxies
		open = open || k.About.Open
	}
	share := total / (len(others) + 1)
	if open || len(others) == 0 || own.Proxies <= share+share/5+roomy {
		return 0
	}
	return own.Proxies - share
}
