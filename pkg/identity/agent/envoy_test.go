package agent

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// script stands for an Envoy: what matters here is how processes end.
func script(t *testing.T, text string) Envoy {
	t.Helper()
	return Envoy{Binary: "/bin/sh", Args: []string{"-c", text}}
}

// TestEnvoyWaitsForFiles: when the script starts, the files are there; its
// end is the agent's.
func TestEnvoyWaitsForFiles(t *testing.T) {
	c := startCA(t, newSigner(t))
	a, _ := machine(t, c)
	a.Envoy = script(t, "cd "+a.Files.dir()+" && test -s cert-chain.pem && test -s key.pem && test -s root-cert.pem && exit 7; exit 8")
	if err := a.run(t.Context()); err == nil || err.Error() != "Envoy ended: exit status 7" {
		t.Errorf("error %v", err)
	}
	// With good files, not even the CA is needed.
	c.set(func() { c.down = true })
	again, _ := machine(t, c, func(o *Options) { o.Files = a.Files })
	again.Envoy = script(t, "exit 0")
	if err := again.run(t.Context()); err == nil || err.Error() != "Envoy ended by itself" {
		t.Errorf("error %v", err)
	}
}

// TestNoFilesNoEnvoy: attempts that fail start none.
func TestNoFilesNoEnvoy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCA(t, newSigner(t))
		a, _ := machine(t, c)
		a.Envoy = script(t, "exit 9")
		c.set(func() { c.down = true })
		if err := a.run(t.Context()); err == nil || err.Error() != givenUp {
			t.Errorf("error %v", err)
		}
	})
}

func TestEnvoyIsAskedToEnd(t *testing.T) {
	c := startCA(t, newSigner(t))
	a, _ := machine(t, c)
	a.Envoy = script(t, "trap 'echo reopen' USR1; trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.01; done")
	out, w := io.Pipe()
	a.Envoy.Stdout = w
	said := bufio.NewScanner(out)
	expect := func(line string) {
		t.Helper()
		if !said.Scan() || said.Text() != line {
			t.Fatalf("Envoy says %q, want %q", said.Text(), line)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := start(ctx, a)
	expect("up")
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	expect("reopen")
	stop()
	expect("term")
	if err := <-ended; err != nil {
		t.Errorf("stopped, yet: %v", err)
	}
}

// TestEnvoyOutlivesTheCA: the agent does not end for want of a certificate
// while Envoy runs.
func TestEnvoyOutlivesTheCA(t *testing.T) {
	envoy := exec.Command("/bin/sleep", "60")
	if err := envoy.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: envoy, gone: make(chan struct{})}
	go func() { _ = envoy.Wait(); close(p.gone) }()
	synctest.Test(t, func(t *testing.T) {
		c := startCA(t, newSigner(t))
		a, log := machine(t, c)
		a.Envoy, a.envoy = Envoy{Binary: "/bin/sleep"}, p
		c.set(func() { c.down = true })
		ctx, stop := context.WithCancel(t.Context())
		ended := start(ctx, a)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := strings.Count(log.String(), givenUp+"; Envoy goes on"); n < 10 {
			t.Errorf("%d rounds in an hour:\n%s", n, log)
		}
		c.set(func() { c.down = false })
		time.Sleep(10 * time.Minute)
		fits(t, a)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
