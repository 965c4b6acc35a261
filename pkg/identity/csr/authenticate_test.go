package csr

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshpilot/pilot/pkg/identity"
)

type answers struct {
	account Account
	err     error
}

func (a answers) Authenticate(context.Context) (Account, error) { return a.account, a.err }

// TestAuthenticators: the first that accepts decides, and so does one whose
// error has a status; the texts of all others are told once.
func TestAuthenticators(t *testing.T) {
	ca, err := identity.New(identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cart := Account{"shop", "cart"}
	unknown, final := answers{err: errors.New("unknown")}, answers{err: status.Error(codes.PermissionDenied, "it is gone")}
	for _, c := range []struct {
		name string
		more []Authenticator
		code codes.Code
		text string
	}{
		{"accepted", []Authenticator{unknown, answers{account: cart}, final}, codes.OK, ""},
		{"by nobody", []Authenticator{unknown, unknown}, codes.Unauthenticated, "no client certificate is presented; unknown"},
		{"refused for good", []Authenticator{unknown, final, answers{account: cart}}, codes.PermissionDenied, "it is gone"},
	} {
		s := New(Options{Peers: &Peers{Roots: ca.Roots}, Domains: func() []string { return nil }, More: c.more, PerAccount: PerAccount(), PerAddress: PerAddress()})
		got, err := s.authenticate(t.Context(), c.name)
		if text := status.Convert(err).Message(); status.Code(err) != c.code || text != c.text || (err == nil) != (got == cart) {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
}
