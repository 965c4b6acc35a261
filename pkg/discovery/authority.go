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
	s.hub.secrets = c
	s.metrics.Secrets(c)
	start(func() error {
		c.Run(ctx, func(list []identity.Problem) { s.hub.reports.put("secrets", identityProblems(list)) })
		return nil
	})
}

// tellAccounts says which service accounts there are: those that are objects,
// and those that a workload has.
func (h *hub) tellAccounts() {
	if h.secrets == nil {
		return
	}
	var list []secrets.Account
	for _, a := range h.bundle.ServiceAccounts {
		list = append(list, secrets.Account{Namespace: a.Namespace, Name: a.Name})
	}
	for _, w := range h.inputs.Workloads {
		list = append(list, secrets.Account{Namespace: w.ID.Namespace, Name: w.ServiceAccount})
	}
	h.secrets.Set(h.inputs.Mesh.TrustDomain, list)
}
