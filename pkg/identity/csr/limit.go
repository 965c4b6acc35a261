package csr

import (
	"sync"
	"time"
)

// Limit is how often somebody may ask: Burst times at once, then once in
// every Interval.
type Limit struct {
	Interval time.Duration
	Burst    int
}

// limiter holds each key to the limit. It keeps one time a key, and forgets
// keys that have their whole burst again, which changes nothing. With more
// busy keys than it may keep, the rest share one.
type limiter struct {
	limit Limit
	most  int // keys

	mu    sync.Mutex
	spent map[string]time.Time // when the key has its whole burst again
	swept time.Time
}

// overflow is the key of those who find no place; no caller has it.
const overflow = ""

func newLimiter(l Limit, most int) *limiter {
	return &limiter{limit: l, most: most, spent: map[string]time.Time{}}
}

// take uses one of the key's requests; if it has none left, wait is how long
// until it has.
func (l *limiter) take(key string, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key = l.place(key, now)
	if wait = l.wait(key, now); wait == 0 {
		l.spent[key] = later(l.spent[key], now).Add(l.limit.Interval)
	}
	return wait
}

// left is take without using one.
func (l *limiter) left(key string, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wait(l.place(key, now), now)
}

func (l *limiter) wait(key string, now time.Time) time.Duration {
	spent := later(l.spent[key], now)
	return max(0, spent.Add(l.limit.Interval).Sub(now)-time.Duration(l.limit.Burst)*l.limit.Interval)
}

// place is the key under which a caller is counted. It looks through all keys
// once a second at most.
func (l *limiter) place(key string, now time.Time) string {
	if _, known := l.spent[key]; known || len(l.spent) < l.most {
		return key
	}
	if now.Sub(l.swept) >= time.Second {
		l.swept = now
		for k, spent := range l.spent {
			if !spent.After(now) {
				delete(l.spent, k)
			}
		}
	}
	if len(l.spent) < l.most {
		return key
	}
	return overflow
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
