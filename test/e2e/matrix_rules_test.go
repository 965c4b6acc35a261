package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/translate/simulate"
)

// authority signs certificates that are not the mesh's.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, cert: &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	a.pem, a.key = a.sign(a.cert, a.cert, nil)
	block, _ := pem.Decode(a.pem)
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	a.cert = parsed
	return a
}

// issue is a certificate for DNS names with its key, as PEM.
func (a *authority) issue(names ...string) (cert, key []byte) {
	a.t.Helper()
	cert, private := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "leaf"}, DNSNames: names, KeyUsage: x509.KeyUsageDigitalSignature}, a.cert, a.key)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func (a *authority) sign(template, parent *x509.Certificate, by *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key
}

// certificates are what the matrix has besides those of the mesh.
type certificates struct {
	hosts       []string // that the applications' certificate is for
	application tls.Certificate
	files       map[string]string   // by the name that rules give them
	roots       map[string][]string // issuers, by file
}

// issuer names an authority to simulate.
const issuer = "of the applications"

func makeCertificates(t *testing.T) *certificates {
	t.Helper()
	dir, err := os.MkdirTemp(home, "certificates-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // Envoys are another user
		t.Fatal(err)
	}
	c := &certificates{files: map[string]string{}}
	for _, service := range matrixServices() {
		c.hosts = append(c.hosts, service+".callee.svc.cluster.local")
	}
	apps, others := newAuthority(t, "applications"), newAuthority(t, "somebody else")
	cert, key := apps.issue(c.hosts...)
	if c.application, err = tls.X509KeyPair(cert, key); err != nil {
		t.Fatal(err)
	}
	ownCert, ownKey := others.issue("caller.example")
	for name, content := range map[string][]byte{"APPS": apps.pem, "OTHERS": others.pem, "OWN_CERT": ownCert, "OWN_KEY": ownKey, "BOTH": apps.pem} {
		c.files[name] = filepath.Join(dir, name+".pem")
		write(t, c.files[name], string(content))
	}
	c.roots = map[string][]string{
		c.files["APPS"]: {issuer}, c.files["OTHERS"]: {"somebody else"}, c.files["BOTH"]: {issuer, simulate.MeshCA},
	}
	return c
}

// rulesByFile are the tls blocks of callers whose rules name files.
func rulesByFile() map[string]string {
	const mesh = "mode: MUTUAL, clientCertificate: $CERT, privateKey: $KEY"
	return map[string]string{
		"mutual":       mesh + ", insecureSkipVerify: true",
		"simple-host":  "mode: SIMPLE, caCertificates: $APPS",
		"simple-other": "mode: SIMPLE, caCertificates: $APPS, subjectAltNames: [other.example]",
		"simple-ca":    "mode: SIMPLE, caCertificates: $OTHERS",
		"simple-mesh":  "mode: SIMPLE, caCertificates: $ROOT, subjectAltNames: [$SERVER]",
		"mutual-mesh":  mesh + ", caCertificates: $ROOT, subjectAltNames: [$SERVER]",
		"mutual-other": mesh + ", caCertificates: $ROOT, subjectAltNames: [${SERVER}2]",
		"mutual-own": "mode: MUTUAL, clientCertificate: $OWN_CERT, privateKey: $OWN_KEY, caCertificates: $BOTH, subjectAltNames: [$SERVER, " +
			"bare.callee.svc.cluster.local, disable.callee.svc.cluster.local, permissive.callee.svc.cluster.local]",
	}
}

// writeRules makes those callers' sidecars follow their rules.
func (m *mesh) writeRules(c *certificates) {
	m.t.Helper()
	var objects bytes.Buffer
	for caller, block := range rulesByFile() {
		proxy, ok := m.Proxy(callerID(caller))
		if !ok {
			m.t.Fatalf("the caller %s has no sidecar", caller)
		}
		own := map[string]string{
			"CERT": proxy.Local.CertChain, "KEY": proxy.Local.Key, "ROOT": proxy.Local.RootCert,
			"SERVER": "spiffe://cluster.local/ns/callee/sa/server",
		}
		if caller == "mutual-own" {
			m.appendRoot(c.files["BOTH"], proxy.Local.RootCert)
		}
		tls := os.Expand(block, func(name string) string { return own[name] + c.files[name] })
		fmt.Fprintf(&objects, `---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: all, namespace: %s}
spec:
  host: "*.callee.svc.cluster.local"
  trafficPolicy:
    tls: {%s}
`, caller, tls)
	}
	write(m.t, filepath.Join(m.dir, "files.yaml"), objects.String())
	m.eventually("the rules are noticed", func() bool {
		for caller := range rulesByFile() {
			rendered, err := m.Render(callerID(caller))
			if err != nil || !bytes.Contains(rendered, []byte("file-")) {
				return false
			}
		}
		return true
	})
}

func (m *mesh) appendRoot(to, root string) {
	m.t.Helper()
	var both []byte
	for _, file := range []string{to, root} {
		content, err := os.ReadFile(file)
		if err != nil {
			m.t.Fatal(err)
		}
		both = append(both, content...)
	}
	write(m.t, to, string(both))
}
