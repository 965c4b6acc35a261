package wire

import "google.golang.org/protobuf/encoding/protowire"

// Field numbers, the same in both responses unless named for one.
const (
	responseVersion   = 1
	responseResources = 2
	responseTypeURL   = 4
	responseNonce     = 5
	deltaRemoved      = 6

	resourceVersion = 1
	resourceBody    = 2
	resourceName    = 3

	anyTypeURL = 1
	anyValue   = 2
)

// Head is the part of a response that is the stream's own.
func Head(version, typeURL, nonce string) []byte {
	b := make([]byte, 0, len(version)+len(typeURL)+len(nonce)+6)
	b = appendString(b, responseVersion, version)
	b = appendString(b, responseTypeURL, typeURL)
	return appendString(b, responseNonce, nonce)
}

// Resource is what the encoding of one resource is made of.
type Resource struct {
	Name, Version, TypeURL string
	Value                  []byte
}

// Size is the number of bytes that Append adds.
func (r Resource) Size(delta bool) int {
	body := r.bodySize()
	if delta {
		body = stringSize(r.Name) + stringSize(r.Version) + bytesSize(body)
	}
	return bytesSize(body)
}

// Append adds the resource as one element of a response's resources.
func (r Resource) Append(b []byte, delta bool) []byte {
	body := r.bodySize()
	b = protowire.AppendTag(b, responseResources, protowire.BytesType)
	if delta {
		b = protowire.AppendVarint(b, uint64(stringSize(r.Name)+stringSize(r.Version)+bytesSize(body)))
		b = appendString(b, resourceName, r.Name)
		b = appendString(b, resourceVersion, r.Version)
		b = protowire.AppendTag(b, resourceBody, protowire.BytesType)
	}
	b = protowire.AppendVarint(b, uint64(body))
	b = appendString(b, anyTypeURL, r.TypeURL)
	b = protowire.AppendTag(b, anyValue, protowire.BytesType)
	return protowire.AppendBytes(b, r.Value)
}

func (r Resource) bodySize() int { return stringSize(r.TypeURL) + bytesSize(len(r.Value)) }

// AppendRemoved adds the name of a removed resource; delta only.
func AppendRemoved(b []byte, name string) []byte { return appendString(b, deltaRemoved, name) }

func appendString(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

// All fields used have numbers below 16, so a tag is one byte.
func bytesSize(n int) int { return 1 + protowire.SizeBytes(n) }

func stringSize(s string) int {
	if s == "" {
		return 0
	}
	return bytesSize(len(s))
}
