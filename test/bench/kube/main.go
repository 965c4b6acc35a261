// Command kube measures the source of a Kubernetes cluster against a real API
// server: from start to the first bundle, memory, CPU at rest, and from one
// change to its bundle.
//
//	PATH=$(hack/kube.sh):$PATH go run ./test/bench/kube
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/internal/kubetest"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
)

func main() {
	var size size
	flag.IntVar(&size.services, "services", 1000, "services")
	flag.IntVar(&size.endpoints, "endpoints", 10, "endpoints of each service")
	flag.IntVar(&size.pods, "pods", 2000, "pods, which are behind the endpoints in turn")
	edits := flag.Int("edits", 50, "changes of one EndpointSlice that are timed")
	rest := flag.Duration("rest", 20*time.Second, "how long CPU at rest is measured")
	flag.Parse()
	if err := measure(os.Stdout, size, *edits, *rest); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measured is one run of a source.
type measured struct {
	published chan time.Time
	bundle    meshconfig.Bundle
	err       chan error
}

func measure(out io.Writer, size size, edits int, rest time.Duration) (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	quiet := slog.New(slog.DiscardHandler)
	kube.LogTo(quiet)
	server, err := kubetest.New(kubetest.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	began := time.Now()
	if err := size.fill(ctx, server.Client); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d services x %d endpoints, %d pods (written in %s)\n", size.services, size.endpoints, size.pods, time.Since(began).Round(time.Second))

	api := &cluster.Cluster{Config: server.Config(), Namespace: "istio-system"}
	var errs [3]error
	api.Client, errs[0] = kubernetes.NewForConfig(api.Config)
	api.Dynamic, errs[1] = dynamic.NewForConfig(api.Config)
	api.Metadata, errs[2] = metadata.NewForConfig(api.Config)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	before, began := heap(), time.Now()
	m := &measured{published: make(chan time.Time), err: make(chan error, 1)}
	source := &kube.Source{Cluster: api, Namespace: "istio-system", Log: quiet}
	go func() {
		m.err <- source.Run(ctx, func(b meshconfig.Bundle, _ []meshconfig.Problem) {
			m.bundle = b
			select {
			case m.published <- time.Now():
			case <-ctx.Done():
			}
		})
	}()
	at, err := m.next()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "start to the first bundle   %s (%d services, %d slices, %d pods)\n", at.Sub(began).Round(time.Millisecond),
		len(m.bundle.Services), len(m.bundle.EndpointSlices), len(m.bundle.Pods))
	fmt.Fprintf(out, "heap of the source          %.1f MB; peak resident of this process %.0f MB\n", float64(heap()-before)/1e6, peak())
	if err := timeEdits(ctx, out, server.Client, m, edits); err != nil {
		return err
	}
	cpu := cpuTime()
	time.Sleep(rest)
	fmt.Fprintf(out, "CPU at rest                 %.2f %%\n", 100*float64(cpuTime()-cpu)/float64(rest))
	runtime.KeepAlive(m)
	return nil
}

func (m *measured) next() (time.Time, error) {
	select {
	case at := <-m.published:
		return at, nil
	case err := <-m.err:
		return time.Time{}, fmt.Errorf("the source ended: %w", err)
	case <-time.After(time.Minute):
		return time.Time{}, errors.New("no bundle for a minute")
	}
}

// timeEdits changes one EndpointSlice again and again; the time is from the
// write's start to its bundle.
func timeEdits(ctx context.Context, out io.Writer, client kubernetes.Interface, m *measured, edits int) error {
	list := client.DiscoveryV1().EndpointSlices(namespace(0))
	slice, err := list.Get(ctx, "svc-0-1", metav1.GetOptions{})
	if err != nil {
		return err
	}
	var took []time.Duration
	for i := range edits {
		ready := i%2 == 1
		slice.Endpoints[0].Conditions.Ready = &ready
		began := time.Now()
		if slice, err = list.Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
			return err
		}
		at, err := m.next()
		if err != nil {
			return err
		}
		took = append(took, at.Sub(began))
	}
	slices.Sort(took)
	fmt.Fprintf(out, "one slice to its bundle     median %s, worst %s of %d (30 ms of it gather changes)\n",
		took[len(took)/2].Round(time.Millisecond/10), took[len(took)-1].Round(time.Millisecond/10), len(took))
	return nil
}

func heap() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func usage() syscall.Rusage {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r) // cannot fail for oneself
	return r
}

func cpuTime() time.Duration {
	r := usage()
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// peak is in MB.
func peak() float64 { return float64(usage().Maxrss) / 1024 }
