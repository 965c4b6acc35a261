package model

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"slices"
)

// digest collects the content of a view. Strings and lists are written with
// their length, so that no two contents write the same bytes.
type digest struct{ buf []byte }

func (d *digest) str(values ...string) {
	for _, s := range values {
		d.num(uint64(len(s)))
		d.buf = append(d.buf, s...)
	}
}

func (d *digest) list(values []string) {
	d.num(uint64(len(values)))
	d.str(values...)
}

func (d *digest) num(values ...uint64) {
	for _, n := range values {
		d.buf = binary.AppendUvarint(d.buf, n)
	}
}

func (d *digest) flag(values ...bool) {
	for _, b := range values {
		if b {
			d.buf = append(d.buf, 1)
		} else {
			d.buf = append(d.buf, 0)
		}
	}
}

func (d *digest) sum(values ...Fingerprint) {
	for _, f := range values {
		d.buf = append(d.buf, f[:]...)
	}
}

// done returns the fingerprint and empties the digest for the next use.
func (d *digest) done() Fingerprint {
	full := sha256.Sum256(d.buf)
	d.buf = d.buf[:0]
	return Fingerprint(full[:16])
}

// Revision names a complete configuration: equal content has an equal one,
// whatever order and files it came in, here and on any other replica. What is
// only known from connected proxies is no part of it.
type Revision struct {
	mesh, services, policies, rules Fingerprint
}

// Revision is the revision of the inputs.
func (in *Inputs) Revision() Revision {
	return Revision{
		mesh:     fingerprint(parts([]Mesh{in.Mesh})),
		services: fingerprint([]Fingerprint{fingerprint(parts(in.Services)), fingerprint(parts(in.Workloads))}),
		policies: fingerprint(parts(in.Policies)),
		rules:    fingerprint(parts(in.Rules)),
	}
}

// Ground is a fingerprint of the inputs without what comes and goes all the
// time: workloads and endpoints, phases, and what is known from proxies.
func (in *Inputs) Ground() string {
	services := slices.Clone(in.Services)
	for i := range services {
		services[i].Ports = slices.Clone(services[i].Ports)
		for j := range services[i].Ports {
			services[i].Ports[j].Endpoints, services[i].Ports[j].Accounts = nil, nil
		}
	}
	sum := fingerprint([]Fingerprint{
		fingerprint(parts([]Mesh{in.Mesh})), fingerprint(parts(services)), fingerprint(parts(in.Policies)), fingerprint(parts(in.Rules)),
	})
	return hex.EncodeToString(sum[:8])
}

// String is short, and enough to tell revisions apart.
func (r Revision) String() string {
	sum := fingerprint([]Fingerprint{r.mesh, r.services, r.policies, r.rules})
	return hex.EncodeToString(sum[:5])
}

// The kinds of changes from one revision to another.
const (
	ChangeFirst   = "first"   // there was none before
	ChangeNothing = "nothing" // equal content
	ChangeMesh    = "mesh"    // mesh configuration
	ChangeService = "service" // services, endpoints and workloads
	ChangePolicy  = "policy"  // policies of servers
	ChangeRule    = "rule"    // destination rules
	ChangeSeveral = "several" // of them at once
)

// ChangeSince is what kind of change led from an earlier revision to r.
func (r Revision) ChangeSince(before Revision) string {
	if before == (Revision{}) {
		return ChangeFirst
	}
	switch r {
	case before:
		return ChangeNothing
	case Revision{r.mesh, before.services, before.policies, before.rules}:
		return ChangeMesh
	case Revision{before.mesh, r.services, before.policies, before.rules}:
		return ChangeService
	case Revision{before.mesh, before.services, r.policies, before.rules}:
		return ChangePolicy
	case Revision{before.mesh, before.services, before.policies, r.rules}:
		return ChangeRule
	}
	return ChangeSeveral
}

// parts are the fingerprints of a list's elements, sorted.
func parts[T any](list []T) []Fingerprint {
	out := make([]Fingerprint, len(list))
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	for i := range list {
		text.Reset()
		if err := enc.Encode(&list[i]); err != nil {
			panic(err) // the types have neither channels nor cycles
		}
		sum := sha256.Sum256(text.Bytes())
		out[i] = Fingerprint(sum[:16])
	}
	slices.SortFunc(out, func(a, b Fingerprint) int { return bytes.Compare(a[:], b[:]) })
	return out
}

func fingerprint(of []Fingerprint) Fingerprint {
	var d digest
	d.sum(of...)
	return d.done()
}
