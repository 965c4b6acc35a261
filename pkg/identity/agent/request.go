package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	security "istio.io/api/security/v1alpha1"

	"github.com/meshpilot/pilot/pkg/identity"
)

// callTime is how long one attempt may take.
const callTime = 10 * time.Second

// request has the CA sign a new key.
func (a *agent) request(ctx context.Context) (pair, error) {
	roots, err := a.Files.roots()
	if err != nil {
		return pair{}, err
	}
	ctx, certificates, err := a.credential(ctx)
	if err != nil {
		return pair{}, err
	}
	key, csr, err := a.newRequest()
	if err != nil {
		return pair{}, err
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion:         tls.VersionTLS12,
		Certificates:       certificates,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection:   func(s tls.ConnectionState) error { return a.verifyCA(s, roots) },
	}))}
	if a.dial != nil {
		options = append(options, grpc.WithContextDialer(a.dial))
	}
	conn, err := grpc.NewClient(a.target(), options...)
	if err != nil {
		return pair{}, fmt.Errorf("the address of the CA: %w", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	client := security.NewIstioCertificateServiceClient(conn)
	answer, err := client.CreateCertificate(ctx, &security.IstioCertificateRequest{
		Csr:              string(csr),
		ValidityDuration: int64((a.TTL + time.Second - 1) / time.Second),
	})
	if err != nil {
		s := status.Convert(err)
		return pair{}, fmt.Errorf("the CA at %s: %s (%s)", a.CAAddress, s.Message(), s.Code())
	}
	return accept(answer.GetCertChain(), key)
}

func (a *agent) target() string {
	if a.dial != nil {
		return "passthrough:///" + a.CAAddress
	}
	return a.CAAddress
}

// credential is the present certificate if it is valid, else the token.
func (a *agent) credential(ctx context.Context) (context.Context, []tls.Certificate, error) {
	present, noCert := a.present()
	if noCert == nil {
		a.warnIfLoose(a.Files.Key, "private key")
		return ctx, []tls.Certificate{present.tls}, nil
	}
	content, noToken := os.ReadFile(a.Token)
	token := strings.TrimSpace(string(content))
	if noToken == nil && token == "" {
		noToken = fmt.Errorf("%s is empty", a.Token)
	}
	if noToken != nil {
		return nil, nil, fmt.Errorf("agent credential is not available: no valid certificate (%w), no token (%w)", noCert, noToken)
	}
	a.warnIfLoose(a.Token, "token")
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), nil, nil
}

// newRequest makes a key and its CSR. It names no identity: the CA takes that
// from the caller.
func (a *agent) newRequest() (keyPEM, csrPEM []byte, err error) {
	var key crypto.Signer
	if a.RSABits != 0 {
		key, err = rsa.GenerateKey(rand.Reader, a.RSABits)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	template := &x509.CertificateRequest{}
	if a.Org != "" {
		template.Subject = pkix.Name{Organization: []string{a.Org}}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a CSR: %w", err)
	}
	keyPEM, err = identity.EncodeKey(key)
	return keyPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), err
}

// verifyCA takes only the control plane: every workload has a certificate of
// the same roots, and would be given the token otherwise.
func (a *agent) verifyCA(s tls.ConnectionState, roots []byte) error {
	leaf := s.PeerCertificates[0]
	var intermediates [][]byte
	for _, c := range s.PeerCertificates[1:] {
		intermediates = append(intermediates, c.Raw)
	}
	if err := verify(leaf, intermediates, roots, time.Now()); err != nil {
		return fmt.Errorf("%s does not verify the CA's certificate: %w", a.Files.RootCert, err)
	}
	const account = "istio-pilot-service-account"
	path := "/ns/" + a.ControlPlaneNamespace + "/sa/" + account
	if len(leaf.URIs) == 1 && leaf.URIs[0].Scheme == "spiffe" && leaf.URIs[0].Path == path {
		return nil
	}
	host, _, err := net.SplitHostPort(a.CAAddress)
	if err != nil {
		return err
	}
	if leaf.VerifyHostname(host) == nil {
		return nil
	}
	return fmt.Errorf("who answers there is not the CA: its certificate has the identity %v and the names %v, and neither %s nor %s",
		leaf.URIs, leaf.DNSNames, path, host)
}

// accept makes a pair of the CA's answer: leaf, intermediates, and last the
// roots.
func accept(chain []string, key []byte) (pair, error) {
	last := len(chain) - 1
	if last < 1 {
		return pair{}, fmt.Errorf("the CA's answer has %d certificates, and not a leaf and a root", len(chain))
	}
	var leafFirst []byte
	for _, c := range chain[:last] {
		leafFirst = append(leafFirst, lines([]byte(c))...)
	}
	p, err := newPair(leafFirst, key, lines([]byte(chain[last])))
	if err == nil && p.URI == "" {
		err = errors.New("the certificate has no identity")
	}
	if err == nil {
		err = p.verify(p.Roots)
	}
	if err != nil {
		return pair{}, fmt.Errorf("the CA's answer is not usable: %w", err)
	}
	return p, nil
}
