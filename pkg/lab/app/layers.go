package app

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"sync"
)

// maxLayers bounds how often a connection is unwrapped: TLS of a sidecar
// around that of the calling application is two.
const maxLayers = 2

// layeredListener takes connections with and without TLS, so that what
// arrives is answered and told, be it what the port expects or not.
type layeredListener struct {
	net.Listener
	config *tls.Config
	only   bool // one layer of TLS, no less and no more
}

func (l layeredListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &layeredConn{Conn: conn, config: l.config, only: l.only}, nil
}

// layeredConn ends TLS if the caller begins with it, seen at the first read.
type layeredConn struct {
	net.Conn // as accepted
	config   *tls.Config
	only     bool

	once   sync.Once
	inner  net.Conn // without the layers
	layers int
	err    error
}

func (c *layeredConn) unwrap() error {
	c.once.Do(func() {
		const handshake = 22 // first byte of a TLS record that opens a connection
		for c.inner = c.Conn; ; c.layers++ {
			in := bufio.NewReader(c.inner)
			first, err := in.Peek(1)
			c.inner = peeked{c.inner, in}
			if err != nil {
				return // it comes again from the next read
			}
			if wrapped := first[0] == handshake; c.only && wrapped != (c.layers == 0) {
				c.err = errNotTLS
				return
			} else if !wrapped || c.layers == maxLayers {
				return
			}
			secured := tls.Server(c.inner, c.config)
			if c.err = secured.Handshake(); c.err != nil {
				return
			}
			c.inner = secured
		}
	})
	return c.err
}

func (c *layeredConn) Read(p []byte) (int, error) {
	if err := c.unwrap(); err != nil {
		return 0, err
	}
	return c.inner.Read(p)
}

func (c *layeredConn) Write(p []byte) (int, error) {
	if err := c.unwrap(); err != nil {
		return 0, err
	}
	return c.inner.Write(p)
}

var errNotTLS = errors.New("not one layer of TLS")

// peeked is a connection some bytes of which were already read.
type peeked struct {
	net.Conn
	in *bufio.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.in.Read(b) }

func layersOf(conn net.Conn) int {
	if c, ok := conn.(*layeredConn); ok && c.unwrap() == nil {
		return c.layers
	}
	return 0
}
