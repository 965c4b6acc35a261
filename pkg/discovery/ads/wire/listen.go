package wire

import (
	"encoding/binary"
	"net"
)

// Listen is l for connections over TLS, which it makes cheaper to keep: for
// as long as a connection lives, crypto/tls keeps a buffer that holds the
// largest record and what was read beyond it. A proxy's first requests are
// several full records, which grow it to 40 kB; read to their end and no
// further it stays below 20 kB.
func Listen(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &records{Conn: conn}, nil
}

// records follows the TLS records that are read, and gives no more than the
// rest of a large one at a time.
type records struct {
	net.Conn
	head [5]byte // of the record that begins
	have int     // bytes of head
	left int     // bytes of the record that are still to come
}

const beyond = 4096 // may be read when a record begins: small ones need one read

func (r *records) Read(p []byte) (int, error) {
	if len(p) > beyond {
		limit := beyond
		if r.left > 0 {
			limit = r.left
		}
		p = p[:min(len(p), limit)]
	}
	n, err := r.Conn.Read(p)
	r.follow(p[:n])
	return n, err
}

func (r *records) follow(data []byte) {
	for len(data) > 0 {
		if r.left > 0 {
			n := min(r.left, len(data))
			r.left -= n
			data = data[n:]
			continue
		}
		n := copy(r.head[r.have:], data)
		r.have += n
		data = data[n:]
		if r.have == len(r.head) {
			r.have, r.left = 0, int(binary.BigEndian.Uint16(r.head[3:]))
		}
	}
}
