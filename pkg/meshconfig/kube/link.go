package kube

import (
	"net/http"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// skewed is how far the clocks of pilot and of the API server may be apart;
// certificates and leases bear less than hours, and the header has seconds.
const skewed = 30 * time.Second

// link sees each request to the API server: client-go retries some failures
// for a long time before it tells of them.
type link struct {
	poke func() // called when what it knows changes

	mu     sync.Mutex
	failed error         // of the last request
	skew   time.Duration // how far the API server's clock is ahead, if it is much
}

// clients are c's, seen by l.
func (l *link) clients(c *cluster.Cluster) (*cluster.Cluster, error) {
	config := rest.CopyConfig(c.Config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return tripper{next, l} })
	out := &cluster.Cluster{Config: config, Namespace: c.Namespace}
	var err error
	if out.Client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if out.Dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, err
	}
	out.Metadata, err = metadata.NewForConfig(config)
	return out, err
}

// state is the error of the last request, nil if it was answered, and the
// skew of the clocks, 0 if it does not matter.
func (l *link) state() (error, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed, l.skew
}

func (l *link) saw(resp *http.Response, err error) {
	skew := time.Duration(0)
	if err == nil {
		if at, bad := http.ParseTime(resp.Header.Get("Date")); bad == nil {
			if skew = time.Until(at); skew.Abs() < skewed {
				skew = 0
			}
		}
	}
	l.mu.Lock()
	changed := (err == nil) != (l.failed == nil)
	l.failed = err
	if err == nil {
		changed = changed || (skew-l.skew).Abs() >= skewed
		if changed || skew == 0 {
			l.skew = skew
		}
	}
	l.mu.Unlock()
	if changed {
		l.poke()
	}
}

type tripper struct {
	next http.RoundTripper
	link *link
}

// RoundTrip sends one request.
func (t tripper) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if r.Context().Err() == nil { // else it is we who gave up
		t.link.saw(resp, err)
	}
	return resp, err
}
