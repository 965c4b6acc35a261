package wire

import (
	"errors"
	"iter"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Request is a discovery request in the bytes that it came in. What its
// methods and fields give points into them and is dead after Free.
type Request struct {
	Node    []byte // encoded core.v3.Node; nil: not given
	TypeURL []byte
	Version []byte // version_info; state of the world only
	Nonce   []byte
	Refused bool // error_detail is set
	Error   []byte

	buffer mem.Buffer
	data   []byte
}

// The fields of the two requests that the store reads.
const (
	deltaNode        = 1
	deltaTypeURL     = 2
	deltaSubscribe   = 3
	deltaUnsubscribe = 4
	deltaVersions    = 5
	deltaNonce       = 6
	deltaError       = 7

	sotwVersion = 1
	sotwNode    = 2
	sotwNames   = 3
	sotwTypeURL = 4
	sotwNonce   = 5
	sotwError   = 6

	statusMessage = 2
)

var errMalformed = errors.New("malformed discovery request")

func (r *Request) take(data mem.BufferSlice) error {
	r.buffer = data.MaterializeToBuffer(mem.DefaultBufferPool())
	r.data = r.buffer.ReadOnlyData()
	return nil
}

// Free gives the bytes back.
func (r *Request) Free() {
	if r.buffer != nil {
		r.buffer.Free()
	}
	*r = Request{}
}

// Size is how many bytes the request keeps.
func (r *Request) Size() int { return len(r.data) }

// Parse checks the request's form and fills the fields.
func (r *Request) Parse(delta bool) error {
	for number, value := range fields(r.data) {
		switch {
		case number < 0:
			return errMalformed
		case delta && number == deltaNode, !delta && number == sotwNode:
			r.Node = value
		case delta && number == deltaTypeURL, !delta && number == sotwTypeURL:
			r.TypeURL = value
		case !delta && number == sotwVersion:
			r.Version = value
		case delta && number == deltaNonce, !delta && number == sotwNonce:
			r.Nonce = value
		case delta && number == deltaError, !delta && number == sotwError:
			r.Refused = true
			for number, value := range fields(value) {
				if number == statusMessage {
					r.Error = value
				}
			}
		}
	}
	return nil
}

// Names are the resource names of a state-of-the-world request.
func (r *Request) Names() iter.Seq[[]byte] { return r.all(sotwNames) }

// Subscribe are the names that a delta request adds.
func (r *Request) Subscribe() iter.Seq[[]byte] { return r.all(deltaSubscribe) }

// Unsubscribe are the names that a delta request takes back.
func (r *Request) Unsubscribe() iter.Seq[[]byte] { return r.all(deltaUnsubscribe) }

// Versions are the names and versions of what a delta client says it holds.
func (r *Request) Versions() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, version []byte) bool) {
		for entry := range r.all(deltaVersions) {
			name, version := split(entry)
			if !yield(name, version) {
				return
			}
		}
	}
}

// split is an entry of a map from string to string. A reconnection of all
// proxies has millions, so it makes no closure as fields would.
func split(entry []byte) (key, value []byte) {
	for len(entry) > 0 {
		number, kind, n := protowire.ConsumeTag(entry)
		if n < 0 || kind != protowire.BytesType {
			return key, value
		}
		data, m := protowire.ConsumeBytes(entry[n:])
		if m < 0 {
			return key, value
		}
		switch number {
		case 1:
			key = data
		case 2:
			value = data
		}
		entry = entry[n+m:]
	}
	return key, value
}

func (r *Request) all(field protowire.Number) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for number, value := range fields(r.data) {
			if number == field && !yield(value) {
				return
			}
		}
	}
}

// fields are the length-delimited fields of an encoded message; number -1
// says that the bytes are not one.
func fields(data []byte) iter.Seq2[protowire.Number, []byte] {
	return func(yield func(protowire.Number, []byte) bool) {
		for len(data) > 0 {
			number, kind, n := protowire.ConsumeTag(data)
			if n < 0 {
				yield(-1, nil)
				return
			}
			data = data[n:]
			if kind != protowire.BytesType {
				if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
					yield(-1, nil)
					return
				}
				data = data[n:]
				continue
			}
			value, n := protowire.ConsumeBytes(data)
			if n < 0 {
				yield(-1, nil)
				return
			}
			data = data[n:]
			if !yield(number, value) {
				return
			}
		}
	}
}
