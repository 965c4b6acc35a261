package main

import (
	"context"
	"log/slog"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/conditions"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/replicas"
)

// tellConditions writes in the objects' status, while this replica leads, what
// the control plane knows of them.
func tellConditions(c *cluster.Cluster, namespace string, lease *replicas.Lease, log *slog.Logger) func(context.Context, func() status.State) {
	return func(ctx context.Context, state func() status.State) {
		conditions.New(conditions.Options{
			Cluster: c, Namespace: namespace, While: lease.While, Log: log,
			Facts: func() (conditions.Facts, bool) { return conditionFacts(state()) },
		}).Run(ctx)
	}
}

// conditionFacts are what conditions are about; false while they are about to
// change.
func conditionFacts(s status.State) (conditions.Facts, bool) {
	if s.Bundle == nil || s.Pending {
		return conditions.Facts{}, false
	}
	out := conditions.Facts{Generations: s.Bundle.Generations, Problems: make([]meshconfig.Problem, len(s.Findings))}
	for i, f := range s.Findings {
		out.Problems[i] = f.Problem
	}
	out.Proxies, out.Current = s.Acknowledged()
	for _, r := range s.Refusals {
		out.Refusals = append(out.Refusals, conditions.Refusal{Proxy: r.Node, Text: r.Type + ": " + r.Text, From: r.From})
	}
	return out, true
}
