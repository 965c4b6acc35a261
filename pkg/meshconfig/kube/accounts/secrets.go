// Package accounts is the identity of workloads on Kubernetes: the Secrets of
// service accounts, who a token is of, the Secret of the CA, and its roots as a
// ConfigMap in every namespace.
//
// Verbs: secrets list, watch (type=istio.io/key-and-cert), get, create, patch,
// delete; serviceaccounts get; tokenreviews create; configmaps list, watch,
// patch (all of the name istio-ca-root-cert), create; namespaces list, watch.
package accounts

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/secrets"
)

// foreignTime is how old what is known of a foreign Secret may be: no watch
// shows it.
const foreignTime = 10 * time.Second

// madeBy marks what is made here, for who cleans up.
func madeBy() map[string]string { return map[string]string{"app.kubernetes.io/managed-by": "pilot"} }

// Secrets keeps the Secrets of service accounts in Kubernetes. It reads only
// those of their type into memory, and forgets contents once they were read.
type Secrets struct {
	client kubernetes.Interface
	held   *mirror[contents]

	mu      sync.Mutex
	changed func()
	foreign map[types.NamespacedName]sighting // our names, other types
}

// contents are those of a Secret; nil is not held.
type contents map[string][]byte

// sighting is a foreign Secret, when it was last seen.
type sighting struct {
	kind, version string
	at            time.Time
}

// NewSecrets is a store that asks the API nothing until Watch.
func NewSecrets(client kubernetes.Interface) *Secrets {
	s := &Secrets{client: client, changed: func() {}, foreign: map[types.NamespacedName]sighting{}}
	s.held = newMirror(func(o runtime.Object) contents { return read(o.(*corev1.Secret)) }, func() {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		changed()
	})
	return s
}

// read keeps the keys that count.
func read(s *corev1.Secret) contents {
	c := contents{}
	for _, key := range []string{identity.CertChainFile, identity.KeyFile, identity.RootCertFile} {
		c[key] = s.Data[key]
	}
	return c
}

// Watch implements secrets.Store; List waits until it has begun.
func (s *Secrets) Watch(ctx context.Context, namespace string, changed func()) {
	s.mu.Lock()
	s.changed = changed
	s.mu.Unlock()
	api := s.client.CoreV1().Secrets(namespace)
	s.held.run(ctx, &corev1.Secret{}, "type="+secrets.Type,
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return api.Watch(ctx, o) })
}

// List implements secrets.Store, from memory. Of other types it has those that
// were met when one was to be made.
func (s *Secrets) List(ctx context.Context, namespace string) ([]secrets.Listed, error) {
	if err := s.held.wait(ctx); err != nil {
		return nil, err
	}
	s.lookAgain(ctx)
	var out []secrets.Listed
	add := func(name types.NamespacedName, kind, version string) {
		if a, ok := secrets.AccountOf(name.Namespace, name.Name); ok && (namespace == "" || namespace == name.Namespace) {
			out = append(out, secrets.Listed{Account: a, Type: kind, Version: version})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held.each(func(name types.NamespacedName, h held[contents]) {
		if _, foreign := s.foreign[name]; !foreign {
			add(name, secrets.Type, versionOf(h.uid, h.version))
		}
	})
	for name, f := range s.foreign {
		add(name, f.kind, f.version)
	}
	return out, nil
}

// lookAgain asks what became of the foreign Secrets, of each once in a while.
// One that cannot be seen is taken to be as it was.
func (s *Secrets) lookAgain(ctx context.Context) {
	var due []types.NamespacedName
	s.mu.Lock()
	for name, f := range s.foreign {
		if time.Since(f.at) > foreignTime {
			due = append(due, name)
		}
	}
	s.mu.Unlock()
	for _, name := range due {
		_, _, _ = s.look(ctx, name)
	}
}

// look asks for one Secret as it is now, whatever its type.
func (s *Secrets) look(ctx context.Context, name types.NamespacedName) (contents, string, error) {
	ctx, done := context.WithTimeout(ctx, requestTime)
	defer done()
	o, err := s.client.CoreV1().Secrets(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case apierrors.IsNotFound(err):
		delete(s.foreign, name)
	case err == nil && o.Type != secrets.Type:
		s.foreign[name] = sighting{string(o.Type), versionOf(o.UID, o.ResourceVersion), time.Now()}
	case err == nil:
		delete(s.foreign, name)
		s.held.put(o, read(o))
		return read(o), versionOf(o.UID, o.ResourceVersion), nil
	}
	return nil, "", err
}

// Get implements secrets.Store. Contents of a watch serve once.
func (s *Secrets) Get(ctx context.Context, a secrets.Account) (secrets.Secret, string, error) {
	name := secretOf(a)
	h, _ := s.held.get(name)
	found, version := h.value, versionOf(h.uid, h.version)
	if found == nil {
		var err error
		if found, version, err = s.look(ctx, name); err != nil {
			return secrets.Secret{}, "", s.meaning(err)
		}
		if found == nil {
			return secrets.Secret{}, "", secrets.ErrNotFound
		}
	}
	_, resource := parts(version)
	s.held.replace(name, resource, nil)
	return secrets.Secret{
		Account: a, CertChain: found[identity.CertChainFile], Key: found[identity.KeyFile], Roots: found[identity.RootCertFile],
	}, version, nil
}

// Create implements secrets.Store.
func (s *Secrets) Create(ctx context.Context, made secrets.Secret) (string, error) {
	ctx, done := context.WithTimeout(ctx, requestTime)
	defer done()
	name := secretOf(made.Account)
	o, err := s.client.CoreV1().Secrets(name.Namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name.Name, Labels: madeBy(), Annotations: annotation(made.Account)},
		Type:       secrets.Type, Data: data(made),
	}, metav1.CreateOptions{FieldManager: fieldManager})
	switch {
	case apierrors.IsAlreadyExists(err):
		if _, _, err := s.look(ctx, name); err != nil && !apierrors.IsNotFound(err) {
			return "", err
		}
		return "", secrets.ErrExists
	case apierrors.IsNotFound(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return "", secrets.ErrGone
	case err != nil:
		return "", err
	}
	s.held.put(o, nil)
	return versionOf(o.UID, o.ResourceVersion), nil
}

// Update implements secrets.Store. What others have added stays.
func (s *Secrets) Update(ctx context.Context, next secrets.Secret, version string) (string, error) {
	ctx, done := context.WithTimeout(ctx, requestTime)
	defer done()
	uid, resource := parts(version)
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": uid, "resourceVersion": resource, "annotations": annotation(next.Account)},
		"data":     data(next),
	})
	if err != nil {
		return "", err
	}
	name := secretOf(next.Account)
	o, err := s.client.CoreV1().Secrets(name.Namespace).Patch(ctx, name.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if err != nil {
		return "", s.refused(ctx, name, err)
	}
	s.held.put(o, nil)
	return versionOf(o.UID, o.ResourceVersion), nil
}

// Delete implements secrets.Store. The API is asked whether the account is
// gone indeed: who told may not have seen all accounts.
func (s *Secrets) Delete(ctx context.Context, a secrets.Account, version string) error {
	ctx, done := context.WithTimeout(ctx, requestTime)
	defer done()
	_, err := s.client.CoreV1().ServiceAccounts(a.Namespace).Get(ctx, a.Name, metav1.GetOptions{})
	if err == nil {
		return fmt.Errorf("it is not deleted: service account %s exists", a)
	}
	if !apierrors.IsNotFound(err) {
		return err
	}
	uid, resource := parts(version)
	name := secretOf(a)
	err = s.client.CoreV1().Secrets(name.Namespace).Delete(ctx, name.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &resource},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return s.refused(ctx, name, err)
	}
	s.held.drop(name, resource)
	return nil
}

// refused says why a write was; after a conflict it is known what there is.
func (s *Secrets) refused(ctx context.Context, name types.NamespacedName, err error) error {
	switch {
	case apierrors.IsConflict(err):
		if _, _, err := s.look(ctx, name); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	case apierrors.IsNotFound(err):
		if h, ok := s.held.get(name); ok {
			s.held.drop(name, h.version)
		}
	}
	return s.meaning(err)
}

func (s *Secrets) meaning(err error) error {
	switch {
	case apierrors.IsConflict(err):
		return secrets.ErrConflict
	case apierrors.IsNotFound(err):
		return secrets.ErrNotFound
	}
	return err
}

func secretOf(a secrets.Account) types.NamespacedName {
	return types.NamespacedName{Namespace: a.Namespace, Name: a.SecretName()}
}

func annotation(a secrets.Account) map[string]string {
	return map[string]string{secrets.AccountAnnotation: a.Name}
}

func data(s secrets.Secret) map[string][]byte {
	return map[string][]byte{identity.CertChainFile: s.CertChain, identity.KeyFile: s.Key, identity.RootCertFile: s.Roots}
}
