package csr

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

const (
	// longest is the longest request that is read. A request with an RSA key of
	// 8192 bits is shorter than 4 kB.
	longest = 64 << 10
	// receiveTime is how long a caller may take to send it.
	receiveTime = 10 * time.Second
)

var errLong = fmt.Errorf("it is longer than %d bytes", longest)

// transport is what grpc's streams have besides their exported interface.
// grpc itself has one largest message for all services of a port, and xDS
// needs one that is much larger; and it gives handlers no deadline of their own.
type transport interface {
	ReadMessageHeader([]byte) error
	Read(n int) (mem.BufferSlice, error)
	WriteStatus(*status.Status) error
}

var errLate = status.Error(codes.DeadlineExceeded, "the certificate request did not come in time")

// receive reads the one message of a call, and nothing of one that is too long.
func receive(ctx context.Context) ([]byte, error) {
	s, ok := grpc.ServerTransportStreamFromContext(ctx).(transport)
	if !ok {
		return nil, errors.New("grpc's streams cannot be read")
	}
	// To end the call is the only way to wake its reader.
	timer := time.AfterFunc(receiveTime, func() { _ = s.WriteStatus(status.Convert(errLate)) })
	data, err := read(s)
	if !timer.Stop() {
		return nil, errLate
	}
	return data, err
}

func read(s transport) ([]byte, error) {
	var head [5]byte
	if err := s.ReadMessageHeader(head[:]); err != nil {
		return nil, ended(err)
	}
	if head[0] != 0 {
		return nil, status.Error(codes.Unimplemented, "compressed certificate requests are not read")
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > longest {
		return nil, errLong
	}
	data, err := s.Read(int(n))
	if err != nil {
		return nil, ended(err)
	}
	defer data.Free()
	return data.Materialize(), nil
}

// ended is why a call ended before its message was complete.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return status.Error(codes.InvalidArgument, "invalid CSR: the call has no request")
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.FromContextError(err).Err()
}
