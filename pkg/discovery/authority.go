package discovery

import (
	"context"
	"time"
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
		ca.Follow(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		return nil
	})
	start(func() error { s.watchCA(ctx, changed); return nil })
}
