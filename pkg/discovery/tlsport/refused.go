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

// Leave closes the connection of a stream that was ended, as Envoy would open
// the next one on it too: for ever with a certificate that was refused,
// although its files have a new one by now, and never at another replica.
func Leave(ctx context.Context) {
	if caller, ok := peer.FromContext(ctx); ok {
		if a, ok := caller.Addr.(address); ok {
			time.AfterFunc(leaveTime, func() { _ = a.conn.Close() }) // it may be closed already
		}
	}
}
