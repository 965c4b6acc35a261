package inspect

import (
	"crypto/x509"
	"encoding/pem"
	"time"
)

// Public is a set as a control plane shows it: certificates only, the first
// of which in readable words too.
type Public struct {
	Name     string    `json:"name"`
	Identity string    `json:"identity,omitempty"`
	Serial   string    `json:"serial,omitempty"`
	NotAfter time.Time `json:"notAfter,omitzero"`
	Chain    string    `json:"chain,omitempty"` // PEM
	Roots    string    `json:"roots,omitempty"` // PEM; of all, if only the first has some
}

// Show is what may be seen of a chain, its leaf first.
func Show(name string, chain, roots []*x509.Certificate) Public {
	p := Public{Name: name, Chain: encode(chain), Roots: encode(roots)}
	if len(chain) > 0 {
		d := describe(Leaf, chain[0])
		p.Identity, p.Serial, p.NotAfter = d.Identity, d.Serial, d.NotAfter
	}
	return p
}

func encode(certs []*x509.Certificate) string {
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return string(text)
}

// Sets are what a control plane shows; the roots of the first are those of all.
func Sets(held []Public) []Set {
	sets := make([]Set, len(held))
	for i, p := range held {
		sets[i] = Set{Name: p.Name, Chain: []byte(p.Chain), Roots: []byte(p.Roots)}
		if i > 0 && p.Roots == "" {
			sets[i].Roots, sets[i].Presented = []byte(held[0].Roots), true
		}
	}
	return sets
}
