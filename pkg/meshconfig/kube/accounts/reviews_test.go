package accounts

import (
	"encoding/base64"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/meshpilot/pilot/pkg/identity/csr"
)

// TestJudge: what API servers and webhooks behind them may answer.
func TestJudge(t *testing.T) {
	cart := csr.Account{Namespace: "shop", Name: "cart"}
	user := func(name string) authenticationv1.UserInfo { return authenticationv1.UserInfo{Username: name} }
	for _, c := range []struct {
		name   string
		status authenticationv1.TokenReviewStatus
		text   string
		code   codes.Code
	}{
		{name: "good", status: authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"a", Audience}, User: user("system:serviceaccount:shop:cart")}},
		{"who knows no audiences", authenticationv1.TokenReviewStatus{Authenticated: true, User: user("system:serviceaccount:shop:cart")},
			"the bearer token is not for the audience istio-ca", codes.Unknown},
		{"a person", authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{Audience}, User: user("ann")},
			"the bearer token is not one of a Kubernetes service account", codes.Unknown},
		{"a person of a clever name", authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{Audience}, User: user("system:serviceaccount:shop:cart:x")},
			"the bearer token is not one of a Kubernetes service account", codes.Unknown},
		{"nobody", authenticationv1.TokenReviewStatus{}, "the Kubernetes API refuses the bearer token: no reason is given", codes.Unknown},
		{"gone", authenticationv1.TokenReviewStatus{Error: `[invalid bearer token, serviceaccounts "cart" not found]`},
			"service account shop/cart does not exist", codes.PermissionDenied},
		{"another one is gone", authenticationv1.TokenReviewStatus{Error: `serviceaccounts "web" not found`},
			`the Kubernetes API refuses the bearer token: serviceaccounts "web" not found`, codes.Unknown},
		{"endless", authenticationv1.TokenReviewStatus{Error: strings.Repeat("x", 1000)}, "the Kubernetes API refuses the bearer token: " + strings.Repeat("x", longestReason), codes.Unknown},
	} {
		got, err := judge(c.status, cart)
		if c.text == "" {
			if err != nil || got != cart {
				t.Errorf("%s: %v, %v", c.name, got, err)
			}
			continue
		}
		if s, _ := status.FromError(err); err == nil || s.Message() != c.text || s.Code() != c.code {
			t.Errorf("%s: %v, want %s", c.name, err, c.text)
		}
	}
}

// TestClaim: what is no token of a service account is not shown to the API.
func TestClaim(t *testing.T) {
	token := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	if got, ok := claim(token(`{"sub":"system:serviceaccount:shop:cart"}`)); !ok || got != (csr.Account{Namespace: "shop", Name: "cart"}) {
		t.Errorf("%v %v", got, ok)
	}
	for _, text := range []string{"", "a.b", "a.!.c", token("{"), token(`{}`), token(`{"sub":"ann"}`), token(`{"sub":"ann:x"}`), token(`{"sub":"system:serviceaccount:shop"}`)} {
		if got, ok := claim(text); ok {
			t.Errorf("%s is taken for %v", text, got)
		}
	}
}
