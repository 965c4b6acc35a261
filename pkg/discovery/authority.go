package discovery

import (
	"context"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/secrets"
)

// caTime is how often it is asked whether the CA comes to its end.
const caTime = time.Minute

// watchCA reports what is wrong with the CA, now and whenever it changes,
// until ctx ends.
func (s *Server) watchCA(ctx context.Context, changed <-chan struct{}) {
	tick := time.NewTicker(caTime)
	defer tick.Stop()
	for {
		s.hub.reports.put("ca", identityProblems(s.options.CA.Problems(time.Now())))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-changed:
		}
	}
}

// startCA adds the loops that follow the CA's files and report on it.
func (s *Server) startCA(ctx context.Context, start func(func() error)) {
	ca := s.options.CA
	if ca == nil {
		return
	}
	s.metrics.CA(ca)
	changed := make(chan struct{}, 1)
	start(func() error {
		generation := ca.Generation()
		ca.Follow(ctx, func() {
			if now := ca.Generation(); now != generation {
				generation = now
				s.options.Log.Info("the CA changed", "roots", len(ca.RootCertificates()))
			}
			if s.options.Secrets != nil {
				s.options.Secrets.Wake()
			}
			if s.options.Roots != nil {
				s.options.Roots.Wake()
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		return nil
	})
	start(func() error { s.watchCA(ctx, changed); return nil })
}

// startSecrets adds the loop that keeps the Secrets of service accounts.
func (s *Server) startSecrets(ctx context.Context, start func(func() error)) {
	c := s.options.Secrets
	if c == nil {
		return
	}
	s.hub.secrets, s.hub.accountObjects = c, s.options.AccountObjects
	s.metrics.Secrets(c)
	start(func() error {
		c.Run(ctx, func(list []identity.Problem) { s.hub.reports.put("secrets", identityProblems(list)) })
		return nil
	})
}

// RootsPublisher shows the CA's roots where workloads find them.
type RootsPublisher interface {
	// Run publishes until ctx ends, and reports all problems in force.
	Run(ctx context.Context, report func([]identity.Problem))
	// Wake tells it that the CA changed. It must not block.
	Wake()
}

// startRoots adds the loop that publishes the CA's roots.
func (s *Server) startRoots(ctx context.Context, start func(func() error)) {
	if r := s.options.Roots; r != nil {
		start(func() error {
			r.Run(ctx, func(list []identity.Problem) { s.hub.reports.put("roots", identityProblems(list)) })
			return nil
		})
	}
}

// tellAccounts says which service accounts there are: those that are objects,
// and those that a workload has, unless only objects count. That there is not
// one means that they cannot be seen.
func (h *hub) tellAccounts() {
	if h.secrets == nil {
		return
	}
	var list []secrets.Account
	for _, a := range h.bundle.ServiceAccounts {
		list = append(list, secrets.Account{Namespace: a.Namespace, Name: a.Name})
	}
	if !h.accountObjects || len(list) == 0 {
		for _, w := range h.inputs.Workloads {
			list = append(list, secrets.Account{Namespace: w.ID.Namespace, Name: w.ServiceAccount})
		}
	}
	h.secrets.Set(h.inputs.Mesh.TrustDomain, list)
}
