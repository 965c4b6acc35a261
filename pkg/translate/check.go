package translate

import (
	"errors"
	"fmt"
	"slices"

	"github.com/meshpilot/pilot/pkg/model"
)

// Check says what Envoy would refuse in a half: a broken rule of its API, or a
// reference to something that is not there.
func Check(h *Half, endpoints *Table) error {
	var errs []error
	for _, field := range h.tables() {
		_, bad := judgement{half: h, endpoints: endpoints}.sift(*field, &Table{})
		errs = append(errs, bad...)
	}
	return errors.Join(errs...)
}

// Sound is h as it may be sent: in place of each resource that Envoy would
// refuse is the one of that name in last, an earlier sound half of the class
// or nil, or none. The error says what was wrong. before are the endpoints
// that last was checked with.
func Sound(h, last *Half, endpoints, before *Table) (*Half, error) {
	if last == nil {
		last = newHalf()
	}
	sound := *h
	olds := last.tables()
	trust := !lost(before, endpoints)
	for i, field := range sound.tables() {
		trust = trust && !lost(*olds[i], *field)
	}
	var errs []error
	for again := true; again; trust = false { // who lost what it refers to is bad in its turn
		again = false
		for i, field := range sound.tables() {
			kept, bad := judgement{&sound, endpoints, trust}.sift(*field, *olds[i])
			if len(bad) > 0 {
				again, errs = true, append(errs, bad...)
				*field = newTable(kept, *olds[i])
			}
		}
	}
	if len(errs) > 0 {
		sound.topology = model.Fingerprint{} // what is left out now may do next time
		sound.NeedsSecrets = sound.NeedsSecrets || last.NeedsSecrets
	}
	return &sound, errors.Join(errs...)
}

// SoundEndpoints is Sound for the endpoints of the mesh.
func SoundEndpoints(t, last *Table) (*Table, error) {
	if last == nil {
		last = &Table{}
	}
	kept, bad := judgement{half: newHalf(), endpoints: t, trust: true}.sift(t, last)
	if len(bad) == 0 {
		return t, nil
	}
	return newTable(kept, last), errors.Join(bad...)
}

func newHalf() *Half {
	none := &Table{}
	return &Half{Secrets: none, SecretsRespelled: none, Clusters: none, Listeners: none, Routes: none, Resident: none}
}

// tables are the fields that hold tables.
func (h *Half) tables() []**Table {
	fields := []**Table{&h.Secrets, &h.SecretsRespelled, &h.Clusters, &h.Listeners, &h.Routes}
	if h.Resident != nil {
		fields = append(fields, &h.Resident)
	}
	return fields
}

// lost says whether a name of the old table is not in the new one.
func lost(old, now *Table) bool {
	if old == now || old == nil {
		return false
	}
	i := 0
	for _, r := range old.Resources {
		for i < len(now.Resources) && now.Resources[i] != r && now.Resources[i].Name < r.Name {
			i++
		}
		if i == len(now.Resources) || now.Resources[i] != r && now.Resources[i].Name != r.Name {
			return true
		}
	}
	return false
}

// judgement is what the resources of a half are judged by.
type judgement struct {
	half      *Half
	endpoints *Table
	trust     bool // what was good before still is
}

// sift are the good ones of a table, the old ones of the same name in place
// of the others, and what is wrong with these: kept is nil if nothing is.
func (j judgement) sift(t, old *Table) (kept []*Resource, bad []error) {
	if j.trust && t == old {
		return nil, nil
	}
	at := 0
	for i, r := range t.Resources {
		for at < len(old.Resources) && old.Resources[at] != r && old.Resources[at].Name < r.Name {
			at++
		}
		var before *Resource
		if at < len(old.Resources) && (old.Resources[at] == r || old.Resources[at].Name == r.Name) {
			before = old.Resources[at]
		}
		var faults []error
		if i > 0 && t.Resources[i-1].Name == r.Name {
			faults = append(faults, fmt.Errorf("%s: name used twice", r.Name))
			before = nil // its first is kept
		} else if !j.trust || r != before {
			faults = j.faults(r)
		}
		if len(faults) > 0 && len(bad) == 0 {
			kept = slices.Clone(t.Resources[:i])
		}
		bad = append(bad, faults...)
		switch {
		case len(bad) == 0:
		case len(faults) == 0:
			kept = append(kept, r)
		case before != nil && before != r:
			kept = append(kept, before)
		}
	}
	return kept, bad
}

func (j judgement) faults(r *Resource) []error {
	var out []error
	fault := func(format string, a ...any) {
		out = append(out, fmt.Errorf("%s: "+format, append([]any{r.Name}, a...)...))
	}
	if r.err != nil {
		fault("%w", r.err)
	}
	for _, name := range r.clusters {
		if name != blackHoleCluster && j.half.Clusters.Find(name) == nil {
			fault("cluster %s does not exist", name)
		}
	}
	for _, name := range r.routes {
		if name != proxyRoute && j.half.Routes.Find(name) == nil {
			fault("route %s does not exist", name)
		}
	}
	for _, name := range r.secrets {
		if j.half.Secrets.Find(name) == nil || j.half.SecretsRespelled.Find(name) == nil {
			fault("secret %s does not exist", name)
		}
	}
	if r.eds != "" && j.endpoints.Find(r.eds) == nil {
		fault("endpoints do not exist")
	}
	return out
}
