package kubetest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// commandTime is how long kubectl may take, which asks with retries.
const commandTime = time.Minute

// As is the admin who impersonates a user, for tests of what RBAC lets it do.
func (c *Cluster) As(user string, groups ...string) *rest.Config {
	config := c.Config()
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	return config
}

// AsAccount is the admin who impersonates a service account.
func (c *Cluster) AsAccount(namespace, name string) *rest.Config {
	return c.As("system:serviceaccount:"+namespace+":"+name, "system:serviceaccounts", "system:serviceaccounts:"+namespace, "system:authenticated")
}

// Token asks for a service account's token as a kubelet does, for the pod's
// projected volume; without audiences it is for the API server.
func (c *Cluster) Token(t testing.TB, namespace, name string, audiences ...string) string {
	t.Helper()
	seconds := int64(3600)
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: &seconds}}
	answer, err := c.Client.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), name, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("token of %s/%s: %v", namespace, name, err)
	}
	return answer.Status.Token
}

// Account is a service account's configuration, with a token of its own.
func (c *Cluster) Account(t testing.TB, namespace, name string) *rest.Config {
	t.Helper()
	config := c.config()
	config.BearerToken = c.Token(t, namespace, name)
	return config
}

// Kubeconfig writes config to a file for kubectl and pilot, which run where
// the cluster is, and returns its path.
func Kubeconfig(t testing.TB, config *rest.Config, namespace string) string {
	t.Helper()
	file := api.NewConfig()
	file.Clusters["kubetest"] = &api.Cluster{Server: config.Host, CertificateAuthority: config.CAFile}
	file.AuthInfos["user"] = &api.AuthInfo{
		ClientCertificate: config.CertFile, ClientKey: config.KeyFile, Token: config.BearerToken,
		Impersonate: config.Impersonate.UserName, ImpersonateGroups: config.Impersonate.Groups,
	}
	file.Contexts["kubetest"] = &api.Context{Cluster: "kubetest", AuthInfo: "user", Namespace: namespace}
	file.CurrentContext = "kubetest"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*file, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Kubectl runs the admin's kubectl with the input and returns what it prints;
// its failure is the test's.
func (c *Cluster) Kubectl(t testing.TB, input string, args ...string) string {
	t.Helper()
	out, err := c.TryKubectl(t, input, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TryKubectl is Kubectl for a command that may fail: its error has what was
// printed.
func (c *Cluster) TryKubectl(t testing.TB, input string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), commandTime)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+Kubeconfig(t, c.Config(), ""), "HOME="+c.dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	if err := c.inside(cmd.Run); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}
