package secrets

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
)

// BenchmarkTenThousand makes Secrets for 10,000 accounts, and then looks at
// all of them when nothing is to be done. Memory is what the controller holds.
func BenchmarkTenThousand(b *testing.B) {
	const n = 10_000
	accounts := make([]Account, n)
	for i := range accounts {
		accounts[i] = Account{fmt.Sprintf("namespace-%d", i%100), fmt.Sprintf("account-%d", i)}
	}
	ca := newCA(b)
	for b.Loop() {
		dir := Directory{Path: b.TempDir()}
		before := heap()
		c := New(Options{Store: dir, CA: ca, Renewal: identity.Renewal{Ratio: 0.5}})
		start := time.Now()
		if p := c.look(context.Background(), "cluster.local", accounts, true); len(p) > 0 || c.Stats().Secrets != n {
			b.Fatal(p, c.Stats())
		}
		made := time.Now()
		c.look(context.Background(), "cluster.local", accounts, true)
		idle := time.Now()
		c.generation-- // as if the CA had changed: everything is read again
		c.look(context.Background(), "cluster.local", accounts, false)
		b.ReportMetric(made.Sub(start).Seconds(), "s/make")
		b.ReportMetric(idle.Sub(made).Seconds(), "s/resync")
		b.ReportMetric(time.Since(idle).Seconds(), "s/reread")
		b.ReportMetric(float64(heap()-before)/n, "heapB/identity")
		runtime.KeepAlive(c)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
