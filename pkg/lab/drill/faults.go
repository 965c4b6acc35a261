package drill

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/lab"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// The faults.
const (
	faultLate     = "late"     // a sidecar hears of everything later
	faultDrop     = "drop"     // its streams to the control plane end
	faultEnvoy    = "envoy"    // it is restarted
	faultCerts    = "certs"    // restarted, with its certificate coming late
	faultNACK     = "nack"     // it refuses an update
	faultPilot    = "pilot"    // the control plane is killed, and started again
	faultStranger = "stranger" // callers without a sidecar call
	faultForget   = "forget"   // as pilot, and the stored phases are gone
)

// Faults are the names that --faults knows.
func Faults() []string { return append(allFaults(), faultForget) }

// allFaults are those that are all: who loses the stored phases has more to
// mend than a control plane.
func allFaults() []string {
	return []string{faultLate, faultDrop, faultEnvoy, faultCerts, faultNACK, faultPilot, faultStranger}
}

// ParseFaults reads a comma list of faults; "all" and "none" are lists too.
func ParseFaults(text string) ([]string, error) {
	switch text {
	case "all":
		return allFaults(), nil
	case "none", "":
		return nil, nil
	}
	var out []string
	for _, name := range strings.Split(text, ",") {
		if name = strings.TrimSpace(name); !slices.Contains(Faults(), name) {
			return nil, fmt.Errorf("unknown fault %q: choose of %s, or all, or none", name, strings.Join(Faults(), ", "))
		}
		out = append(out, name)
	}
	return out, nil
}

// trouble makes faults happen, each kind once at a time.
type trouble struct {
	lab     *lab.Lab
	journal *journal
	failed  func(error)

	running sync.WaitGroup
	pilot   sync.Mutex
	envoys  sync.Mutex
	counts  map[string]int
	mu      sync.Mutex
}

// start lets the faults of a step happen.
func (t *trouble) start(ctx context.Context, faults []fault) {
	for _, f := range faults {
		t.running.Go(func() {
			sleep(ctx, f.after)
			if ctx.Err() != nil {
				return
			}
			t.mu.Lock()
			t.counts[f.kind]++
			t.mu.Unlock()
			if err := t.happen(ctx, f); err != nil && ctx.Err() == nil {
				t.failed(fmt.Errorf("fault %s: %w", f.kind, err))
			}
		})
	}
}

func (t *trouble) happen(ctx context.Context, f fault) error {
	sidecars := t.lab.Sidecars()
	id := sidecars[f.which%uint64(len(sidecars))]
	relay := t.lab.Relay(id)
	switch f.kind {
	case faultLate:
		t.journal.note("fault: %s hears of everything %s late, for %s", id, f.lasts, f.after+time.Second)
		relay.Delay(f.lasts)
		sleep(ctx, f.after+time.Second)
		relay.Delay(0)
	case faultDrop:
		t.journal.note("fault: streams of %s end", id)
		relay.Drop()
	case faultNACK:
		t.envoys.Lock() // an Envoy that refuses its first update never gets live
		defer t.envoys.Unlock()
		kind := translate.ListenerType
		if f.which>>32%2 == 0 {
			kind = translate.ClusterType
		}
		t.journal.note("fault: %s refuses its next update of %s", id, kind[strings.LastIndex(kind, ".")+1:])
		relay.Spoil(kind, true)
		sleep(ctx, f.lasts+time.Second)
		relay.Spoil(kind, false)
	case faultPilot:
		return t.killPilot(ctx, f.lasts, false)
	case faultForget:
		return t.killPilot(ctx, f.lasts, true)
	case faultEnvoy:
		return t.restart(ctx, id, 0)
	case faultCerts:
		return t.restart(ctx, id, f.lasts)
	case faultStranger:
		t.journal.note("fault: callers without a sidecar call, for %s", f.lasts)
		t.lab.Strangers(true)
		sleep(ctx, f.lasts)
		t.lab.Strangers(false)
		t.journal.note("callers without a sidecar are silent again")
	}
	return nil
}

func (t *trouble) killPilot(ctx context.Context, away time.Duration, forget bool) error {
	t.pilot.Lock()
	defer t.pilot.Unlock()
	if err := t.lab.KillControl(); err != nil {
		return err
	}
	t.journal.note("fault: the control plane is killed, and away for %s", away)
	sleep(ctx, away)
	if forget {
		if err := t.lab.ForgetPhases(); err != nil {
			return err
		}
		t.journal.note("its stored phases are deleted")
	}
	err := t.lab.StartControl()
	t.journal.note("the control plane is started again")
	return err
}

func (t *trouble) restart(ctx context.Context, id model.WorkloadID, late time.Duration) error {
	t.envoys.Lock()
	defer t.envoys.Unlock()
	more := ""
	if late > 0 {
		more = fmt.Sprintf("; its certificate comes %s late", late)
	}
	gone, live := t.journal.outage(id, late > 0)
	t.journal.note("fault: the Envoy of %s is restarted%s", id, more)
	if err := t.lab.RestartSidecar(ctx, id, late, gone); err != nil {
		return err
	}
	live()
	t.journal.note("the Envoy of %s is live again", id)
	return nil
}

// heal ends what a fault may leave behind for good: an update that a proxy
// refused is not sent to it again until it connects anew, or, if the control
// plane knows exactly what was refused, until that is forgotten.
func (t *trouble) heal(ctx context.Context) error {
	for _, id := range t.lab.Sidecars() {
		t.lab.Relay(id).Drop()
	}
	t.journal.note("the drill drops all streams and restarts the control plane, for what was refused")
	return t.killPilot(ctx, 0, false)
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
