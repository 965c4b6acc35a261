package accounts

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/meshpilot/pilot/pkg/identity/csr"
)

const (
	// Audience is what a token must be for: with no other a caller gets a
	// certificate.
	Audience = "istio-ca"

	userPrefix = "system:serviceaccount:"
	// longestReason of the API is passed on.
	longestReason = 500
)

// Reviews authenticates by tokens of service accounts, as the API server
// judges them. Nothing is remembered: a caller asks once in hours, and what
// was revoked is refused at once.
type Reviews struct{ Client kubernetes.Interface }

// Authenticate implements csr.Authenticator.
func (r Reviews) Authenticate(ctx context.Context) (csr.Account, error) {
	token, err := csr.Bearer(ctx)
	if err != nil {
		return csr.Account{}, err
	}
	claimed, ok := claim(token)
	if !ok {
		return csr.Account{}, errors.New("the bearer token is not one of a Kubernetes service account")
	}
	ctx, done := context.WithTimeout(ctx, requestTime)
	defer done()
	review, err := r.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{Audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return csr.Account{}, fmt.Errorf("the Kubernetes API could not be asked about the bearer token: %w", plain(err))
	}
	account, err := judge(review.Status, claimed)
	if err != nil {
		return csr.Account{}, err
	}
	return account, r.exists(ctx, account)
}

// judge reads the API server's answer; claimed is who the token says it is of,
// which counts only in so far as the answer bears it out.
func judge(s authenticationv1.TokenReviewStatus, claimed csr.Account) (csr.Account, error) {
	switch {
	case !s.Authenticated && strings.Contains(s.Error, fmt.Sprintf("serviceaccounts %q not found", claimed.Name)):
		return csr.Account{}, gone(claimed)
	case !s.Authenticated:
		reason := cmp.Or(s.Error, "no reason is given")
		return csr.Account{}, fmt.Errorf("the Kubernetes API refuses the bearer token: %s", reason[:min(len(reason), longestReason)])
	case !slices.Contains(s.Audiences, Audience):
		return csr.Account{}, fmt.Errorf("the bearer token is not for the audience %s", Audience)
	}
	name, ok := strings.CutPrefix(s.User.Username, userPrefix)
	parts := strings.Split(name, ":")
	if !ok || len(parts) != 2 || parts[0] == "" || parts[1] == "" {
		return csr.Account{}, errors.New("the bearer token is not one of a Kubernetes service account")
	}
	return csr.Account{Namespace: parts[0], Name: parts[1]}, nil
}

// exists asks for the account itself: API servers may take the tokens of
// deleted accounts (--service-account-lookup=false).
func (r Reviews) exists(ctx context.Context, a csr.Account) error {
	found, err := r.Client.CoreV1().ServiceAccounts(a.Namespace).Get(ctx, a.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && found.DeletionTimestamp != nil:
		return gone(a)
	case err != nil:
		return fmt.Errorf("the Kubernetes API could not be asked about service account %s/%s: %w", a.Namespace, a.Name, plain(err))
	}
	return nil
}

func gone(a csr.Account) error {
	return status.Errorf(codes.PermissionDenied, "service account %s/%s does not exist", a.Namespace, a.Name)
}

// plain is an error that has no gRPC status, so that the next authenticator
// may be asked.
func plain(err error) error { return errors.New(err.Error()) }

// claim is who a token says it is of. It keeps what is no token of a service
// account from the API server.
func claim(token string) (csr.Account, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return csr.Account{}, false
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Sub string
	}
	if err != nil || json.Unmarshal(text, &claims) != nil {
		return csr.Account{}, false
	}
	namespace, name, ok := strings.Cut(strings.TrimPrefix(claims.Sub, userPrefix), ":")
	return csr.Account{Namespace: namespace, Name: name}, ok && strings.HasPrefix(claims.Sub, userPrefix)
}
