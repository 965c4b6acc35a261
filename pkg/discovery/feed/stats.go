package feed

import (
	"math"
	"time"

	"github.com/meshpilot/pilot/pkg/translate"
	"google.golang.org/protobuf/encoding/protowire"
)

// figures are the series of a port in one flush. What a flush does not tell
// was never used, or is gone with its filter chain, so it is zero.
type figures struct {
	plainOpen, passOpen, meshOpen, toAppOpen uint64
	plainTotal, meshTotal, meshTCPTotal      uint64
	refusals                                 uint64
}

func (f *figures) plain() (active, total uint64) { return f.plainOpen + f.passOpen, f.plainTotal }

// mesh leaves out the connections to the application of an HTTP port: they
// are pooled, and carry plaintext requests as well.
func (f *figures) mesh() (active, total uint64) {
	if f.meshTCPTotal == 0 {
		return f.meshOpen, f.meshTotal
	}
	return f.meshOpen + f.toAppOpen, f.meshTotal + f.meshTCPTotal
}

func (f *figures) add(s translate.Series, value uint64) {
	switch s {
	case translate.SeriesPlainOpen:
		f.plainOpen += value
	case translate.SeriesPassOpen:
		f.passOpen += value
	case translate.SeriesPlain:
		f.plainTotal += value
	case translate.SeriesMeshOpen:
		f.meshOpen += value
	case translate.SeriesMesh:
		f.meshTotal += value
	case translate.SeriesMeshTCP:
		f.meshTCPTotal += value
	case translate.SeriesToAppOpen:
		f.toAppOpen += value
	case translate.SeriesRefused:
		f.refusals += value
	}
}

// flush takes all stats of a message, and says whether a reader waits for
// what they say.
func (p *proxy) flush(message []byte, now time.Time, refused func(port uint16, more uint64)) (news bool, err error) {
	for _, t := range p.ports {
		t.before, t.figures = t.figures, figures{}
	}
	p.crowded = false
	var handshakes, lost uint64
	err = messages(message, metricsFamily, func(family []byte) {
		name, value := readFamily(family)
		port, series := translate.ReadSeries(name)
		switch series {
		case translate.NoSeries:
		case translate.SeriesHandshake:
			handshakes += value
		case translate.SeriesLost:
			lost += value
		default:
			if t := p.port(port); t != nil {
				t.add(series, value)
			}
		}
	})
	for port, t := range p.ports {
		if t.figures == (figures{}) && t.before == (figures{}) && t.refused == 0 && len(t.peers) == 0 {
			delete(p.ports, port)
		}
		if more := grown(t.before.refusals, t.figures.refusals); more > 0 {
			t.refused += more
			refused(port, more)
		}
		plain, _ := t.plain()
		mesh, _ := t.mesh()
		plainBefore, _ := t.before.plain()
		meshBefore, _ := t.before.mesh()
		news = news || (plain == 0) != (plainBefore == 0) || (mesh == 0) != (meshBefore == 0)
	}
	if p.counted { // else they failed before anybody listened
		p.handshakeErrors += grown(p.handshakes, handshakes)
	}
	p.counted = true
	if lost > p.lost {
		p.gap(now)
		news = true
	}
	p.handshakes, p.lost = handshakes, lost
	p.flushes++
	p.flushed = now
	return news || p.flushes == enoughFlushes, err
}

// grown is what a counter counted; one that is smaller than it was began anew.
func grown(before, now uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

// The fields that are read of Envoy's and Prometheus' messages.
const (
	metricsIdentifier = 1
	metricsFamily     = 2

	familyName   = 1
	familyMetric = 4

	metricGauge   = 2
	metricCounter = 3
	metricValue   = 1
)

// readFamily is the name and the sum of the gauges or counters; what is
// malformed is zero.
func readFamily(family []byte) (name string, value uint64) {
	for f, ok := first(family); ok; f, ok = first(f.rest) {
		switch f.number {
		case familyName:
			name = string(f.bytes)
		case familyMetric:
			for m, ok := first(f.bytes); ok; m, ok = first(m.rest) {
				if m.number != metricGauge && m.number != metricCounter {
					continue
				}
				for v, ok := first(m.bytes); ok; v, ok = first(v.rest) {
					if v.number == metricValue && v.kind == protowire.Fixed64Type {
						value += uint64(max(0, math.Float64frombits(v.value)))
					}
				}
			}
		}
	}
	return name, value
}
