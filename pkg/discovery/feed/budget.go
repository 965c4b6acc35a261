package feed

import "time"

// A proxy may tell of so many records in a second, and at once. Each is a new
// request or connection that is not mesh mTLS.
const (
	recordsPerSecond = 250
	recordsAtOnce    = 500
)

// budget is a bucket of tokens; the zero value is full.
type budget struct {
	spent float64
	at    time.Time
}

func (b *budget) spend(now time.Time) bool {
	b.spent = max(0, b.spent-now.Sub(b.at).Seconds()*recordsPerSecond)
	b.at = now
	if b.spent+1 > recordsAtOnce {
		return false
	}
	b.spent++
	return true
}
