package feed

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

var errMalformed = errors.New("malformed message")

// field is one field of an encoded message, and what comes after it.
type field struct {
	number protowire.Number
	kind   protowire.Type
	value  uint64 // of numbers
	bytes  []byte // of what has a length
	rest   []byte
}

// first is the first field of data; false at its end, and where it is
// malformed: then rest is not empty.
func first(data []byte) (f field, ok bool) {
	f.rest = data
	number, kind, n := protowire.ConsumeTag(data)
	if n < 0 {
		return f, false
	}
	f.number, f.kind = number, kind
	m := 0
	switch kind {
	case protowire.VarintType:
		f.value, m = protowire.ConsumeVarint(data[n:])
	case protowire.Fixed64Type:
		f.value, m = protowire.ConsumeFixed64(data[n:])
	case protowire.BytesType:
		f.bytes, m = protowire.ConsumeBytes(data[n:])
	default:
		m = protowire.ConsumeFieldValue(number, kind, data[n:])
	}
	if m < 0 {
		return f, false
	}
	f.rest = data[n+m:]
	return f, true
}

// messages hands out the values of a repeated field.
func messages(data []byte, number protowire.Number, take func([]byte)) error {
	f, ok := first(data)
	for ; ok; f, ok = first(f.rest) {
		if f.number == number && f.kind == protowire.BytesType {
			take(f.bytes)
		}
	}
	if len(f.rest) > 0 {
		return errMalformed
	}
	return nil
}
