package kubetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// keys are a cluster's: its CA, what the API server and the admin show, and
// what service accounts' tokens are signed with; all of one day.
type keys struct {
	dir string
	ca  *x509.Certificate
	key *ecdsa.PrivateKey // the CA's
}

func newKeys(dir string, server []netip.Addr) (*keys, error) {
	k := &keys{dir: dir}
	var err error
	if k.key, err = k.newKey("ca"); err != nil {
		return nil, err
	}
	k.ca = certificate("kubetest")
	k.ca.IsCA, k.ca.BasicConstraintsValid, k.ca.KeyUsage = true, true, x509.KeyUsageCertSign
	if err := k.sign("ca", k.ca, k.key); err != nil {
		return nil, err
	}
	api := certificate("kube-apiserver")
	api.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	for _, a := range server {
		api.IPAddresses = append(api.IPAddresses, net.IP(a.AsSlice()))
	}
	admin := certificate("admin", "system:masters")
	for name, c := range map[string]*x509.Certificate{"server": api, "admin": admin} {
		c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		key, err := k.newKey(name)
		if err != nil {
			return nil, err
		}
		if err := k.sign(name, c, key); err != nil {
			return nil, err
		}
	}
	_, err = k.newKey("accounts")
	return k, err
}

func certificate(name string, groups ...string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject:      pkix.Name{CommonName: name, Organization: groups},
		SerialNumber: big.NewInt(now.UnixNano()),
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
	}
}

func (k *keys) newKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, k.write(name+".key", "EC PRIVATE KEY", der)
}

func (k *keys) sign(name string, c *x509.Certificate, key *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, c, k.ca, &key.PublicKey, k.key)
	if err != nil {
		return err
	}
	return k.write(name+".crt", "CERTIFICATE", der)
}

func (k *keys) write(name, kind string, der []byte) error {
	return os.WriteFile(k.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func (k *keys) path(name string) string { return filepath.Join(k.dir, name) }
