package replicas

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/pkg/rollout"
)

const (
	aboutKey    = "about"    // of BinaryData: what a replica is, compressed
	evidenceKey = "evidence" // of BinaryData: what it knows of its proxies

	// A report is written when there is another, at most once in writeTime; and
	// for a sign of life after idleTime, or openTime while a target is under way.
	writeTime = time.Second
	openTime  = 2 * time.Second
	idleTime  = 5 * time.Second
	// silentTime is how long a replica may write nothing.
	silentTime = 15 * time.Second
	// returnTime is how long proxies of a replica that is gone may take to
	// connect to another: Envoy waits for up to 30 s between attempts.
	returnTime = 45 * time.Second
	// forgetTime is when a silent replica that is no pod is taken for gone.
	forgetTime = 30 * time.Second
	keptBeats  = 256
)

// telling is what this replica last said of itself.
type telling struct {
	about  rollout.Replica
	report rollout.Report
}

// letter is the part of a report about the replica.
type letter struct {
	Boot string `json:"boot"`
	Seq  uint64 `json:"seq"`
	Pod  bool   `json:"pod,omitempty"` // its name is a pod's
	rollout.Replica
	// Echoes are the last that it heard of others: their readers know by it
	// when it wrote, without a common clock.
	Echoes map[string]echo `json:"echoes,omitempty"`
}

type echo struct {
	Boot string `json:"boot"`
	Seq  uint64 `json:"seq"`
	Age  int64  `json:"age"` // milliseconds since it was heard
}

// other is another replica.
type other struct {
	letter letter
	report rollout.Report
	at     time.Time // it was heard
}

// departed is a replica that runs no more, until its proxies are back.
type departed struct {
	name  string
	last  *other
	until time.Time
}

// Tell is what this replica says from now on. It never blocks.
func (g *Group) Tell(about rollout.Replica, report rollout.Report) {
	g.mu.Lock()
	g.own = &telling{about, report}
	g.mu.Unlock()
	select {
	case g.told <- struct{}{}:
	default:
	}
}

// report writes what was told, at once, and then when it is due.
func (g *Group) report(ctx context.Context) {
	var last time.Time
	for {
		began := time.Now()
		err := g.writeReport(ctx, began)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			last = began
		}
		g.troubled("report", "this replica cannot report to the others, which wait for its proxies", err)
		heartbeat := idleTime
		g.mu.Lock()
		if g.own != nil && g.own.about.Open {
			heartbeat = openTime
		}
		g.mu.Unlock()
		if !sleep(ctx, writeTime-time.Since(began)) {
			return
		}
		if err != nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-g.told:
		case <-time.After(max(0, time.Until(last.Add(heartbeat)))):
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(max(0, d)):
		return true
	}
}

func (g *Group) writeReport(ctx context.Context, now time.Time) error {
	cm, err := g.compose(now)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	configMaps := g.options.Client.CoreV1().ConfigMaps(g.options.Namespace)
	if _, err = configMaps.Update(ctx, cm, metav1.UpdateOptions{}); apierrors.IsNotFound(err) {
		_, err = configMaps.Create(ctx, cm, metav1.CreateOptions{})
	}
	if err != nil {
		return err
	}
	g.mu.Lock()
	first := !g.announced
	g.announced = true
	g.mu.Unlock()
	if first {
		g.signal() // the others know that it is there
	}
	return nil
}

// compose is the object of this replica at a moment.
func (g *Group) compose(now time.Time) (*corev1.ConfigMap, error) {
	g.mu.Lock()
	told := g.own
	if told == nil {
		told = &telling{}
	}
	g.seq++
	g.beats[g.seq] = now
	delete(g.beats, g.seq-keptBeats)
	l := letter{Boot: g.boot, Seq: g.seq, Pod: g.options.Pod, Replica: told.about, Echoes: map[string]echo{}}
	for name, o := range g.others {
		l.Echoes[name] = echo{o.letter.Boot, o.letter.Seq, now.Sub(o.at).Milliseconds()}
	}
	g.mu.Unlock()
	text, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	about, err := pack(text)
	if err != nil {
		return nil, err
	}
	evidence, err := packed(told.report, now)
	if err != nil {
		return nil, err
	}
	if len(about)+len(evidence) > mostBytes {
		counted := told.report
		counted.Dropped += len(counted.Clients) + len(counted.Servers)
		counted.Clients, counted.Servers = nil, nil
		if evidence, err = packed(counted, now); err != nil {
			return nil, err
		}
	}
	cm := g.object(ReportPrefix+g.self, partReport)
	cm.Data = map[string]string{"revision": l.Revision, "proxies": strconv.Itoa(l.Proxies), "leader": g.Leader()}
	cm.BinaryData = map[string][]byte{aboutKey: about, evidenceKey: evidence}
	return cm, nil
}

func packed(r rollout.Report, now time.Time) ([]byte, error) {
	data, err := r.Encode(now)
	if err != nil {
		return nil, err
	}
	return pack(data)
}

// reportSeen takes the report of another replica.
func (g *Group) reportSeen(name string, cm *corev1.ConfigMap, now time.Time) error {
	text, err := unpack(cm.BinaryData[aboutKey])
	if err != nil {
		return err
	}
	next := &other{at: now}
	if err := json.Unmarshal(text, &next.letter); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.others[name]
	if before != nil && before.letter.Boot == next.letter.Boot && before.letter.Seq >= next.letter.Seq {
		return nil // known
	}
	var wrote time.Time
	if e := next.letter.Echoes[g.self]; e.Boot == g.boot {
		if beat, ok := g.beats[e.Seq]; ok {
			wrote = beat.Add(time.Duration(e.Age) * time.Millisecond)
		}
	}
	evidence, err := unpack(cm.BinaryData[evidenceKey])
	if err != nil {
		return err
	}
	if next.report, err = rollout.DecodeReport(evidence, wrote, now); err != nil {
		return err
	}
	if before != nil && before.letter.Boot != next.letter.Boot {
		g.departs(name, before, now) // the process is another one
	}
	g.others[name] = next
	return nil
}

// ownSeen is an error if another process reports under this one's name.
func (g *Group) ownSeen(cm *corev1.ConfigMap) error {
	text, err := unpack(cm.BinaryData[aboutKey])
	if err != nil {
		return nil // it is about to be written anew
	}
	var l letter
	if err := json.Unmarshal(text, &l); err != nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.announced && l.Boot != g.boot {
		return errors.New("another process is " + g.self + ", too")
	}
	return nil
}

// depart takes that a replica runs no more.
func (g *Group) depart(name string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if o := g.others[name]; o != nil {
		g.departs(name, o, now)
		delete(g.others, name)
	}
}

func (g *Group) departs(name string, o *other, now time.Time) {
	g.lost = now
	if o.letter.Proxies > 0 {
		g.gone = append(g.gone, departed{name, o, now.Add(returnTime)})
	}
}

// Known are the other replicas, by name, and when one was lost last.
func (g *Group) Known(now time.Time) (all []rollout.Known, lost time.Time) {
	holder := g.Leader()
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, o := range g.others {
		k := known(name, o, now)
		k.Leads = name == holder
		if k.Age > silentTime {
			k.Silent = "is silent"
		}
		all = append(all, k)
	}
	g.gone = slices.DeleteFunc(g.gone, func(d departed) bool { return !now.Before(d.until) })
	for _, d := range g.gone {
		k := known(d.name, d.last, now)
		k.Gone, k.Silent = true, "does not run any more, and its proxies may not be back yet"
		all = append(all, k)
	}
	slices.SortStableFunc(all, func(a, b rollout.Known) int { return strings.Compare(a.Replica, b.Replica) })
	return all, g.lost
}

func known(name string, o *other, now time.Time) rollout.Known {
	return rollout.Known{Heard: rollout.Heard{Replica: name, Report: o.report}, About: o.letter.Replica, Age: now.Sub(o.at)}
}

// departedNames are silent replicas that may not run any more.
func (g *Group) departedNames(now time.Time) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(g.others)), func(name string) bool {
		o := g.others[name]
		age := now.Sub(o.at)
		return age <= silentTime || !o.letter.Pod && age <= forgetTime
	})
}

// remove takes the object of a replica away if its pod is.
func (g *Group) remove(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	g.mu.Lock()
	o := g.others[name]
	g.mu.Unlock()
	if o == nil {
		return nil
	}
	if o.letter.Pod {
		_, err := g.options.Client.CoreV1().Pods(g.options.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			return nil // it is silent, but may serve
		}
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("does its pod run: %w", err)
		}
	}
	g.options.Log.Info("replicas: a replica is gone", "replica", name)
	return g.delete(ctx, name)
}

func (g *Group) delete(ctx context.Context, name string) error {
	err := g.options.Client.CoreV1().ConfigMaps(g.options.Namespace).Delete(ctx, ReportPrefix+name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// leave says that this replica is gone.
func (g *Group) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), requestTime)
	defer cancel()
	if err := g.delete(ctx, g.self); err != nil {
		g.options.Log.Warn("replicas: this one cannot say that it stops", "error", err)
	}
}
