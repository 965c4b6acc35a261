package replica

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
	"github.com/meshpilot/pilot/pkg/translate"
)

// mostParts is how many classes are compared besides the endpoints. Which
// ones changes with the inputs, and is the same on all replicas.
const mostParts = 64

// Inputs names all that a world is made of: equal inputs must give equal
// bytes. Sidecars are those that are known by their connection only.
func Inputs(revision string, wanted []model.Wanted, sidecars []model.WorkloadID) string {
	h := sha256.New()
	fmt.Fprintln(h, revision)
	for i := range wanted {
		w := &wanted[i]
		fmt.Fprintln(h, w.Namespace, w.Group, w.Port, uint8(w.Decision.Phase))
	}
	for _, id := range sidecars {
		fmt.Fprintln(h, id)
	}
	return hex.EncodeToString(h.Sum(nil)[:10])
}

// Content is the hash of what is sent, by its part: the endpoints, and a
// sample of classes; without what kept says stays as it was, of no class: the
// endpoints.
func Content(w *ads.World, inputs string, kept func(client *model.ClientClass, server *model.ServerClass) bool) map[string]string {
	if w == nil || w.Endpoints == nil {
		return nil
	}
	type part struct {
		name, content string
		place         uint64
	}
	var parts []part
	add := func(name string, half *translate.Half) {
		sum := sha256.Sum256([]byte(inputs + name))
		parts = append(parts, part{name, hashed(half), binary.BigEndian.Uint64(sum[:])})
	}
	for class, half := range w.Client {
		if !kept(&class, nil) {
			add(fmt.Sprintf("clients %s/%v/%v", class.Namespace, class.Type, class.Capture), half)
		}
	}
	for class, half := range w.Server {
		if !kept(nil, &class) {
			sum := sha256.Sum256(fmt.Appendf(nil, "%+v", class))
			add("servers "+class.Namespace+"/"+hex.EncodeToString(sum[:6]), half)
		}
	}
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.place, b.place) })
	out := map[string]string{}
	if !kept(nil, nil) {
		out["endpoints"] = w.Endpoints.Version
	}
	for _, p := range parts[:min(mostParts, len(parts))] {
		out[p.name] = p.content
	}
	return out
}

func hashed(h *translate.Half) string {
	sum := sha256.New()
	for _, t := range []*translate.Table{h.Secrets, h.Clusters, h.Listeners, h.Routes} {
		version := ""
		if t != nil {
			version = t.Version
		}
		fmt.Fprintln(sum, version)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// Number is a hash as a metric: equal numbers are equal hashes.
func Number(hash string) float64 {
	sum := sha256.Sum256([]byte(hash))
	return float64(binary.BigEndian.Uint64(sum[:]) >> 12) // what a float64 holds exactly
}

// Diverged says of each other replica that has equal inputs whether it sends
// something else.
func Diverged(own rollout.Replica, others []rollout.Known) []string {
	var out []string
	for _, k := range others {
		if own.Inputs == "" || k.Silent != "" || k.About.Inputs != own.Inputs {
			continue
		}
		var differ []string
		for name, content := range own.Content {
			if theirs, both := k.About.Content[name]; both && theirs != content {
				differ = append(differ, name)
			}
		}
		if slices.Sort(differ); len(differ) > 0 {
			out = append(out, fmt.Sprintf("replica %s has equal inputs (revision %s), but sends others: %s",
				k.Replica, own.Revision, strings.Join(differ[:min(len(differ), 5)], ", ")))
		}
	}
	return out
}
