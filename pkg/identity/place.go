package identity

import (
	"fmt"

	"github.com/meshpilot/pilot/pkg/model"
)

// Place keeps a CA with a root of its own where there are no files: in a
// Secret.
type Place struct {
	On model.Key // what errors and problems name
	// Read gives certificate and key as PEM. Follow calls it every 5 s.
	Read func() (cert, key []byte, err error)
}

// Encode is a CA with a root of its own as PEM, for the place that keeps it.
func (c *CA) Encode() (cert, key []byte, err error) {
	a := c.current.Load()
	if key, err = EncodeKey(a.key); err != nil {
		return nil, nil, err
	}
	return a.rootsPEM, key, nil
}

// ReadCA reads and checks the CA at a place. An error names the place and its
// part.
func ReadCA(p Place, o Options) (*CA, error) {
	part := func(name string) string {
		return fmt.Sprintf("%s %s/%s: %s", p.On.Kind, p.On.Namespace, p.On.Name, name)
	}
	names := Files{SigningCert: part(caCertFile), SigningKey: part(caKeyFile), RootCert: part(caCertFile)}
	read := func() contents {
		cert, key, err := p.Read()
		return contents{cert: cert, key: key, roots: cert, err: err}
	}
	a, err := read().authority(names)
	if err != nil {
		return nil, err
	}
	ca := newCA(o, a)
	ca.origin = origin{names: names, read: read, signing: p.On, roots: p.On}
	return ca, nil
}
