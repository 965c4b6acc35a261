package csr

import (
	"fmt"
	"testing"
	"time"
)

func TestLimit(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := newLimiter(Limit{Interval: 100 * time.Millisecond, Burst: 3}, 100)
	for _, step := range []struct {
		at    time.Duration
		key   string
		taken bool
		wait  time.Duration
	}{
		{0, "a", true, 0}, {0, "a", true, 0}, {0, "a", true, 0},
		{0, "a", false, 100 * time.Millisecond},
		{0, "b", true, 0}, // another's burst is its own
		{30 * time.Millisecond, "a", false, 70 * time.Millisecond},
		{100 * time.Millisecond, "a", true, 0},
		{100 * time.Millisecond, "a", false, 100 * time.Millisecond},
		{time.Hour, "a", true, 0}, {time.Hour, "a", true, 0}, {time.Hour, "a", true, 0},
		{time.Hour, "a", false, 100 * time.Millisecond},
	} {
		now := start.Add(step.at)
		if left := l.left(step.key, now); left != step.wait {
			t.Errorf("%v %s: %v left, want %v", step.at, step.key, left, step.wait)
		}
		if wait := l.take(step.key, now); wait != step.wait || (wait == 0) != step.taken {
			t.Errorf("%v %s: wait %v, want %v", step.at, step.key, wait, step.wait)
		}
	}
}

// TestLimitIsBounded: keys that have rested make place, and those that find
// none share one limit.
func TestLimitIsBounded(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := newLimiter(Limit{Interval: time.Second, Burst: 2}, 50)
	for i := range 50 {
		if wait := l.take(fmt.Sprint(i), now); wait != 0 {
			t.Fatalf("key %d waits %v", i, wait)
		}
	}
	taken := 0
	for i := range 1000 {
		if l.take(fmt.Sprint("more ", i), now) == 0 {
			taken++
		}
	}
	if taken != 2 || len(l.spent) > 51 {
		t.Errorf("%d keys without a place were let through, %d are kept", taken, len(l.spent))
	}
	if wait := l.take("7", now); wait != 0 {
		t.Errorf("a key with a place waits %v for the others", wait)
	}
	now = now.Add(time.Minute)
	for i := range 50 {
		if wait := l.take(fmt.Sprint("new ", i), now); wait != 0 {
			t.Errorf("new key %d waits %v", i, wait)
		}
	}
	if len(l.spent) > 51 {
		t.Errorf("%d keys are kept", len(l.spent))
	}
}

func BenchmarkLimit(b *testing.B) {
	l := newLimiter(PerAccount(), mostAccounts)
	keys := make([]string, 10_000)
	for i := range keys {
		keys[i] = fmt.Sprint("namespace/account-", i)
	}
	now := time.Now()
	for i := 0; b.Loop(); i++ {
		l.take(keys[i%len(keys)], now)
	}
}
