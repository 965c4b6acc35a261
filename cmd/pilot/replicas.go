package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/meshpilot/pilot/pkg/discovery"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/replicas"
)

// podNameVariable has the name of the pod that this is, by the downward API.
const podNameVariable = "POD_NAME"

// ownReplica is this control plane as one of those of a cluster.
type ownReplica struct {
	lease *replicas.Lease
	group *replicas.Group
}

// newReplica gives this control plane its name: the pod's, or one that no
// other can have.
func newReplica(c *cluster.Cluster, namespace string, log *slog.Logger) (*ownReplica, error) {
	name := os.Getenv(podNameVariable)
	pod := name != ""
	if !pod {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("name of this replica: %w", err)
		}
		name = strings.Trim(strings.Map(labelRune, strings.ToLower(host)), "-") + "-" + strings.ToLower(rand.Text()[:8])
	}
	r := &ownReplica{lease: replicas.NewLease(c.Client, namespace, name)}
	r.group = replicas.New(replicas.Options{Client: c.Client, Namespace: namespace, Lease: r.lease, Pod: pod, Log: log})
	return r, nil
}

// labelRune is what the name of an object may have in place of r.
func labelRune(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
		return r
	}
	return '-'
}

// serve runs o beside the other replicas. The Lease goes last, so that no
// other leads while this one still serves as if it did.
func (r *ownReplica) serve(ctx context.Context, o discovery.Options) error {
	beside, stop := context.WithCancel(context.WithoutCancel(ctx))
	ctx, fail := context.WithCancel(ctx)
	defer fail()
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i, run := range []func(context.Context) error{r.lease.Run, r.group.Run} {
		wg.Go(func() {
			errs[i] = run(beside)
			fail()
		})
	}
	o.Replicas = r.group
	errs[2] = discovery.Run(ctx, o)
	stop()
	wg.Wait()
	return errors.Join(errs...)
}
