package ads

import (
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// slot is how long a stream that takes no bytes keeps its worker's place from
// others.
const slot = time.Second

// place is where a stream is on its way through the workers.
type place uint8

const (
	idle place = iota
	queued
	served
	servedAgain // and to be queued when the worker leaves it
)

// enqueue has a worker look at what the stream needs.
func (s *Store) enqueue(st *stream) {
	s.mu.Lock()
	s.push(st)
	s.mu.Unlock()
}

// push is enqueue with the mutex held.
func (s *Store) push(st *stream) {
	switch st.place {
	case idle:
		st.place = queued
		s.queue = append(s.queue, st)
		s.hire()
	case served:
		st.place = servedAgain
	}
}

// hire starts a worker if there is work and a place for one.
func (s *Store) hire() {
	if len(s.queue) > 0 && s.workers < s.options.InFlight {
		s.workers++
		w := &worker{store: s}
		go w.run()
	}
}

// worker sends to one stream after the other until none is queued.
type worker struct {
	store  *Store
	stream *stream
	timer  *time.Timer
	lent   bool // its place went to another because its stream is slow; guarded by store.mu

	mu    sync.Mutex
	since time.Time // when the send began; zero: none
}

func (w *worker) run() {
	s := w.store
	s.mu.Lock()
	for !w.lent && len(s.queue) > 0 {
		st := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		st.place = served
		s.mu.Unlock()
		w.mu.Lock()
		w.stream = st
		w.mu.Unlock()
		w.serve(st)
		s.mu.Lock()
		again := st.place == servedAgain
		st.place = idle
		if again {
			s.push(st)
		}
	}
	if !w.lent {
		s.workers--
	}
	if len(s.queue) == 0 {
		s.queue = nil
		s.tidy()
	}
	s.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}

// serve sends all that the stream needs now.
func (w *worker) serve(st *stream) {
	st.sending.Lock()
	defer st.sending.Unlock()
	for !st.left {
		st.mu.Lock()
		m := st.prepare()
		st.outbox = nil
		st.mu.Unlock()
		if m == nil {
			return
		}
		w.watch()
		err := st.grpc.SendMsg(m)
		w.done()
		if err != nil {
			st.stop(err)
			return
		}
	}
}

// watch begins to measure a send.
func (w *worker) watch() {
	w.mu.Lock()
	w.since = time.Now()
	w.mu.Unlock()
	if w.timer == nil {
		w.timer = time.AfterFunc(slot, w.late)
	} else {
		w.timer.Reset(slot)
	}
}

func (w *worker) done() {
	w.mu.Lock()
	w.since = time.Time{}
	w.mu.Unlock()
	w.timer.Stop()
}

// late gives the worker's place away if a send takes long, and ends the
// stream if it takes far too long.
func (w *worker) late() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since.IsZero() {
		return
	}
	timeout := w.store.options.SendTimeout
	switch took := time.Since(w.since); {
	case took >= timeout:
		w.stream.stop(status.Errorf(codes.DeadlineExceeded, "the proxy took nothing for %v", timeout))
	case took >= slot:
		w.timer.Reset(timeout - took)
		w.store.lend(w)
	default: // the timer of the send before
		w.timer.Reset(slot - took)
	}
}

// lend frees the place of a worker whose stream is slow.
func (s *Store) lend(w *worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !w.lent {
		w.lent = true
		s.workers--
		s.hire()
	}
}

// tidyAfter is how long encodings are kept for further streams.
const tidyAfter = 5 * time.Second

// tidy drops shared encodings once they have not been used for a while. The
// store's mutex is held.
func (s *Store) tidy() {
	if s.tidying {
		return
	}
	s.tidying = true
	time.AfterFunc(tidyAfter, func() {
		g := s.generation.Load()
		done := g == nil || g.idle()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.tidying = false
		if !done {
			s.tidy()
		}
	})
}
