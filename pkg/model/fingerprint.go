package model

import (
	"crypto/sha256"
	"encoding/binary"
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
