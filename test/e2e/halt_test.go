package e2e

import (
	"bufio"
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/lab"
	"github.com/meshpilot/pilot/pkg/lab/app"
	"github.com/meshpilot/pilot/pkg/lab/netns"
	"github.com/meshpilot/pilot/pkg/model"
)

const (
	webHTTP  = "shop/web:8080"
	cartHTTP = "shop/cart:8080"
	cartTCP  = "shop/cart:9000"
	stock    = "shop/stock:8080"
)

// Calls that fail since a step stop their own target and no other: mutual TLS
// with a certificate of a foreign CA, and plaintext of a caller with a sidecar.
// HOLD waits until that is over, ROLLBACK takes the target back.
func TestHalt(t *testing.T) {
	dir := config(t, "testdata/drill")
	m := safeMesh{startMeshWith(t, lab.Options{Dir: dir, Capture: true, Quiet: true})}
	t.Run("failed handshakes, HOLD", func(t *testing.T) { m.haltsByHandshakes(t, dir) })
	t.Run("ROLLBACK", func(t *testing.T) { m.rollsBack(t, dir) })
	if n := m.Report(t.Context()).NACKs; n != 0 {
		t.Errorf("the Envoys refused %d updates", n)
	}
}

// wants makes the whole mesh want a mode, with a way to get there.
func wants(t *testing.T, dir, authPolicy, onDeadline string) {
	t.Helper()
	write(t, filepath.Join(dir, "mesh.yaml"), "authPolicy: "+authPolicy+"\nmtlsRollout: {quietPeriod: 2s, deadline: 1m, onDeadline: "+onDeadline+
		"}\ndefaultConfig: {drainDuration: 1s}\n")
}

func inShop(name string) model.WorkloadID { return model.WorkloadID{Namespace: "shop", Name: name} }

func (m safeMesh) haltsByHandshakes(t *testing.T, dir string) {
	m.t = t
	broken := m.calls(inShop("web"), cartService("http", 80), "")
	good := m.calls(inShop("stock-1"), cartService("http", 80), "")
	m.eventually("both call", func() bool { return broken.served.Load() > 2 && good.served.Load() > 2 })
	m.foreignCertificate(inShop("web"))
	wants(t, dir, "MUTUAL_TLS", "HOLD")
	m.eventually("handshakes that fail halt the target", func() bool {
		return m.stands(cartHTTP, "PERMISSIVE", "mTLS", "halted: ", "TLS handshakes failed since the last step")
	})
	m.eventually("others go on", func() bool { return m.arrived(webHTTP) && m.arrived(stock) })
	m.tellsThatItIsHeld(cartHTTP + " stays PERMISSIVE on the way to STRICT, set by mesh config authPolicy: rollout halted: ")
	failed := broken.failed.Load()
	m.eventually("it stays, as long as they fail", func() bool { return broken.failed.Load() >= failed+20 })
	if !m.stands(cartHTTP, "PERMISSIVE", "mTLS", "halted: ", "") {
		t.Errorf("%+v", m.rollout(cartHTTP))
	}

	m.ownCertificate(inShop("web"))
	m.settle("they fail no more")
	served := broken.mutual.Load()
	m.eventually("the caller is served with mutual TLS", func() bool { return broken.mutual.Load() > served+2 })
	if n := good.failed.Load(); n > 0 || good.mutual.Load() == 0 {
		t.Errorf("a caller with a good certificate: %d calls failed, %d with mutual TLS", n, good.mutual.Load())
	}
	broken.stop()
	good.stop()
	wants(t, dir, "NONE", "ROLLBACK")
	m.eventually("the way back has begun", func() bool { return !m.arrived(stock) })
	m.settle("off")
}

// rollsBack: a target whose handshakes fail, and one that refuses a caller
// with a sidecar, both go back to where everybody is served.
func (m safeMesh) rollsBack(t *testing.T, dir string) {
	m.t = t
	conn, err := m.Dial(t.Context(), inShop("web"), "10.96.3.2:90")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lines := bufio.NewReader(conn)
	speak := func(when string) {
		t.Helper()
		if _, err := conn.Write([]byte("hello\n")); err != nil {
			t.Fatal(when, err)
		}
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(when, err)
		}
	}
	speak("before")
	toStock := app.Target{Host: "stock.shop.svc.cluster.local", Port: 80, Protocol: model.HTTP, Address: "10.96.3.3:80"}
	broken := m.calls(inShop("web"), toStock, "")
	m.eventually("it is called", func() bool { return broken.served.Load() > 2 })
	m.foreignCertificate(inShop("web"))
	wants(t, dir, "MUTUAL_TLS", "ROLLBACK")
	m.eventually("handshakes that fail take it back", func() bool {
		return m.stands(stock, "PERMISSIVE", "plaintext", "rolled back: ", "TLS handshakes failed since the last step")
	})
	failed, served := broken.failed.Load(), broken.served.Load()
	m.eventually("its caller is served", func() bool { return broken.served.Load() > served+5 })
	if failed == 0 || broken.failed.Load() > failed+5 { // until the caller's Envoy has heard
		t.Errorf("%d calls failed before, and %d in all", failed, broken.failed.Load())
	}

	m.eventually("GRACE, as a connection is open", func() bool { return m.stands(cartTCP, "GRACE", "mTLS", "", "has open plaintext connections") })
	time.Sleep(time.Second) // a refusal right after a step may be of a call from before
	stray := m.calls(inShop("stock-1"), cartService("tcp", 9000), "10."+strings.TrimPrefix(network(), "127.")+".12:9000")
	m.eventually("a refused caller with a sidecar takes it back", func() bool {
		return m.stands(cartTCP, "PERMISSIVE", "plaintext", "rolled back: shop/stock-1 at ", ", which has a sidecar, was refused for plaintext")
	})
	m.eventually("that caller is served", func() bool { return stray.failed.Load() > 0 && stray.served.Load() > 5 })
	speak("after GRACE")
	m.eventually("others go on", func() bool { return m.arrived(webHTTP) && m.arrived(cartHTTP) })
	m.tellsThatItIsHeld(cartTCP + " stays PERMISSIVE on the way to STRICT, set by mesh config authPolicy: rollout rolled back: ")
}

// stands says where a target is, and that it waits for one thing that is told
// in words with this begin and end.
func (m safeMesh) stands(target, phase, clients, begin, end string) bool {
	m.t.Helper()
	r := m.rollout(target)
	return r.Phase == phase && r.Clients == clients && len(r.WaitsFor) == 1 &&
		strings.HasPrefix(r.WaitsFor[0].What, begin) && strings.HasSuffix(r.WaitsFor[0].What, end)
}

func (m safeMesh) arrived(target string) bool {
	m.t.Helper()
	r := m.rollout(target)
	return r.Phase == "STRICT" && len(r.WaitsFor) == 0
}

// tellsThatItIsHeld looks where people and alerts do.
func (m safeMesh) tellsThatItIsHeld(why string) {
	t := m.t
	t.Helper()
	if all := strings.Join(m.problems("ROLLOUT_HELD"), "\n"); !strings.Contains(all, why) {
		t.Errorf("the problem is %q, want %q", all, why)
	}
	metrics := fetch(t, "http://"+controlAddress()+":15014/metrics")
	for _, name := range []string{"pilot_rollout_targets_held ", `pilot_problems{code="ROLLOUT_HELD",severity="warning"} `} {
		if _, value, found := strings.Cut("\n"+metrics, "\n"+name); !found || strings.HasPrefix(value, "0") {
			t.Errorf("the metric %sis %.10q", name, value)
		}
	}
	target, _, _ := strings.Cut(why, " ")
	_, reason, _ := strings.Cut(why, ": ")
	out, err := exec.Command(pilot, "status", "--server", "http://"+controlAddress()+":8080").CombinedOutput()
	if err != nil || !strings.Contains(string(out), target) || !strings.Contains(string(out), strings.TrimSpace(reason)) {
		t.Errorf("pilot status does not name %s and %q: %v\n%s", target, reason, err, out)
	}
}

// foreignCertificate gives a sidecar one that its peers do not trust.
func (m safeMesh) foreignCertificate(id model.WorkloadID) {
	m.t.Helper()
	ca, err := identity.NewCA("elsewhere", time.Hour)
	if err != nil {
		m.t.Fatal(err)
	}
	m.publish(id, func(own identity.KeyPair) (identity.KeyPair, error) {
		foreign, err := ca.Issue(own.URI, 0)
		foreign.Roots = own.Roots
		return foreign, err
	})
}

func (m safeMesh) ownCertificate(id model.WorkloadID) {
	m.t.Helper()
	m.publish(id, func(own identity.KeyPair) (identity.KeyPair, error) { return own, nil })
}

func (m safeMesh) publish(id model.WorkloadID, choose func(own identity.KeyPair) (identity.KeyPair, error)) {
	m.t.Helper()
	own, err := m.Issue(id)
	if err != nil {
		m.t.Fatal(err)
	}
	pair, err := choose(own)
	if err != nil {
		m.t.Fatal(err)
	}
	node, _ := m.Proxy(id)
	dir := identity.Dir{Path: filepath.Dir(node.Local.Key), UID: netns.ProxyUID}
	if err := dir.Publish(pair); err != nil {
		m.t.Fatal(err)
	}
}

func cartService(protocol string, port uint16) app.Target {
	t := app.Target{Host: "cart.shop.svc.cluster.local", Port: port, Protocol: model.HTTP, Address: "10.96.3.2:80"}
	if protocol == "tcp" {
		t.Protocol = model.TCP
	}
	return t
}

// steady is a caller that does not stop.
type steady struct {
	served, mutual, failed atomic.Int64
	stop                   func() // and waits
}

// calls begins one, on new connections; an address is called instead of the
// target's.
func (m safeMesh) calls(from model.WorkloadID, to app.Target, address string) *steady {
	if address != "" {
		to.Address = address
	}
	ctx, cancel := context.WithCancel(m.t.Context())
	s, done := &steady{}, make(chan struct{})
	s.stop = func() { cancel(); <-done }
	m.t.Cleanup(s.stop)
	client := app.NewClient(from.Name, to, func(ctx context.Context, address string) (net.Conn, error) { return m.Dial(ctx, from, address) }, "")
	go func() {
		defer close(done)
		defer client.Close()
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			limited, cancel := context.WithTimeout(ctx, 2*time.Second)
			echo, err := client.Call(limited, false)
			cancel()
			switch {
			case ctx.Err() != nil:
				tick.Stop()
				return
			case err != nil:
				s.failed.Add(1)
			default:
				s.served.Add(1)
			}
			if echo.Peer != "" {
				s.mutual.Add(1)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	return s
}
