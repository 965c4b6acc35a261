package accounts

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/model"
)

const (
	// CASecret is the name of the Secret that keeps the CA.
	CASecret = "istio-ca-secret"
	// CAType is its type.
	CAType corev1.SecretType = "istio.io/ca-root"

	caCert = "ca-cert.pem"
	caKey  = "ca-key.pem"

	// retryTime is between attempts to read the CA at the start.
	retryTime = 2 * time.Second
)

// caSecret is where a CA is kept in Kubernetes.
type caSecret struct {
	ctx       context.Context // of the process: identity.Place has none
	client    kubernetes.Interface
	namespace string
	options   identity.Options
	log       *slog.Logger

	ca   *identity.CA   // what is put back; nil before there is one
	last *corev1.Secret // as it was read last; nil before
}

// OpenCA reads the CA from its Secret, or makes both: of two that start
// together one makes it, and the other reads it. The Secret is followed, and
// never overwritten; one that was deleted is put back as it was. While the API
// cannot be reached it is tried again, until ctx ends.
func OpenCA(ctx context.Context, client kubernetes.Interface, namespace string, o identity.Options, log *slog.Logger) (*identity.CA, error) {
	s := &caSecret{ctx: ctx, client: client, namespace: namespace, options: o, log: log}
	err := wait.PollUntilContextCancel(ctx, retryTime, true, func(context.Context) (done bool, err error) {
		_, err = s.get()
		if transient(err) {
			log.Warn("the CA cannot be read yet", "secret", namespace+"/"+CASecret, "error", err)
			return false, nil
		}
		if err != nil {
			return false, err
		}
		on := model.Key{Kind: "Secret", Namespace: namespace, Name: CASecret}
		s.ca, err = identity.ReadCA(identity.Place{On: on, Read: s.read}, o)
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("the CA in Secret %s/%s: %w", namespace, CASecret, err)
	}
	return s.ca, nil
}

// read gives what there is; what there was while the API cannot be reached.
func (s *caSecret) read() (cert, key []byte, err error) {
	found, err := s.get()
	if err != nil && s.last != nil && transient(err) {
		found, err = s.last, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if found.Type != CAType {
		return nil, nil, fmt.Errorf("it is of the type %s, not %s; move it away, or give the CA as files with --signing-cert", found.Type, CAType)
	}
	s.last = found
	return found.Data[caCert], found.Data[caKey], nil
}

// get reads the Secret, and makes it if there is none.
func (s *caSecret) get() (*corev1.Secret, error) {
	ctx, done := context.WithTimeout(s.ctx, requestTime)
	defer done()
	api := s.client.CoreV1().Secrets(s.namespace)
	found, err := api.Get(ctx, CASecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		var next *corev1.Secret
		if next, err = s.next(); err != nil {
			return nil, err
		}
		found, err = api.Create(ctx, next, metav1.CreateOptions{FieldManager: fieldManager})
		switch {
		case err == nil && s.ca != nil:
			s.log.Warn("the Secret of the CA was deleted; it is put back as it was", "secret", s.namespace+"/"+CASecret)
		case err == nil:
			s.log.Info("made a CA", "secret", s.namespace+"/"+CASecret)
		case apierrors.IsAlreadyExists(err):
			found, err = api.Get(ctx, CASecret, metav1.GetOptions{})
		}
	}
	return found, err
}

// next is the Secret to make: of the CA that is in force, or of a new one.
func (s *caSecret) next() (*corev1.Secret, error) {
	ca := s.ca
	if ca == nil {
		var err error
		if ca, err = identity.New(s.options); err != nil {
			return nil, err
		}
	}
	cert, key, err := ca.Encode()
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: CASecret, Labels: madeBy()},
		Type:       CAType, Data: map[string][]byte{caCert: cert, caKey: key},
	}, err
}

// transient says whether the same request may do better later. A refusal of
// the API server is one that it gives for the request itself.
func transient(err error) bool {
	if err == nil {
		return false
	}
	reason := apierrors.ReasonForError(err)
	return reason == metav1.StatusReasonUnknown || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err)
}
