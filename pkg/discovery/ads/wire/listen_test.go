package wire

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"testing/iotest"
)

// fixed is a connection that has bytes to read.
type fixed struct {
	net.Conn
	io.Reader
}

func (f fixed) Read(p []byte) (int, error) { return f.Reader.Read(p) }

func TestRecords(t *testing.T) {
	var stream []byte
	ends := map[int]bool{0: true}
	for _, size := range []int{1, 16384, 16384, 0, 30, 5000, 40, 16384, 4091, 4092} {
		stream = append(stream, 23, 3, 3)
		stream = binary.BigEndian.AppendUint16(stream, uint16(size))
		stream = append(stream, bytes.Repeat([]byte{byte(size)}, size)...)
		ends[len(stream)] = true
	}
	for name, source := range map[string]io.Reader{
		"whole": bytes.NewReader(stream), "one byte": iotest.OneByteReader(bytes.NewReader(stream)), "halves": iotest.HalfReader(bytes.NewReader(stream)),
	} {
		conn := &records{Conn: fixed{Reader: source}}
		var got []byte
		buffer := make([]byte, 20<<10)
		for {
			inside := conn.left
			n, err := conn.Read(buffer)
			got = append(got, buffer[:n]...)
			if inside > 0 && n > inside || n > max(inside, beyond) {
				t.Fatalf("%s: read %d bytes where %d are left of the record", name, n, inside)
			}
			if (conn.left == 0 && conn.have == 0) != ends[len(got)] {
				t.Fatalf("%s: after %d bytes it is lost: %d left", name, len(got), conn.left)
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, stream) {
			t.Errorf("%s: other bytes came out", name)
		}
	}
}
