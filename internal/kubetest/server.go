// Package kubetest starts a real etcd and kube-apiserver for tests, which end
// with the test, however it ends, and stands in for what else a cluster has:
// its controllers and kubelets do not run, so tests say themselves which pods
// and endpoints there are.
//
// The binaries are those of hack/kube.sh; `make test` puts them on PATH.
package kubetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Port is where the API server listens; its Service has 443.
const Port = 6443

// Options are how a cluster differs from the usual; the zero value is that.
type Options struct {
	// Address is where etcd and the API server listen. Zero: a loopback
	// address of this cluster's own, which no other machine and no network
	// namespace reaches. Any other is what the Service kubernetes advertises.
	Address netip.Addr
	// Inside runs a function in the network namespace that has Address; nil:
	// in this process's own.
	Inside func(func() error) error
	// Dir keeps data, certificates and logs; empty: a temporary directory that
	// Close removes.
	Dir string
	// Flags are more flags of the API server; a later one wins.
	Flags []string
}

// Cluster is a running API server with its etcd.
type Cluster struct {
	Etcd, APIServer *Process
	Address         netip.Addr
	Client          kubernetes.Interface // the admin's

	dir     string
	remove  bool
	bin     string
	keys    *keys
	inside  func(func() error) error
	foreign bool // in another network namespace
}

// Start starts a cluster that ends with the test, and fails the test if it
// cannot.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the API server's log:\n%s", c.APIServer.Tail())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// New starts a cluster and waits until it is ready. The error of missing
// binaries says how to get them.
func New(o Options) (_ *Cluster, err error) {
	c := &Cluster{Address: o.Address, dir: o.Dir, inside: o.Inside, foreign: o.Inside != nil}
	if c.inside == nil {
		c.inside = func(f func() error) error { return f() }
	}
	if !c.Address.IsValid() {
		// One of very many, so that clusters of several tests do not meet and
		// a port is still free at a restart.
		c.Address = netip.AddrFrom4([4]byte{127, byte(64 + rand.IntN(64)), byte(rand.IntN(256)), byte(1 + rand.IntN(254))})
	}
	if c.bin, err = binaries(); err != nil {
		return nil, err
	}
	if c.dir == "" {
		c.remove = true
		if c.dir, err = os.MkdirTemp("", "kubetest-"); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.keys, err = newKeys(c.dir, []netip.Addr{c.Address, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.96.0.1")}); err != nil {
		return nil, err
	}
	c.Etcd = c.process("etcd", c.etcdFlags(), c.etcdReady)
	c.APIServer = c.process("kube-apiserver", append(c.apiFlags(), o.Flags...), c.apiReady)
	if c.Client, err = kubernetes.NewForConfig(c.Config()); err != nil {
		return nil, err
	}
	if err := c.Etcd.Start(); err != nil {
		return nil, err
	}
	return c, c.APIServer.Start()
}

// binaries is the directory that has all three.
func binaries() (string, error) {
	path, err := exec.LookPath("kube-apiserver")
	if err != nil {
		return "", fmt.Errorf("this test needs a real kube-apiserver, etcd and kubectl: %w; run `make test`, which builds them, or put what hack/kube.sh prints on PATH", err)
	}
	return filepath.Abs(filepath.Dir(path))
}

// Close ends both and removes the temporary directory.
func (c *Cluster) Close() error {
	for _, p := range []*Process{c.APIServer, c.Etcd} {
		if p != nil {
			p.Kill() // nobody needs its data any more
		}
	}
	if c.remove {
		return os.RemoveAll(c.dir)
	}
	return nil
}

func (c *Cluster) process(name string, args []string, ready func(context.Context) error) *Process {
	return NewProcess(ProcessSpec{
		Name: name, Log: filepath.Join(c.dir, name+".log"), Inside: c.inside, Ready: ready,
		Command: func() *exec.Cmd { return exec.Command(filepath.Join(c.bin, name), args...) },
	})
}

func (c *Cluster) etcdFlags() []string {
	client, peer := "http://"+c.at(2379), "http://"+c.at(2380)
	return []string{
		"--data-dir=" + filepath.Join(c.dir, "etcd"),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer,
		"--unsafe-no-fsync", // the machine does not lose its power in a test
		"--log-level=warn",
	}
}

// apiFlags are those of a usual cluster; its admission plugins are the default
// ones and kubeadm's.
func (c *Cluster) apiFlags() []string {
	flags := []string{
		"--etcd-servers=http://" + c.at(2379),
		"--bind-address=" + c.Address.String(), fmt.Sprintf("--secure-port=%d", Port),
		"--tls-cert-file=" + c.keys.path("server.crt"), "--tls-private-key-file=" + c.keys.path("server.key"),
		"--client-ca-file=" + c.keys.path("ca.crt"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + c.keys.path("accounts.key"), "--service-account-signing-key-file=" + c.keys.path("accounts.key"),
		"--service-cluster-ip-range=10.96.0.0/16",
		// Webhooks are called at their endpoints: there is no kube-proxy.
		"--enable-aggregator-routing=true",
		"--cert-dir=" + c.dir,
	}
	if c.Address.IsLoopback() {
		return append(flags, "--endpoint-reconciler-type=none") // no endpoint may be a loopback address
	}
	return append(flags, "--advertise-address="+c.Address.String())
}

func (c *Cluster) at(port uint16) string { return netip.AddrPortFrom(c.Address, port).String() }

func (c *Cluster) etcdReady(ctx context.Context) error {
	transport := &http.Transport{DialContext: c.dial, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.at(2379)+"/health", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New("etcd: " + resp.Status)
	}
	return nil
}

func (c *Cluster) apiReady(ctx context.Context) error {
	body, err := c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	if err != nil && len(body) > 0 {
		return fmt.Errorf("%w: %s", err, strings.ReplaceAll(string(body), "\n", "; "))
	}
	return err
}

// dial opens a connection from where the cluster is.
func (c *Cluster) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = c.inside(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Config is the admin's, for clients of this process; limits do not hold.
func (c *Cluster) Config() *rest.Config {
	config := c.config()
	config.CertFile, config.KeyFile = c.keys.path("admin.crt"), c.keys.path("admin.key")
	return config
}

// config has no user.
func (c *Cluster) config() *rest.Config {
	config := &rest.Config{Host: "https://" + c.at(Port), QPS: -1}
	config.CAFile = c.keys.path("ca.crt")
	if c.foreign {
		config.Dial = c.dial
	}
	return config
}
