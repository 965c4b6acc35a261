package replicas

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

const (
	statesKey        = "states" // of BinaryData: Encode's bytes, compressed
	serialAnnotation = "pilot.meshpilot.io/serial"
	leaderAnnotation = "pilot.meshpilot.io/leader" // who wrote it

	// mostBytes leaves room for the rest of an object, which may have 1 MiB.
	mostBytes = 1_000_000
)

// stored is the object of the phases as this replica knows it.
type stored struct {
	states  map[model.Target]rollout.State // nil: not known
	serial  uint64                         // of states; grows with every Save, of whatever replica
	version string                         // resourceVersion that this leader wrote; empty: there is no object
	data    []byte                         // that this leader wrote last, not compressed
	again   uint64                         // how often somebody else wrote while this one led
}

// Term numbers this replica's leaderships; 0: it does not lead. With another
// term, Load comes before Save.
func (g *Group) Term() uint64 {
	term := g.options.Lease.Term()
	if term == 0 {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return term + g.phases.again
}

// Load is for who begins to lead: it gives what was stored last, nil if
// nothing was ever, and makes the object this leader's: whatever an earlier
// one still wants to store is refused.
func (g *Group) Load() (map[model.Target]rollout.State, error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTime)
	defer cancel()
	maps := g.options.Client.CoreV1().ConfigMaps(g.options.Namespace)
	cm, err := maps.Get(ctx, PhasesName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.phases.version, g.phases.data = "", nil
		return g.phases.states, nil // if somebody took it away, what is in force counts
	}
	if err != nil {
		return nil, err
	}
	states, data, serial, err := read(cm)
	if err != nil {
		return nil, fmt.Errorf("%w; restore it from a copy, or, if every client and server of the mesh is known to be where its mode ends, delete it", errStored(err))
	}
	if cm, err = maps.Update(ctx, g.written(data, serial+1, cm.ResourceVersion), metav1.UpdateOptions{}); err != nil {
		return nil, err
	}
	g.took(states, data, serial+1, cm.ResourceVersion)
	return states, nil
}

// Save stores all states: only for the leader, and only if nobody else has
// stored anything since Load.
func (g *Group) Save(states map[model.Target]rollout.State) error {
	data, err := rollout.Encode(states)
	if err != nil {
		return err
	}
	g.mu.Lock()
	last := g.phases
	g.mu.Unlock()
	if last.version != "" && bytes.Equal(data, last.data) {
		return nil
	}
	if small, err := pack(data); err != nil || len(small) > mostBytes {
		return errors.Join(err, fmt.Errorf("the phases of %d targets take %d bytes, compressed, of the %d that the ConfigMap %s can hold: "+
			"split the mesh, or let fewer ports be targets", len(states), len(small), mostBytes, PhasesName))
	}
	if !g.options.Lease.Leader() {
		return ErrNotLeader
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTime)
	defer cancel()
	version, err := g.write(ctx, data, last.serial+1, last.version)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
		version, err = g.overwrite(ctx, data, last)
	}
	if err != nil {
		return errStored(err)
	}
	g.took(maps.Clone(states), data, last.serial+1, version)
	return nil
}

func (g *Group) write(ctx context.Context, data []byte, serial uint64, version string) (string, error) {
	configMaps := g.options.Client.CoreV1().ConfigMaps(g.options.Namespace)
	object := g.written(data, serial, version)
	var err error
	if version == "" {
		object, err = configMaps.Create(ctx, object, metav1.CreateOptions{})
	} else {
		object, err = configMaps.Update(ctx, object, metav1.UpdateOptions{})
	}
	if err != nil {
		return "", err
	}
	return object.ResourceVersion, nil
}

// overwrite writes once more if the object is not what this leader wrote, but
// nobody else's phases: it was deleted, its metadata was edited, or the answer
// to an earlier write was lost.
func (g *Group) overwrite(ctx context.Context, data []byte, last stored) (string, error) {
	cm, err := g.options.Client.CoreV1().ConfigMaps(g.options.Namespace).Get(ctx, PhasesName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return g.write(ctx, data, last.serial+1, "")
	}
	if err != nil {
		return "", err
	}
	_, there, serial, err := read(cm)
	mine := cm.Annotations[leaderAnnotation] == g.self && serial <= last.serial+1
	if err != nil || !mine && !bytes.Equal(there, last.data) {
		g.mu.Lock()
		g.phases.again++ // Load decides
		g.mu.Unlock()
		g.signal()
		return "", errors.New("somebody else wrote it")
	}
	return g.write(ctx, data, last.serial+1, cm.ResourceVersion)
}

func (g *Group) written(data []byte, serial uint64, version string) *corev1.ConfigMap {
	cm := g.object(PhasesName, partPhases)
	cm.ResourceVersion = version
	cm.Annotations[serialAnnotation] = strconv.FormatUint(serial, 10)
	cm.Annotations[leaderAnnotation] = g.self
	small, _ := pack(data) // into memory, which does not fail
	cm.BinaryData = map[string][]byte{statesKey: small}
	return cm
}

func (g *Group) took(states map[model.Target]rollout.State, data []byte, serial uint64, version string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.phases.version, g.phases.data = version, data
	g.phases.serial, g.phases.states = serial, states
}

// phasesSeen follows what a leader stored. It never goes back: the watch may
// be behind what this replica wrote itself.
func (g *Group) phasesSeen(cm *corev1.ConfigMap) error {
	states, _, serial, err := read(cm)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.phases.states == nil || serial > g.phases.serial {
		g.phases.states, g.phases.serial = states, serial
	}
	return nil
}

func read(cm *corev1.ConfigMap) (states map[model.Target]rollout.State, data []byte, serial uint64, err error) {
	if data, err = unpack(cm.BinaryData[statesKey]); err != nil {
		return nil, nil, 0, fmt.Errorf("%s: %w", statesKey, err)
	}
	if states, err = rollout.Decode(data); err != nil {
		return nil, nil, 0, err
	}
	serial, err = strconv.ParseUint(cm.Annotations[serialAnnotation], 10, 64)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("annotation %s: %w", serialAnnotation, err)
	}
	return states, data, serial, nil
}
