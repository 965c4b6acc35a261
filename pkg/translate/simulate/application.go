package simulate

import (
	"slices"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/meshpilot/pilot/pkg/translate"
)

// App is what is known of the application that is called. No configuration
// tells: what is not known is taken to fit.
type App struct {
	Only Protocol     // it speaks: HTTPS is nothing but TLS, any other nothing but plaintext; empty: what it gets
	Cert *Certificate // that it presents in TLS of its own; nil: one that fits
}

// Certificate is what a server presents.
type Certificate struct {
	Issuer string
	Names  []string // DNS names and URIs
}

// MeshCA is the issuer of the certificates of sidecars.
const MeshCA = "mesh"

// verify is why the caller's sidecar does not take the server for the right
// one; ended says that the server's sidecar ends the TLS. Empty: it takes it.
func (m *Mesh) verify(c Call, from *Peer, h hop, server *Peer, ended bool) string {
	shown := c.App.Cert
	if ended {
		shown = &Certificate{MeshCA, []string{server.Identity}}
	}
	if !h.ownTLS() || shown == nil {
		return ""
	}
	if !m.trusts(from, h.root, shown.Issuer) {
		return "the client does not trust the authority of " + strings.Join(shown.Names, ", ")
	}
	known := func(name string) bool { return matches(h.accepts, name) }
	if len(h.accepts) > 0 && !slices.ContainsFunc(shown.Names, known) {
		return "the client expects another identity than " + strings.Join(shown.Names, ", ")
	}
	return ""
}

// trusts says whether the roots in a secret of a proxy verify an issuer's
// certificates. Those of the system are not the mesh's.
func (m *Mesh) trusts(from *Peer, root, issuer string) bool {
	file := from.rootFile(root)
	in, known := m.Roots[file]
	switch {
	case file == "":
		return true // no check
	case known:
		return slices.Contains(in, issuer)
	case file == from.rootFile("ROOTCA"):
		return issuer == MeshCA
	default:
		return issuer != MeshCA || root != "file-root:system"
	}
}

func (p *Peer) rootFile(name string) string {
	return plainly(find[*tlsv3.Secret](p, translate.SecretType, name).GetValidationContext().GetTrustedCa().GetFilename())
}

// plainly is a file without the link that a Secret volume swaps.
func plainly(file string) string { return strings.Replace(file, "/..data/", "/", 1) }

// ownTLS says whether the sidecar adds TLS to what its application sends.
func (h hop) ownTLS() bool { return h.sent != Plaintext && h.sent != AppTLS }

// refuses is why the application cannot read what it gets; empty: it can.
func (c Call) refuses(h hop, ended bool) string {
	layers := 0
	for _, yes := range []bool{c.Protocol == HTTPS, h.ownTLS()} {
		if yes {
			layers++
		}
	}
	if ended {
		layers--
	}
	switch {
	case c.App.Only == "":
	case c.App.Only != HTTPS && layers > 0:
		return "TLS reaches the application, which does not speak it"
	case c.App.Only == HTTPS && layers == 0:
		return "plaintext reaches the application, which speaks TLS only"
	case c.App.Only == HTTPS && layers > 1:
		return "TLS within TLS reaches the application"
	}
	return ""
}
