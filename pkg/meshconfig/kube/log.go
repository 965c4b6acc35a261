package kube

import (
	"context"
	"log/slog"

	"k8s.io/klog/v2"
)

// LogTo sends what client-go has to say to log, instead of to stderr. It
// retries by itself whatever can be retried, and pilot reports what lasts, so
// all but its errors is for debugging.
func LogTo(log *slog.Logger) {
	klog.SetSlogLogger(slog.New(quiet{log.Handler()}).With("from", "client-go"))
}

// quiet makes a record that is no error one for debugging.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return q.Handler.Enabled(ctx, quieter(level))
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = quieter(r.Level)
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }
func (q quiet) WithGroup(name string) slog.Handler       { return quiet{q.Handler.WithGroup(name)} }

func quieter(level slog.Level) slog.Level {
	if level < slog.LevelError {
		return min(level, slog.LevelDebug)
	}
	return level
}
