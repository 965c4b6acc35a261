package replicas

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
)

// mostUnpacked bounds what an object may unfold to, in bytes.
const mostUnpacked = 64 << 20

// pack makes data small, for objects that may not be large.
func pack(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(data)
	err = errors.Join(err, w.Close())
	return out.Bytes(), err
}

// unpack is pack backwards.
func unpack(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, mostUnpacked+1))
	if err == nil && len(out) > mostUnpacked {
		err = errors.New("too large")
	}
	return out, err
}
