package drill

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/lab"
)

// Report is what a drill comes to.
type Report struct {
	Started time.Time          `json:"started"`
	Seconds float64            `json:"seconds"`
	Seed    uint64             `json:"seed"`
	Edits   int                `json:"edits"`
	Faults  map[string]int     `json:"faults"`
	Calls   map[lab.Kind]Count `json:"calls"` // between sidecars
	Total   Count              `json:"total"`
	Cut     int                `json:"cut"` // of what is lost
	// Rules are what explained losses, and how many; Outages when, and whose.
	Rules     map[string]uint64 `json:"rules"`
	Outages   []*Outage         `json:"outages"`
	Strangers Count             `json:"strangers"` // calls without a sidecar; lost are those refused
	Losses    []Loss            `json:"losses"`
	Stuck     []string          `json:"stuck"`  // edits that were never carried out
	Healed    int               `json:"healed"` // edits that needed a restart of the control plane, for what was refused
	Never     []string          `json:"never"`  // pairs that failed before any edit
	Events    []Event           `json:"events"`

	took []time.Duration
}

// finish takes the figures, and shows them.
func (r *run) finish(out *lines) {
	j := r.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	s := &r.report
	s.Seconds, s.Seed = time.Since(s.Started).Seconds(), r.options.Seed
	s.Calls, s.Rules, s.Outages, s.Strangers, s.Losses, s.Events = map[lab.Kind]Count{}, map[string]uint64{}, j.outages, j.strangers, j.losses, j.events
	away := time.Duration(0)
	for _, o := range s.Outages {
		away += o.away()
		for rule, n := range o.Explained {
			s.Rules[rule] += n
		}
	}
	if r.trouble != nil {
		s.Faults = r.trouble.counts
	}
	for _, kind := range slices.Sorted(maps.Keys(j.counts)) {
		c := *j.counts[kind]
		s.Calls[kind] = c
		s.Total.Calls, s.Total.Lost, s.Total.Explained = s.Total.Calls+c.Calls, s.Total.Lost+c.Lost, s.Total.Explained+c.Explained
		out.event("%-16s %8d calls, %d lost, %d by a rule", kind, c.Calls, c.Lost, c.Explained)
	}
	for _, l := range s.Losses {
		if l.Cut {
			s.Cut++
		}
	}
	out.event("%d edits in %.0f s, the median in %s; faults: %s", s.Edits, s.Seconds, median(s.took), counts(s.Faults))
	out.event("callers without a sidecar: %d calls, %d refused", s.Strangers.Calls, s.Strangers.Lost)
	for _, rule := range slices.Sorted(maps.Keys(s.Rules)) {
		out.event("explained: %d calls %s", s.Rules[rule], rule)
	}
	if len(s.Outages) > 0 {
		out.event("Envoys were away %d times, in all for %.0f s", len(s.Outages), away.Seconds())
	}
	out.event("between sidecars: %d calls, %d lost (%d of them cut), %d edits stuck", s.Total.Calls, s.Total.Lost, s.Cut, len(s.Stuck))
}

func counts[N int | uint64](m map[string]N) string {
	var texts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		texts = append(texts, fmt.Sprintf("%s %d", k, m[k]))
	}
	if texts == nil {
		return "none"
	}
	return strings.Join(texts, ", ")
}

func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2].Round(100 * time.Millisecond)
}

// verdict is ErrLost if something was.
func (r *run) verdict() error {
	r.journal.mu.Lock()
	defer r.journal.mu.Unlock()
	lost := uint64(0)
	for _, c := range r.journal.counts {
		lost += c.Lost
	}
	if lost > 0 || len(r.report.Stuck) > 0 {
		return fmt.Errorf("%w: %d calls between sidecars were lost, %d edits were never carried out", ErrLost, lost, len(r.report.Stuck))
	}
	return nil
}

func (r Report) write(path string) error {
	if path == "" {
		return nil
	}
	body, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(body, '\n'), 0o644)
}

// lines prints events with the time.
type lines struct {
	mu  sync.Mutex
	out io.Writer
}

func newLines(out io.Writer) *lines {
	if out == nil {
		out = io.Discard
	}
	return &lines{out: out}
}

func (l *lines) event(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, "%s  %s\n", time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
}
