package drill

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/meshpilot/pilot/pkg/lab"
	"github.com/meshpilot/pilot/pkg/model"
)

// The rules that explain a failed call: an Envoy that it needs was taken away,
// and it failed as calls fail that nobody is there for.
const (
	ruleUnderWay = "under way when one of its Envoys was stopped"
	ruleCaller   = "begun while the caller's own Envoy was away"
	ruleCallee   = "begun while the callee's Envoy was away"
)

// settleTime is how long after the next Envoy is live the calls may fail that
// began before that.
const settleTime = time.Second

// Outage is an Envoy that the drill took away, and the calls that this explains.
type Outage struct {
	Workload    string    `json:"workload"`
	Certificate bool      `json:"certificate"` // it came late
	Begin       time.Time `json:"begin"`       // it was asked to end
	Gone        time.Time `json:"gone"`
	Live        time.Time `json:"live"` // the next one
	// Explained are the calls by rule, Pairs by caller and callee.
	Explained map[string]uint64 `json:"explained"`
	Pairs     map[string]uint64 `json:"pairs"`

	id model.WorkloadID
}

// explains is the rule by which the outage explains a failed call; empty: by none.
func (o *Outage) explains(c *lab.Call) string {
	callee := slices.ContainsFunc(c.Endpoints, func(e lab.Endpoint) bool { return e.Workload == o.id })
	switch {
	case !callee && c.Caller != o.id || !nobodyThere(c.Err):
	case c.End.Before(o.Begin), !o.Live.IsZero() && (c.Begin.After(o.Live) || c.End.After(o.Live.Add(settleTime))):
	case c.Begin.Before(o.Begin):
		return ruleUnderWay
	case c.Caller == o.id:
		return ruleCaller
	default:
		return ruleCallee
	}
	return ""
}

// away is for how long, so far.
func (o *Outage) away() time.Duration {
	if o.Live.IsZero() {
		return time.Since(o.Begin)
	}
	return o.Live.Sub(o.Begin)
}

// nobodyThere says that a call failed for want of a process: nobody listened,
// or who did was gone. Refusals, failed handshakes, answers of somebody else
// and calls that nobody answered in time are not that.
func nobodyThere(err error) bool {
	for _, gone := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed, io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe} {
		if errors.Is(err, gone) {
			return true
		}
	}
	text := err.Error()
	if strings.Contains(text, "upstream connect error") {
		// Envoy's own words, with the cause at the end if it was TLS's.
		return strings.HasSuffix(text, "reset reason: remote connection failure") || strings.HasSuffix(text, "reset reason: connection termination")
	}
	// The application's words for a closed connection, and those of Go's HTTP for
	// one that is gone, and for a stream that the Envoy had to end.
	return text == "closed without an answer" || strings.Contains(text, "http2: ") || strings.HasSuffix(text, "received from peer") ||
		strings.HasSuffix(text, "connection loss") || strings.HasSuffix(text, "server closed idle connection")
}

// outage opens one; the two functions tell how it goes on.
func (j *journal) outage(id model.WorkloadID, certificate bool) (gone, live func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	o := &Outage{
		Workload: id.String(), Certificate: certificate, Begin: time.Now(),
		Explained: map[string]uint64{}, Pairs: map[string]uint64{}, id: id,
	}
	j.outages = append(j.outages, o)
	now := func(at *time.Time) func() {
		return func() {
			j.mu.Lock()
			defer j.mu.Unlock()
			*at = time.Now()
		}
	}
	return now(&o.Gone), now(&o.Live)
}

// explained counts a call that a rule explains, and says whether one does.
func (j *journal) explained(c *lab.Call) bool {
	for _, o := range slices.Backward(j.outages) {
		if rule := o.explains(c); rule != "" {
			o.Explained[rule]++
			o.Pairs[fmt.Sprintf("%s (%s)", pairName(c), c.Kind)]++
			return true
		}
	}
	return false
}
