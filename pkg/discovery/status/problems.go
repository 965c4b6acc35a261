// Package status is what the control plane says about itself: the set of
// problems in force, the JSON pages and the metrics. It is told everything by
// the hub and knows neither streams nor sources.
package status

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/meshpilot/pilot/pkg/meshconfig"
)

// Finding is a problem in force, and since when.
type Finding struct {
	meshconfig.Problem
	Since time.Time
}

// Problems merges the problems of several origins. Each origin states its own
// complete list; a problem disappears when no origin states it any more. It is
// not safe for concurrent use: the hub owns it.
type Problems struct {
	log     *slog.Logger
	metrics *Metrics
	by      map[string][]meshconfig.Problem
	since   map[meshconfig.Problem]time.Time
	list    []Finding
	silent  map[meshconfig.Problem]bool // whose end is not logged: they go on in other words
	dirty   bool
}

// NewProblems returns an empty set that logs to log and counts in m.
func NewProblems(log *slog.Logger, m *Metrics) *Problems {
	return &Problems{
		log: log, metrics: m,
		by:    map[string][]meshconfig.Problem{},
		since: map[meshconfig.Problem]time.Time{}, silent: map[meshconfig.Problem]bool{},
	}
}

// Set replaces what origin states; an empty list withdraws it.
func (p *Problems) Set(origin string, problems ...meshconfig.Problem) {
	if slices.Equal(p.by[origin], problems) {
		return
	}
	p.dirty = true
	if len(problems) == 0 {
		delete(p.by, origin)
		return
	}
	p.by[origin] = slices.Clone(problems)
}

// Reword replaces the one problem that origin states by the same in other
// words: it lasts since it did, and is not logged again.
func (p *Problems) Reword(origin string, problem meshconfig.Problem) {
	if old := p.by[origin]; len(old) == 1 && old[0] != problem {
		if since, known := p.since[old[0]]; known {
			p.since[problem] = since
			p.silent[old[0]] = true
		}
	}
	p.Set(origin, problem)
}

// List returns the problems in force, the gravest first, after logging once
// what appeared and what is gone since the last call. The slice is immutable.
func (p *Problems) List(now time.Time) []Finding {
	if !p.dirty {
		return p.list
	}
	p.dirty = false
	since := make(map[meshconfig.Problem]time.Time, len(p.since))
	list := make([]Finding, 0, len(p.list))
	for _, problems := range p.by {
		for _, problem := range problems {
			if _, twice := since[problem]; twice {
				continue
			}
			start, known := p.since[problem]
			if !known {
				start = now
			}
			since[problem] = start
			list = append(list, Finding{problem, start})
		}
	}
	slices.SortFunc(list, compareFindings)
	p.logChanges(list, since)
	p.list, p.since = list, since
	clear(p.silent)
	p.metrics.setProblems(list)
	return list
}

func compareFindings(a, b Finding) int {
	return cmp.Or(
		cmp.Compare(b.Severity, a.Severity),
		a.On.Compare(b.On),
		cmp.Compare(a.Code, b.Code),
		cmp.Compare(a.Field, b.Field),
		cmp.Compare(a.Message, b.Message),
		cmp.Compare(a.At.File, b.At.File),
		cmp.Compare(a.At.Line, b.At.Line))
}

func (p *Problems) logChanges(list []Finding, since map[meshconfig.Problem]time.Time) {
	for _, f := range list {
		if _, known := p.since[f.Problem]; !known {
			p.log.LogAttrs(context.Background(), level(f.Severity), f.Message, attributes(f.Problem)...)
		}
	}
	for _, f := range p.list {
		if _, still := since[f.Problem]; !still && !p.silent[f.Problem] {
			p.log.LogAttrs(context.Background(), slog.LevelInfo, "problem is gone: "+f.Message, attributes(f.Problem)...)
		}
	}
}

func level(s meshconfig.Severity) slog.Level {
	switch s {
	case meshconfig.Error:
		return slog.LevelError
	case meshconfig.Warning:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}

func attributes(p meshconfig.Problem) []slog.Attr {
	out := []slog.Attr{slog.String("code", p.Code), slog.String("object", p.On.String())}
	if p.Field != "" {
		out = append(out, slog.String("field", p.Field))
	}
	if p.At.File != "" {
		out = append(out, slog.String("file", p.At.File), slog.Int("line", p.At.Line))
	}
	return out
}
