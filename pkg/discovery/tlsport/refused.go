package tlsport

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc/peer"
)

// leaveTime is how long a refusal has to arrive before the connection is
// closed under it.
const leaveTime = 100 * time.Millisecond

// addressed is a connection that is found again by its remote address, which
// is all that a stream knows of it.
type addressed struct{ net.Conn }

func (a addressed) RemoteAddr() net.Addr { return address{a.Conn.RemoteAddr(), a.Conn} }

type address struct {
	net.Addr
	conn net.Conn
}

// leave closes the connection of a stream that was refused for the
// connection's certificate. Envoy would open the next stream on it too, for
// ever, although its files have a new certificate by now.
func leave(ctx context.Context) {
	if caller, ok := peer.FromContext(ctx); ok {
		if a, ok := caller.Addr.(address); ok {
			time.AfterFunc(leaveTime, func() { _ = a.conn.Close() }) // it may be closed already
		}
	}
}
