// Command feed measures what the evidence of traffic costs a control plane:
// many light proxies in a process of their own flush stats and send records,
// over real gRPC on loopback.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/feed"
	"github.com/meshpilot/pilot/pkg/model"
)

// load is what the proxies do.
type load struct {
	proxies  int
	logs     int           // streams of access logs of each
	interval time.Duration // of the stats
	rate     int           // records per second of each
	address  string
}

func main() {
	var l load
	flag.IntVar(&l.proxies, "proxies", 2000, "proxies")
	flag.IntVar(&l.logs, "logs", 2, "streams of access logs of each proxy: one for each worker and log in use")
	flag.DurationVar(&l.interval, "stats-interval", 5*time.Second, "how often each flushes its stats")
	flag.IntVar(&l.rate, "rate", 0, "records per second of each proxy")
	flag.StringVar(&l.address, "address", "", "internal: be the proxies of the server there")
	seconds := flag.Int("seconds", 10, "how long to measure")
	flag.Parse()
	run := func() error { return serve(l, time.Duration(*seconds)*time.Second) }
	if l.address != "" {
		run = func() error { return l.connect(context.Background()) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "feed:", err)
		os.Exit(1)
	}
}

// serve takes the evidence of a child process and says what it cost.
func serve(l load, measured time.Duration) error {
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	f := feed.New(feed.Options{Identify: identify})
	server := grpc.NewServer(ads.ServerOptions()...)
	f.Register(server)
	go func() { _ = server.Serve(listen) }() // until the end
	defer server.Stop()
	before := used()
	child := exec.Command(os.Args[0], append(os.Args[1:], "-address", listen.Addr().String())...)
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := child.Start(); err != nil {
		return err
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		logs, stats := f.Streams()
		if logs == l.proxies*l.logs && stats == l.proxies {
			break
		}
		if time.Since(start) > 2*time.Minute {
			return fmt.Errorf("%d streams of logs and %d of stats after two minutes", logs, stats)
		}
	}
	time.Sleep(2 * l.interval) // all have flushed, and pools are warm
	counts := func() (read, excess uint64) {
		f.Each(func(_ model.WorkloadID, p feed.Proxy) { read, excess = read+p.Records, excess+p.Excess })
		return read, excess
	}
	read, excess := counts()
	start, cpu := time.Now(), processor()
	time.Sleep(measured)
	took, spent := time.Since(start), processor()-cpu
	read2, excess2 := counts()
	after := used()
	fmt.Printf("%d proxies with %d log streams, stats every %s, %d records/s each: "+
		"%.0f records/s read, %.0f in excess; %.1f %% of a core; %.0f kB a proxy in heap and stacks; RSS %d MB\n",
		l.proxies, l.logs, l.interval, l.rate, float64(read2-read)/took.Seconds(), float64(excess2-excess)/took.Seconds(),
		100*spent.Seconds()/took.Seconds(), float64(after-before)/1024/float64(l.proxies), resident())
	return nil
}

// identify reads nodes called "namespace/name".
func identify(_ context.Context, node *corev3.Node) (model.WorkloadID, func() error, error) {
	namespace, name, _ := strings.Cut(node.GetId(), "/")
	return model.WorkloadID{Namespace: namespace, Name: name}, nil, nil
}

// used are the bytes of live heap and of stacks.
func used() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// processor is the time that this process has used.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is the memory of this process in MB.
func resident() (mb int) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var total, pages int
	_, _ = fmt.Sscan(string(text), &total, &pages)
	return pages * os.Getpagesize() >> 20
}
