package app

import (
	"context"
	"time"
)

const (
	callTime = 5 * time.Second        // an answer may take
	slowTime = 2 * time.Second        // of a slow request
	restTime = 200 * time.Millisecond // between requests, and signs of life
)

// Done hears of a call that is over. Begin is when it began or, if something
// long was cut, the last sign of life.
type Done func(begin time.Time, cut bool, echo Echo, err error)

// KeepSlow makes one slow HTTP request after the other until ctx ends.
func (c *Client) KeepSlow(ctx context.Context, done Done) {
	defer c.Close()
	for ctx.Err() == nil {
		begin := time.Now()
		limited, cancel := context.WithTimeout(ctx, slowTime+callTime)
		echo, err := c.Slow(limited, slowTime)
		cancel()
		if ctx.Err() != nil {
			return
		}
		done(begin, false, echo, err)
		rest(ctx)
	}
}

// KeepLong keeps one connection or stream open, for life or, if that is 0,
// until renewals changes; and again, until ctx ends. HTTP/1.1 has none.
func (c *Client) KeepLong(ctx context.Context, life time.Duration, renewals func() uint64, done Done) {
	defer c.Close()
	for ctx.Err() == nil {
		begin, before := time.Now(), renewals()
		limited, cancel := context.WithTimeout(ctx, callTime)
		open, err := c.Long(limited)
		cancel()
		if err == nil && open == nil {
			return
		}
		if err == nil {
			open.keep(ctx, func() bool { return life > 0 && time.Since(begin) > life || renewals() != before }, done)
			open.Close()
		} else if ctx.Err() == nil {
			done(begin, false, Echo{}, err)
		}
		rest(ctx)
	}
}

// keep sends signs of life until it is over, cut, or ctx ends.
func (l *Long) keep(ctx context.Context, over func() bool, done Done) {
	alive := time.Now()
	for ctx.Err() == nil && !over() {
		limited, cancel := context.WithTimeout(ctx, callTime)
		err := l.Echo(limited, "alive")
		cancel()
		if ctx.Err() != nil {
			return
		}
		done(alive, err != nil, Echo{}, err)
		if err != nil {
			return
		}
		alive = time.Now()
		rest(ctx)
	}
}

func rest(ctx context.Context) {
	timer := time.NewTimer(restTime)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
