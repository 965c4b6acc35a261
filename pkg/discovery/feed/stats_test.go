package feed

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

func known(model.WorkloadID) bool   { return true }
func unknown(model.WorkloadID) bool { return false }

// What is not told is zero only once it would have been told.
func TestAbsentIsZeroAfterTwoFlushes(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		s := b.stats("shop/cart")
		const gauge = "http.inbound_80_plain.downstream_cx_active"
		s.flush(map[string]float64{gauge: 2, "http.inbound_80_plain.downstream_cx_total": 5})
		if p := b.of(); p.Port(80).Plain.Known || p.Port(81).Plain.Known || p.Stats.IsZero() {
			t.Errorf("after one flush: %+v", p)
		}
		time.Sleep(time.Second)
		s.flush(map[string]float64{gauge: 1, "http.inbound_80_plain.downstream_cx_total": 6})
		p := b.of()
		if got := p.Port(80).Plain; got != (Open{1, 6, true, time.Now()}) {
			t.Errorf("got %+v", got)
		}
		if got := p.Port(81).Plain; got != (Open{0, 0, true, time.Now()}) {
			t.Errorf("never used: %+v", got)
		}
		// A filter chain's stats go with its last connection.
		s.flush(nil)
		if got := b.of().Port(80).Plain; got != (Open{0, 0, true, time.Now()}) {
			t.Errorf("gone: %+v", got)
		}
		s.cancel()
		synctest.Wait()
		if p := b.of(); p.Port(80).Plain.Known || p.Port(81).Mesh.Known || !p.Stats.IsZero() || !p.Logs.IsZero() {
			t.Errorf("the stream is down: %+v", p)
		}
	})
}

func TestAbsentStaysUnknown(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		s := b.stats("shop/cart")
		s.node.Metadata = nil // the bootstrap of another control plane
		for range 3 {
			s.flush(nil)
		}
		if b.of().Port(80).Plain.Known {
			t.Error("stats that may leave out the series say zero")
		}
	})
	inBubble(t, func(t *testing.T, b *bed) {
		s := b.stats("shop/cart")
		many := map[string]float64{}
		for port := range maxPorts + 1 {
			many[fmt.Sprintf("http.inbound_%d_plain.downstream_cx_active", port+1)] = 1
		}
		for range 2 {
			s.flush(many)
		}
		if b.of().Port(60000).Plain.Known {
			t.Error("more ports than are kept, and the rest is zero")
		}
	})
	inBubble(t, func(t *testing.T, b *bed) {
		b.stats("shop/cart").flush(nil)
		s := b.stats("shop/cart")
		for range 3 {
			s.flush(nil)
		}
		if b.of().Port(80).Plain.Known {
			t.Error("two Envoys tell of one workload, and the last one is believed")
		}
	})
}

func TestPlainAndMesh(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		s := b.stats("shop/cart")
		for range 2 {
			s.flush(map[string]float64{
				"http.inbound_80_plain.downstream_cx_active":           1,
				"http.inbound_80_plain.downstream_cx_total":            10,
				"cluster.inbound|80|plain|.upstream_cx_active":         2, // the application's TLS
				"tcp.inbound_80_app-tls.downstream_cx_total":           20,
				"http.inbound_80_mtls.downstream_cx_active":            3,
				"http.inbound_80_mtls-any.downstream_cx_active":        4,
				"http.inbound_80_mtls.downstream_cx_total":             30,
				"cluster.inbound|80||.upstream_cx_active":              100, // a pool
				"cluster.inbound|3306|plain|.upstream_cx_active":       5,
				"cluster.inbound|3306||.upstream_cx_active":            6,
				"tcp.inbound_3306_mtls.downstream_cx_total":            60,
				"cluster.inbound|other|plain|.upstream_cx_active":      7,
				"cluster.InboundPassthroughCluster.upstream_cx_active": 8,
				"tcp.inbound_other_mtls.downstream_cx_total":           80,
			})
		}
		p := b.of()
		for port, want := range map[uint16]string{80: "3/30 7/30", 3306: "5/0 6/60", 0: "7/0 8/80"} {
			tr := p.Port(port)
			got := fmt.Sprintf("%d/%d %d/%d", tr.Plain.Active, tr.Plain.Total, tr.Mesh.Active, tr.Mesh.Total)
			if got != want {
				t.Errorf("port %d: %s, want %s", port, got, want)
			}
		}
	})
}

// Counters that begin anew, with a new Envoy, go on counting here. Handshakes
// that failed before the first flush are of before this control plane.
func TestRefusalsAndHandshakes(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		const refused, failed, unproven = "http.inbound_80_refuse.downstream_rq_4xx", "listener.0.0.0.0_15006.ssl.connection_error", "listener.0.0.0.0_15006.ssl.fail_verify_no_cert"
		s := b.stats("shop/cart")
		s.flush(map[string]float64{refused: 3, failed: 2, unproven: 1})
		s.flush(map[string]float64{refused: 5, failed: 2, unproven: 2})
		s.cancel()
		synctest.Wait()
		again := b.stats("shop/cart")
		again.flush(map[string]float64{refused: 1})
		if p := b.of(); p.Port(80).Refused != 6 || p.HandshakeErrors != 1 {
			t.Errorf("%d refused, %d handshakes failed", p.Port(80).Refused, p.HandshakeErrors)
		}
	})
}

// Since when the evidence has no gap.
func TestGaps(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		begin := time.Now()
		tick := func(what string, wantLogs, wantStats time.Duration) {
			t.Helper()
			synctest.Wait()
			p := b.of()
			if !p.Logs.Equal(begin.Add(wantLogs)) || !p.Stats.Equal(begin.Add(wantStats)) {
				t.Errorf("%s: logs since %s, stats since %s", what, p.Logs.Sub(begin), p.Stats.Sub(begin))
			}
			time.Sleep(time.Second)
		}
		s := b.stats("shop/cart")
		s.flush(nil)
		tick("stats", 0, 0)
		log := b.logs("shop/cart", "plain") // opened for the first record
		tick("a log", 0, 0)
		other := b.logs("shop/cart", "refuse")
		log.cancel()
		tick("a log ends", 2*time.Second, 0)
		b.logs("shop/cart", "plain")
		tick("and begins", 2*time.Second, 0)
		s.flush(map[string]float64{"access_logs.grpc_access_log.logs_dropped": 1})
		tick("records are dropped", 4*time.Second, 0)
		s.flush(map[string]float64{"access_logs.grpc_access_log.logs_dropped": 1})
		tick("no more", 4*time.Second, 0)
		other.cancel()
		s.cancel()
		synctest.Wait()
		if p := b.of(); !p.Stats.IsZero() || !p.Logs.Equal(begin.Add(6*time.Second)) {
			t.Errorf("stats are down: logs since %s, stats since %s", p.Logs.Sub(begin), p.Stats)
		}
		time.Sleep(time.Second)
		again := b.stats("shop/cart")
		again.flush(nil)
		tick("stats come again", 6*time.Second, 7*time.Second)
	})
}

func TestChanged(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		woken := func() bool {
			synctest.Wait()
			select {
			case <-b.feed.Changed():
				return true
			default:
				return false
			}
		}
		s := b.stats("shop/cart")
		gauge := map[string]float64{"http.inbound_80_plain.downstream_cx_active": 2}
		s.flush(gauge)
		if !woken() {
			t.Error("not woken by a stream")
		}
		s.flush(gauge)
		if woken() {
			t.Error("woken twice in 100 ms")
		}
		time.Sleep(wakeTime)
		if !woken() {
			t.Error("not woken by the second flush")
		}
		time.Sleep(time.Second)
		gauge["http.inbound_80_plain.downstream_cx_active"] = 1
		s.flush(gauge)
		if woken() {
			t.Error("woken by one connection less of several")
		}
		gauge["http.inbound_80_plain.downstream_cx_active"] = 0
		s.flush(gauge)
		if !woken() {
			t.Error("not woken by the last connection's end")
		}
		time.Sleep(time.Second)
		log := b.logs("shop/cart", "plain")
		_ = woken()
		time.Sleep(time.Second)
		log.http(common("10.0.0.7", 80, start))
		if !woken() {
			t.Error("not woken by a new peer")
		}
		time.Sleep(time.Second)
		log.http(common("10.0.0.7", 80, start))
		if woken() {
			t.Error("woken by a known peer")
		}
	})
}
