package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meshpilot/pilot/internal/kubetest"
	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/secrets"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/accounts"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
)

// accountsRules are all that the room may do in a cluster: its tests run with
// no more.
func accountsRules() []rbacv1.PolicyRule {
	rule := func(group, resource, names string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: strings.Fields(names), Verbs: verbs}
	}
	return []rbacv1.PolicyRule{
		rule("", "secrets", "", "list", "watch", "get", "create", "patch", "delete"),
		rule("", "serviceaccounts", "", "get"),
		rule("authentication.k8s.io", "tokenreviews", "", "create"),
		rule("", "configmaps", "", "create"),
		rule("", "configmaps", accounts.RootsConfigMap, "list", "watch", "patch"),
		rule("", "namespaces", "", "list", "watch"),
	}
}

// accountsCluster is the API as an account sees it that has those rules alone.
func accountsCluster(t *testing.T, c *kubetest.Cluster, namespace string) *cluster.Cluster {
	t.Helper()
	c.Namespace(t, namespace, nil)
	c.ServiceAccount(t, namespace, "istio-pilot")
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "accounts-" + namespace}, Rules: accountsRules()}
	if _, err := c.Client.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: role.ObjectMeta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "istio-pilot"}},
	}
	if _, err := c.Client.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	out, err := cluster.Open(cluster.Where{Kubeconfig: kubetest.Kubeconfig(t, c.Account(t, namespace, "istio-pilot"), namespace)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// keeper is a running controller of Secrets.
type keeper struct {
	t    *testing.T
	api  *kubetest.Cluster
	c    *secrets.Controller
	ca   *identity.CA
	mu   sync.Mutex
	told []identity.Problem
}

func keep(t *testing.T, api *kubetest.Cluster, self *cluster.Cluster, change func(*secrets.Options)) *keeper {
	t.Helper()
	ca, err := identity.New(identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := secrets.Options{
		Store: accounts.NewSecrets(self.Client), CA: ca, Resync: time.Second,
		Renewal: identity.Renewal{Ratio: identity.DefaultGraceRatio, MinGrace: time.Second},
		Log:     slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	k := &keeper{t: t, api: api, c: secrets.New(o), ca: o.CA}
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	running.Go(func() {
		k.c.Run(ctx, func(p []identity.Problem) { k.mu.Lock(); k.told = p; k.mu.Unlock() })
	})
	t.Cleanup(func() { stop(); running.Wait() })
	return k
}

func (k *keeper) codes() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for _, p := range k.told {
		out = append(out, p.Code+" "+p.On.Namespace+"/"+p.On.Name)
	}
	return strings.Join(out, ", ")
}

func (k *keeper) get(namespace, account string) (*corev1.Secret, error) {
	return k.api.Client.CoreV1().Secrets(namespace).Get(k.t.Context(), "istio."+account, metav1.GetOptions{})
}

// sound waits until the account's Secret is as the spec has it, and another
// one than the version.
func (k *keeper) sound(what, namespace, account, version string) (next *corev1.Secret) {
	k.t.Helper()
	eventually(k.t, what, func() (err error) {
		if next, err = k.get(namespace, account); err != nil {
			return err
		}
		if next.ResourceVersion == version {
			return errors.New("it is as it was")
		}
		if next.Type != "istio.io/key-and-cert" || next.Annotations["istio.io/service-account.name"] != account {
			return fmt.Errorf("type %s, annotations %v", next.Type, next.Annotations)
		}
		chain, err := identity.ParseCertificates(next.Data["cert-chain.pem"])
		if err != nil {
			return err
		}
		if _, err := identity.ParseKey(next.Data["key.pem"]); err != nil {
			return err
		}
		if !bytes.Equal(next.Data["root-cert.pem"], k.ca.Roots()) {
			return errors.New("its roots are not the CA's")
		}
		if got, want := chain[0].URIs[0].String(), "spiffe://cluster.local/ns/"+namespace+"/sa/"+account; got != want {
			return fmt.Errorf("its identity is %s, not %s", got, want)
		}
		return k.ca.Verify(chain)
	})
	return next
}

func (k *keeper) patch(s *corev1.Secret, patch string) {
	k.t.Helper()
	if _, err := k.api.Client.CoreV1().Secrets(s.Namespace).Patch(k.t.Context(), s.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		k.t.Fatal(err)
	}
}

func (k *keeper) remove(namespace, secret string) {
	k.t.Helper()
	if err := k.api.Client.CoreV1().Secrets(namespace).Delete(k.t.Context(), secret, metav1.DeleteOptions{}); err != nil {
		k.t.Fatal(err)
	}
}

func (k *keeper) inForce(code string) {
	k.t.Helper()
	eventually(k.t, "problem "+code, func() error {
		if got := k.codes(); got != code {
			return fmt.Errorf("%q, want %q", got, code)
		}
		return nil
	})
}

// A Secret is made, made again, repaired, left alone and deleted, as the spec's
// table of events has it.
func TestSecretsOfAccounts(t *testing.T) {
	const ns = "secrets"
	k := keep(t, shared, accountsCluster(t, shared, "secrets-pilot"), nil)
	shared.Namespace(t, ns, nil)
	for _, name := range []string{"cart", "web", "theirs"} {
		shared.ServiceAccount(t, ns, name)
	}
	foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "istio.theirs"}, StringData: map[string]string{"mine": "yes"}}
	if _, err := shared.Client.CoreV1().Secrets(ns).Create(t.Context(), foreign, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cart, web, theirs := secrets.Account{Namespace: ns, Name: "cart"}, secrets.Account{Namespace: ns, Name: "web"}, secrets.Account{Namespace: ns, Name: "theirs"}
	k.c.Set("cluster.local", []secrets.Account{cart, web, theirs})
	first := k.sound("made", ns, "cart", "")
	k.sound("made", ns, "web", "")
	k.inForce("FOREIGN_SECRET secrets/istio.theirs")
	if s, err := k.get(ns, "theirs"); err != nil || string(s.Data["mine"]) != "yes" || len(s.Data) != 1 {
		t.Errorf("a foreign Secret was touched: %v %v", s.Data, err)
	}
	k.remove(ns, "istio.theirs")
	k.sound("made once the foreign one is gone", ns, "theirs", "")
	k.inForce("")

	k.remove(ns, first.Name)
	second := k.sound("made again", ns, "cart", first.ResourceVersion)
	k.patch(second, `{"metadata":{"labels":{"a":"b"}},"data":{"more":"YQ==","key.pem":"YQ=="}}`)
	third := k.sound("repaired", ns, "cart", second.ResourceVersion)
	if third.Labels["a"] != "b" || string(third.Data["more"]) != "a" || third.UID != second.UID {
		t.Errorf("what others added is gone: %v %v", third.Labels, third.Data["more"])
	}
	k.patch(third, `{"metadata":{"labels":{"a":"c"}}}`)
	time.Sleep(2500 * time.Millisecond) // two looks at everything
	if s, err := k.get(ns, "cart"); err != nil || !bytes.Equal(s.Data["key.pem"], third.Data["key.pem"]) || s.Labels["a"] != "c" {
		t.Errorf("a label made it change: %v", err)
	}

	k.c.Set("cluster.local", []secrets.Account{cart, theirs}) // whoever told does not see all
	time.Sleep(2500 * time.Millisecond)                       // two looks at everything
	if _, err := k.get(ns, "web"); err != nil {
		t.Errorf("deleted while its account exists: %v", err)
	}
	if err := shared.Client.CoreV1().ServiceAccounts(ns).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "deleted with its account", func() error {
		if _, err := k.get(ns, "web"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	})
	k.inForce("")
}

// In a namespace that is being deleted nothing is made, and nobody is alarmed.
func TestSecretsOfATerminatingNamespace(t *testing.T) {
	k := keep(t, shared, accountsCluster(t, shared, "ending-pilot"), nil)
	for _, ns := range []string{"ending", "lasting"} {
		shared.Namespace(t, ns, nil)
	}
	if err := shared.Client.CoreV1().Namespaces().Delete(t.Context(), "ending", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	k.c.Set("cluster.local", []secrets.Account{{Namespace: "ending", Name: "default"}, {Namespace: "gone", Name: "default"}, {Namespace: "lasting", Name: "default"}})
	k.sound("made elsewhere", "lasting", "default", "")
	time.Sleep(2500 * time.Millisecond) // two looks at everything
	if got := k.codes(); got != "" {
		t.Errorf("problems: %s", got)
	}
}

func TestSecretsRotate(t *testing.T) {
	k := keep(t, shared, accountsCluster(t, shared, "rotate-pilot"), func(o *secrets.Options) {
		ca, err := identity.New(identity.Options{Lifetimes: identity.Lifetimes{Default: 5 * time.Second}})
		if err != nil {
			t.Fatal(err)
		}
		o.CA, o.Resync = ca, 200*time.Millisecond
	})
	shared.Namespace(t, "rotate", nil)
	k.c.Set("cluster.local", []secrets.Account{{Namespace: "rotate", Name: "default"}})
	version := ""
	for range 3 {
		s := k.sound("renewed", "rotate", "default", version)
		version = s.ResourceVersion
	}
}

// Two that both think that they lead make no second Secret, lose no update and
// come to rest.
func TestSecretsOfTwoControllers(t *testing.T) {
	self := accountsCluster(t, shared, "two-pilot")
	one := keep(t, shared, self, nil)
	two := keep(t, shared, self, func(o *secrets.Options) { o.CA = one.ca })
	shared.Namespace(t, "two", nil)
	var list []secrets.Account
	for i := range 50 {
		name := fmt.Sprintf("account-%d", i)
		shared.ServiceAccount(t, "two", name)
		list = append(list, secrets.Account{Namespace: "two", Name: name})
	}
	one.c.Set("cluster.local", list)
	two.c.Set("cluster.local", list)
	for _, a := range list {
		one.sound("made", "two", a.Name, "")
	}
	one.inForce("")
	two.inForce("")
	versions := func() (out []string) {
		found, err := shared.Client.CoreV1().Secrets("two").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range found.Items {
			out = append(out, s.Name+" "+s.ResourceVersion)
		}
		return out
	}
	before := versions()
	time.Sleep(2500 * time.Millisecond) // two looks at everything
	if after := versions(); !slices.Equal(before, after) || len(after) != len(list) {
		t.Errorf("they do not come to rest: %d Secrets\n%v\n%v", len(after), before, after)
	}
}

// Without leave to list, the problem says what is missing; with it, work goes on.
func TestSecretsDenied(t *testing.T) {
	self := accountsCluster(t, shared, "denied-pilot")
	roles := shared.Client.RbacV1().ClusterRoles()
	allow := func(rules []rbacv1.PolicyRule) {
		role, err := roles.Get(t.Context(), "accounts-denied-pilot", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		role.Rules = rules
		if _, err := roles.Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	allow(accountsRules()[1:])
	k := keep(t, shared, self, nil)
	shared.Namespace(t, "denied", nil)
	k.c.Set("cluster.local", []secrets.Account{{Namespace: "denied", Name: "default"}})
	eventually(t, "said so", func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if len(k.told) != 1 || k.told[0].Code != "SECRETS_UNREADABLE" || !strings.Contains(k.told[0].Message, `cannot list resource "secrets"`) {
			return fmt.Errorf("%+v", k.told)
		}
		return nil
	})
	allow(accountsRules())
	k.sound("made after all", "denied", "default", "")
	k.inForce("")
}

// The API server is killed while Secrets are written: none is lost, and none
// is made twice.
func TestSecretsOutlastTheServer(t *testing.T) {
	c := kubetest.Start(t, kubetest.Options{})
	k := keep(t, c, accountsCluster(t, c, "istio-system"), nil)
	c.Namespace(t, "shop", nil)
	var list []secrets.Account
	for i := range 200 {
		name := fmt.Sprintf("account-%d", i)
		c.ServiceAccount(t, "shop", name)
		list = append(list, secrets.Account{Namespace: "shop", Name: name})
	}
	k.c.Set("cluster.local", list)
	k.sound("the first", "shop", "account-0", "")
	c.APIServer.Kill()
	if err := c.APIServer.Start(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, a := range list {
		k.sound("after the restart", "shop", a.Name, "")
	}
	k.inForce("")
	t.Logf("all are there %s after the restart", time.Since(began).Round(100*time.Millisecond))
}

// A thousand accounts have their Secrets within the API's limit of requests.
func TestSecretsOfAThousandAccounts(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	c := kubetest.Start(t, kubetest.Options{})
	k := keep(t, c, accountsCluster(t, c, "istio-system"), func(o *secrets.Options) { o.Resync = 0 })
	var list []secrets.Account
	for i := range 10 {
		c.Namespace(t, fmt.Sprintf("ns-%d", i), nil)
	}
	for i := range 1000 {
		a := secrets.Account{Namespace: fmt.Sprintf("ns-%d", i%10), Name: fmt.Sprintf("account-%d", i)}
		c.ServiceAccount(t, a.Namespace, a.Name)
		list = append(list, a)
	}
	began := time.Now()
	k.c.Set("cluster.local", list)
	deadline := time.After(2 * time.Minute)
	for k.c.Stats().Secrets < len(list) {
		select {
		case <-deadline:
			t.Fatalf("%d Secrets after %s", k.c.Stats().Secrets, time.Since(began))
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Logf("1000 Secrets after %s", time.Since(began).Round(100*time.Millisecond))
	found, err := c.Client.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{FieldSelector: "type=istio.io/key-and-cert"})
	if err != nil || len(found.Items) != len(list) {
		t.Errorf("%d Secrets, %v", len(found.Items), err)
	}
}
