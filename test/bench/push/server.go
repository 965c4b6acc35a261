package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/internal/meshgen"
	"github.com/meshpilot/pilot/pkg/discovery"
	"github.com/meshpilot/pilot/pkg/discovery/phases"
	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

const namespaces = 50

// mesh is what the measurements change.
type mesh struct {
	services, replicas int
	mutual             bool // mTLS for all
	policy             bool // mTLS for one service
	gated              bool // in phases
}

func (m mesh) bundle() meshconfig.Bundle {
	var options []meshgen.Option
	if m.mutual {
		options = append(options, meshgen.MutualTLS())
	}
	b := meshgen.Bundle(m.services, namespaces, options...)
	for _, pod := range b.Pods { // further replicas of each service
		for replica := 1; replica < m.replicas; replica++ {
			other := pod.DeepCopy()
			other.Name = strings.TrimSuffix(pod.Name, "0") + strconv.Itoa(replica)
			other.Status.PodIP = strings.Replace(pod.Status.PodIP, "10.", strconv.Itoa(10+replica)+".", 1)
			b.Pods = append(b.Pods, other)
		}
	}
	mode := model.Permissive
	if m.gated {
		mode = model.Strict
		if b.Mesh == nil {
			b.Mesh = meshconfig.DefaultMesh()
		}
		b.Mesh.Rollout.QuietPeriod = quiet
	}
	if m.policy {
		b.Policies = append(b.Policies, &meshconfig.Policy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns-7", Name: "one"}, Mode: mode,
			Targets: []meshconfig.PolicyTarget{{Name: "svc-7"}},
		})
	}
	return b
}

// bench is a control plane and the process with its proxies.
type bench struct {
	mesh     mesh
	server   *discovery.Server
	bundles  chan meshconfig.Bundle
	children *children
	cancel   context.CancelFunc
	done     chan error
	dir      string      // of certificates
	tls      *tls.Config // nil: plaintext
	profiles string
	most     int // bytes of a change
}

// Run publishes the bundles that the measurements make.
func (b *bench) Run(ctx context.Context, publish func(meshconfig.Bundle, []meshconfig.Problem)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case bundle := <-b.bundles:
			publish(bundle, nil)
		}
	}
}

func start(p plan) (*bench, error) {
	services, proxies, secure := p.services, p.proxies, p.secure
	b := &bench{
		mesh:    mesh{services: services, replicas: max(1, (proxies+services-1)/services), gated: p.gated},
		bundles: make(chan meshconfig.Bundle), done: make(chan error, 1),
	}
	o := discovery.Options{Source: b, PlaintextAddress: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	var err error
	if b.dir, err = os.MkdirTemp("", "push"); err != nil {
		return nil, err
	}
	if secure {
		ca, err := identity.NewCA("bench", time.Hour)
		if err != nil {
			return nil, err
		}
		o.PlaintextAddress, o.TLSAddress = "", "127.0.0.1:0"
		o.CA = ca
		if b.tls, err = ca.ServerTLS("cluster.local", "istio-system"); err != nil {
			return nil, err
		}
		if err := writeCertificates(ca, b.dir, services); err != nil {
			return nil, err
		}
	}
	if p.gated {
		if o.Phases, err = phases.Open(filepath.Join(b.dir, "rollout.json")); err != nil {
			return nil, err
		}
	}
	if b.server, err = discovery.Listen(o); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	go func() { b.done <- b.server.Run(ctx) }()
	b.bundles <- b.mesh.bundle()
	address := b.server.Addresses().Plaintext + b.server.Addresses().TLS
	b.children, err = startChildren(description{Address: address, Services: services, Proxies: proxies, Certificates: b.dir, Secure: secure})
	return b, err
}

func (b *bench) stop() {
	b.children.stop()
	b.cancel()
	if err := <-b.done; err != nil {
		fmt.Fprintln(os.Stderr, "push: server:", err)
	}
	os.RemoveAll(b.dir)
}

// edit changes the mesh, and gives what waits until all proxies have
// acknowledged the change. To make the bundle is not the server's work.
func (b *bench) edit(change func(*mesh)) func() (time.Duration, error) {
	change(&b.mesh)
	bundle := b.mesh.bundle()
	runtime.GC()
	return func() (time.Duration, error) {
		begin := time.Now()
		b.bundles <- bundle
		for time.Since(begin) < time.Minute {
			time.Sleep(20 * time.Millisecond) // to ask costs time, too
			edits := b.server.Edits()
			last := edits[len(edits)-1]
			if last.At.Before(begin) || !last.Done {
				continue
			}
			if last.Refused > 0 || last.Pushes == 0 {
				return 0, fmt.Errorf("the edit made %d pushes and %d refusals", last.Pushes, last.Refused)
			}
			return last.LastACK.Sub(last.At), nil
		}
		return 0, errors.New("the edit was not acknowledged by all within a minute")
	}
}

// result is one measurement.
type result struct {
	wall, cpu        time.Duration
	bytes, resources int
	peak             int64
}

// during measures work on both sides.
func (b *bench) during(what string, work func() (time.Duration, error)) (result, error) {
	return b.median(what, 1, func() func() (time.Duration, error) { return work })
}

// median measures the work of several preparations, with one profile over all
// of them, and gives the one whose CPU time is the median.
func (b *bench) median(what string, count int, prepare func() func() (time.Duration, error)) (result, error) {
	if b.profiles != "" {
		name := strings.NewReplacer(" ", "-", ",", "", ":", "").Replace(strings.TrimSpace(what))
		file, err := os.Create(filepath.Join(b.profiles, fmt.Sprintf("%d-%v-%s.pprof", b.children.proxies, b.children.secure, name)))
		if err != nil {
			return result{}, err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return result{}, err
		}
		defer pprof.StopCPUProfile()
	}
	results := make([]result, count)
	for i := range results {
		var err error
		if results[i], err = b.once(prepare()); err != nil {
			return result{}, err
		}
		b.most = max(b.most, results[i].bytes)
	}
	slices.SortFunc(results, func(a, b result) int { return cmp.Compare(a.cpu, b.cpu) })
	return results[count/2], nil
}

func (b *bench) once(work func() (time.Duration, error)) (r result, err error) {
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // resets the peak; without it the peak is of the whole run
	before, err := b.children.count()
	if err != nil {
		return r, err
	}
	cpu := cpuTime()
	if r.wall, err = work(); err != nil {
		return r, err
	}
	r.cpu = cpuTime() - cpu
	after, err := b.children.count()
	r.bytes, r.resources = after.Bytes-before.Bytes, after.Resources-before.Resources
	r.peak = statusKB("VmHWM:") << 10
	return r, err
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// statusKB is a field of /proc/self/status in kB.
func statusKB(field string) int64 {
	data, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == field {
			n, _ := strconv.ParseInt(words[1], 10, 64)
			return n
		}
	}
	return 0
}

// usage is the server's memory when idle, in bytes: resident, and in heap
// objects and stacks.
type usage struct{ rss, used int64 }

func (b *bench) memory() usage {
	time.Sleep(6 * time.Second) // until nothing is kept for other proxies any more
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{statusKB("VmRSS:") << 10, int64(m.HeapAlloc + m.StackInuse)}
}
