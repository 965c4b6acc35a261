package tlsport

import (
	"errors"
	"net"
	"sync"

	"github.com/meshpilot/pilot/pkg/identity/csr"
)

const (
	// mostStrangers is how many connections without a certificate of the mesh
	// may be open. Each costs about 100 kB.
	mostStrangers = 1024
	// mostOfOne is how many of them may come from one address.
	mostOfOne = 32
)

var errStrangers = errors.New("too many connections without a certificate of the mesh")

// strangers are the open connections without a certificate of the mesh, by
// address.
type strangers struct {
	mu  sync.Mutex
	all int
	by  map[string]int
}

// admit counts the connection until it is closed, or closes it.
func (s *strangers) admit(conn net.Conn) (net.Conn, error) {
	address := csr.Remote(conn.RemoteAddr())
	s.mu.Lock()
	full := s.all >= mostStrangers || s.by[address] >= mostOfOne
	if !full {
		if s.by == nil {
			s.by = map[string]int{}
		}
		s.all++
		s.by[address]++
	}
	s.mu.Unlock()
	if full {
		return nil, errors.Join(errStrangers, conn.Close())
	}
	return &stranger{Conn: conn, leave: sync.OnceFunc(func() { s.leave(address) })}, nil
}

func (s *strangers) leave(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.by[address]--; s.by[address] == 0 {
		delete(s.by, address)
	}
}

// stranger is a connection that is counted.
type stranger struct {
	net.Conn
	leave func()
}

func (s *stranger) Close() error {
	s.leave()
	return s.Conn.Close()
}
