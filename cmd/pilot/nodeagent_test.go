package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	security "istio.io/api/security/v1alpha1"

	"github.com/meshpilot/pilot/pkg/identity"
)

// TestMain lets the test binary stand for the command where a test needs a
// process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_AS_PILOT") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestNodeAgentUsage(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name, args, stderr string
	}{
		{"stray argument", "x", `pilot: unexpected argument "x": only arguments of Envoy, after -- and with --envoy-bootstrap`},
		{"arguments without Envoy", "-- -l debug", `pilot: unexpected argument "-l": only arguments of Envoy, after -- and with --envoy-bootstrap`},
		{"key type", "--key-type dsa", `pilot: --key-type: key type "dsa" is neither ecdsa nor rsa`},
		{"key size", "--key-type rsa --key-size 1024", `pilot: --key-size: an RSA key of 1024 bits: use 2048 to 8192`},
		{"no RSA key", "--key-type rsa --key-size 0", `pilot: --key-size: an RSA key of 0 bits is none`},
		{"two directories", "--cert-chain DIR/a/cert-chain.pem --key DIR/b/key.pem --root-cert DIR/a/root-cert.pem",
			`pilot: DIR/a/cert-chain.pem, DIR/b/key.pem and DIR/a/root-cert.pem are in different directories; they must be in one, because it is replaced in one step`},
		{"no bootstrap", "--envoy-bootstrap DIR/none.json", `pilot: --envoy-bootstrap: stat DIR/none.json: no such file or directory`},
		{"no root", "--cert-chain DIR/cert-chain.pem --key DIR/key.pem --root-cert DIR/root-cert.pem",
			`pilot: the root certificates: open DIR/root-cert.pem: no such file or directory`},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"node-agent"}, strings.Fields(strings.ReplaceAll(c.args, "DIR", dir))...)
			code, _, stderr := run(t, args...)
			if want := strings.ReplaceAll(c.stderr, "DIR", dir); code != exitTrouble || strings.TrimSpace(stderr) != want {
				t.Errorf("exit %d, stderr\n%s\nwant exit 2 and\n%s", code, stderr, want)
			}
		})
	}
	_, _, stderr := run(t, "node-agent", "--env", "gcp", "--platform", "vm", "--root-cert", "/nowhere/r", "--key", "/nowhere/k", "--cert-chain", "/nowhere/c")
	for _, flag := range []string{"--env", "--platform"} {
		if !strings.Contains(stderr, flag+" is ignored") {
			t.Errorf("no word about %s:\n%s", flag, stderr)
		}
	}
}

// TestUnit: the unit that we ship has flags that exist.
func TestUnit(t *testing.T) {
	unit, err := os.ReadFile("../../packaging/systemd/istio-auth-node-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(unit), "\\\n", "")
	_, command, found := strings.Cut(text, "\nExecStart=/usr/local/bin/pilot node-agent ")
	if !found || !strings.Contains(text, "\nRestart=always\n") {
		t.Fatalf("no ExecStart, or no Restart=always in\n%s", text)
	}
	command, _, _ = strings.Cut(command, "\n")
	cmd := nodeAgentCmd()
	if err := cmd.ParseFlags(strings.Fields(command)); err != nil || cmd.Flags().NFlag() != 2 {
		t.Errorf("%q: %d flags, %v", command, cmd.Flags().NFlag(), err)
	}
}

// signer signs what any caller asks for, and says so.
type signer struct {
	security.UnimplementedIstioCertificateServiceServer
	ca     *identity.CA
	answer chan struct{}
}

func (s *signer) CreateCertificate(_ context.Context, r *security.IstioCertificateRequest) (*security.IstioCertificateResponse, error) {
	block, _ := pem.Decode([]byte(r.GetCsr()))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	chain, err := s.ca.Sign(identity.Request{URI: vmIdentity, Key: csr.PublicKey, TTL: time.Hour})
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	s.answer <- struct{}{}
	return &security.IstioCertificateResponse{CertChain: []string{string(chain), string(s.ca.Roots())}}, nil
}

const vmIdentity = "spiffe://cluster.local/ns/shop/sa/cart"

func startSigner(t *testing.T) (s *signer, address string) {
	t.Helper()
	ca, err := identity.NewCA(identity.DefaultOrg, identity.DefaultRootTTL)
	if err != nil {
		t.Fatal(err)
	}
	shown, err := ca.IssueControlPlane("cluster.local", "istio-system")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(shown.CertChain, shown.Key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s = &signer{ca: ca, answer: make(chan struct{}, 100)}
	server := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	security.RegisterIstioCertificateServiceServer(server, s)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return s, l.Addr().String()
}

// nodeAgentCommand is the command as a process of its own, with all files in
// dir.
func nodeAgentCommand(dir, address string, more ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], append([]string{
		"node-agent", "--ca-address", address, "--token", filepath.Join(dir, "token"),
		"--cert-chain", filepath.Join(dir, identity.CertChainFile),
		"--key", filepath.Join(dir, identity.KeyFile),
		"--root-cert", filepath.Join(dir, identity.RootCertFile),
	}, more...)...)
	cmd.Env = append(os.Environ(), "RUN_AS_PILOT=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func nodeAgent(t *testing.T, dir, address string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd, stderr := nodeAgentCommand(dir, address), new(bytes.Buffer)
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, stderr
}

// machineDir has the root file and a token.
func machineDir(t *testing.T, roots []byte, token string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string][]byte{identity.RootCertFile: roots, "token": []byte(token)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// leafIn is the certificate in dir, which must fit its key and the roots.
func leafIn(t *testing.T, dir string) *x509.Certificate {
	t.Helper()
	data := filepath.Join(dir, "..data")
	pair, err := tls.LoadX509KeyPair(filepath.Join(data, identity.CertChainFile), filepath.Join(data, identity.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(data, identity.RootCertFile))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

// TestNodeAgentKilled: at whatever instant, the files parse and match.
func TestNodeAgentKilled(t *testing.T) {
	s, address := startSigner(t)
	dir := machineDir(t, s.ca.Roots(), "a-token-of-sixteen")
	var last string
	changed, rounds := 0, 30
	for range rounds {
		cmd, stderr := nodeAgent(t, dir, address)
		select {
		case <-s.answer:
		case <-time.After(10 * time.Second):
			t.Errorf("no request within 10 s")
		}
		<-time.After(rand.N(12 * time.Millisecond)) // the answer's way, and the writing
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || t.Failed() {
			t.Fatalf("%v\n%s", err, stderr)
		}
		if _, err := os.Lstat(filepath.Join(dir, "..data")); last == "" && os.IsNotExist(err) {
			continue // killed before the first was written
		}
		if serial := leafIn(t, dir).SerialNumber.String(); serial != last {
			last, changed = serial, changed+1
		}
	}
	t.Logf("killed %d times, %d of them after the new pair was shown", rounds, changed)

	// Alive, it makes what is missing and tidies up.
	cmd, _ := nodeAgent(t, dir, address)
	<-s.answer
	deadline := time.Now().Add(10 * time.Second)
	for entries := 0; entries != 6; { // ..data, its directory, three links, the token
		if time.Now().After(deadline) {
			t.Fatalf("%d entries in the directory, want 6", entries)
		}
		<-time.After(10 * time.Millisecond)
		found, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		entries = len(found)
	}
	leafIn(t, dir)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
}

// TestNodeAgentTakesEnvoyAlong: a killed agent leaves no Envoy behind, which
// would keep the ports of the next one.
func TestNodeAgentTakesEnvoyAlong(t *testing.T) {
	s, address := startSigner(t)
	dir := machineDir(t, s.ca.Roots(), "a-token-of-sixteen")
	envoy := filepath.Join(t.TempDir(), "envoy")
	if err := os.WriteFile(envoy, []byte("#!/bin/sh\ntrap 'echo ended; exit' TERM\necho started $@\nfor i in $(seq 1000); do sleep 0.01; done\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := nodeAgentCommand(dir, address, "--envoy-binary", envoy, "--envoy-bootstrap", envoy, "--", "--log-level", "warn")
	out, in, err := os.Pipe() // lives longer than the agent
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := out.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = in
	if err := errors.Join(cmd.Start(), in.Close()); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "started -c "+envoy+" --log-level warn" {
		t.Errorf("%q", lines.Text())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("killed without an error")
	}
	if !lines.Scan() || lines.Text() != "ended" {
		t.Errorf("%q", lines.Text())
	}
}
