// Package csr is the service that signs certificate requests. The identity in
// a certificate is the caller's, as its authenticators tell it; a request can
// only choose its key and its lifetime.
//
// What costs work comes late: a caller is known, and within its limit, before
// a byte of its request is read.
package csr

import (
	"context"
	"crypto"
	"encoding/pem"
	"errors"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	security "istio.io/api/security/v1alpha1"

	"github.com/meshpilot/pilot/pkg/identity"
)

const (
	// mostAccounts and mostAddresses bound the memory of the limits, at about
	// 150 bytes each.
	mostAccounts  = 1 << 16
	mostAddresses = 1 << 16
)

// PerAccount is the limit of one identity; replicas of a workload share it.
func PerAccount() Limit { return Limit{Interval: 100 * time.Millisecond, Burst: 100} }

// PerAddress is the limit of calls from one address that nobody vouches for.
func PerAddress() Limit { return Limit{Interval: time.Second, Burst: 20} }

// Options are what a Service needs from its surroundings.
type Options struct {
	// Sign gives the certificate of an identity: PEM, leaf first, no root.
	Sign func(uri string, key crypto.PublicKey, ttl time.Duration) ([]byte, error)
	// Peers verified the connections that calls come on.
	Peers *Peers
	// Domains are the trust domain and its aliases; nil while not known.
	Domains func() []string
	// More are asked, in this order, after the client certificate; the first
	// that accepts decides.
	More []Authenticator
	// Report hears how each call ended. It must not block.
	Report     func(Result)
	PerAccount Limit
	PerAddress Limit
}

// Result is how one call ended; Account is empty if nobody vouched for it.
type Result struct {
	Account Account
	Remote  string
	Code    codes.Code
	Text    string // empty if a certificate was issued
}

// Service is istio.v1.auth.IstioCertificateService.
type Service struct {
	options             Options
	authenticators      []Authenticator
	accounts, strangers *limiter
}

// New makes a service.
func New(o Options) *Service {
	return &Service{
		options:        o,
		authenticators: append([]Authenticator{Certificate{o.Peers, o.Domains}}, o.More...),
		accounts:       newLimiter(o.PerAccount, mostAccounts),
		strangers:      newLimiter(o.PerAddress, mostAddresses),
	}
}

// Register adds the service to g. It has a handler of its own because the
// generated one reads the request before it can ask who sends it.
func (s *Service) Register(g *grpc.Server) {
	service, method, _ := strings.Cut(strings.TrimPrefix(security.IstioCertificateService_CreateCertificate_FullMethodName, "/"), "/")
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: method,
			Handler: func(_ any, ctx context.Context, _ func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				return s.handle(ctx)
			},
		}},
		Metadata: "security/v1alpha1/ca.proto",
	}, s)
}

func (s *Service) handle(ctx context.Context) (*security.IstioCertificateResponse, error) {
	result := Result{Remote: remote(ctx)}
	response, err := s.answer(ctx, &result)
	result.Code = status.Code(err)
	result.Text = status.Convert(err).Message()
	s.options.Report(result)
	if err != nil {
		return nil, err
	}
	return response, nil
}

func (s *Service) answer(ctx context.Context, result *Result) (*security.IstioCertificateResponse, error) {
	account, err := s.authenticate(ctx, result.Remote)
	if err != nil {
		return nil, err
	}
	result.Account = account
	if wait := s.accounts.take(account.Namespace+"/"+account.Name, time.Now()); wait > 0 {
		return nil, tooMany(wait)
	}
	data, err := receive(ctx)
	if errors.Is(err, errLong) {
		return nil, invalid(err)
	} else if err != nil {
		return nil, err
	}
	var request security.IstioCertificateRequest
	if err := proto.Unmarshal(data, &request); err != nil {
		return nil, invalid(errors.New("the message cannot be decoded"))
	}
	return s.sign(account, &request)
}

// authenticate asks the authenticators. An address from which too many
// strangers have called is refused before any of them is asked.
func (s *Service) authenticate(ctx context.Context, address string) (Account, error) {
	now := time.Now()
	if _, err := s.options.Peers.Certificate(ctx); err != nil {
		if wait := s.strangers.left(address, now); wait > 0 {
			return Account{}, tooMany(wait)
		}
	}
	var texts []string
	for _, a := range s.authenticators {
		account, err := a.Authenticate(ctx)
		if err == nil {
			return account, nil
		}
		if final, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
			s.strangers.take(address, now)
			return Account{}, final.GRPCStatus().Err()
		}
		if !slices.Contains(texts, err.Error()) {
			texts = append(texts, err.Error())
		}
	}
	s.strangers.take(address, now)
	return Account{}, status.Error(codes.Unauthenticated, strings.Join(texts, "; "))
}

func (s *Service) sign(account Account, request *security.IstioCertificateRequest) (*security.IstioCertificateResponse, error) {
	r, err := parse(request.GetCsr())
	if err != nil {
		return nil, invalid(err)
	}
	wanted, err := names(r)
	if err != nil {
		return nil, invalid(err)
	}
	domains := s.options.Domains()
	if len(domains) == 0 {
		return nil, status.Error(codes.Internal, "CSR signing error: no configuration was read yet")
	}
	var own []string
	for _, domain := range domains {
		own = append(own, identity.URI(domain, account.Namespace, account.Name))
	}
	if name, ok := stranger(wanted, own); ok {
		return nil, status.Errorf(codes.PermissionDenied, "the requested identity (\"%s\") does not match the caller's identities", name)
	}
	chain, err := s.options.Sign(own[0], r.PublicKey, lifetime(request.GetValidityDuration()))
	var long *identity.TTLError
	switch {
	case errors.As(err, &long):
		return nil, status.Error(codes.InvalidArgument, long.Error())
	case err != nil:
		return nil, status.Errorf(codes.Internal, "CSR signing error: %v", err)
	}
	response := &security.IstioCertificateResponse{}
	for _, block := range blocks(chain) {
		response.CertChain = append(response.CertChain, string(pem.EncodeToMemory(block)))
	}
	// Callers take the last element for the whole of what they trust.
	response.CertChain = append(response.CertChain, string(s.options.Peers.Roots()))
	return response, nil
}

// lifetime keeps seconds that no duration holds from becoming a short one.
func lifetime(seconds int64) time.Duration {
	if seconds <= 0 {
		return 0
	}
	if seconds > int64(math.MaxInt64/time.Second) {
		return math.MaxInt64
	}
	return time.Duration(seconds) * time.Second
}

func invalid(err error) error {
	return status.Error(codes.InvalidArgument, "invalid CSR: "+err.Error())
}

// tooMany says the time in tenths of a second, rounded up.
func tooMany(wait time.Duration) error {
	const tenth = 100 * time.Millisecond
	return status.Errorf(codes.ResourceExhausted, "too many certificate requests, retry in %s", (wait + tenth - 1).Truncate(tenth))
}

func remote(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return Remote(p.Addr)
	}
	return "unknown"
}

// Remote is an address without its port, for limits. A machine has a whole
// network of IPv6 addresses, which count as one.
func Remote(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap().WithZone(""); ip.Is6() {
		if network, err := ip.Prefix(64); err == nil {
			return network.String()
		}
	}
	return ip.String()
}
