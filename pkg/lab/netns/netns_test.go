package netns

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/inject/capture"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root; test/e2e covers it inside a user namespace")
	}
	if _, err := os.Stat(lookup("iptables-restore")); err != nil {
		t.Skip("needs iptables; `make test` installs it for test/e2e")
	}
}

// greeter answers each connection with its name, and the caller's address.
func greeter(t *testing.T, s *Space, name, address string) {
	t.Helper()
	ln, err := s.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			fmt.Fprintf(conn, "%s %s\n", name, host)
			conn.Close()
		}
	}()
}

func greet(t *testing.T, s *Space, address string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err := s.Dial(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func newNetwork(t *testing.T) *Network {
	t.Helper()
	needRoot(t)
	n, err := NewNetwork(netip.MustParseAddr("10.10.255.254"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func host(t *testing.T, n *Network, address string) *Space {
	t.Helper()
	h, err := n.Host(netip.MustParseAddr(address))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// reach is a call and what answers it.
type reach struct {
	from *Space
	to   string
	want string
}

func answers(t *testing.T, all ...reach) {
	t.Helper()
	for _, r := range all {
		if got := greet(t, r.from, r.to); got != r.want {
			t.Errorf("to %s: %q, want %q", r.to, got, r.want)
		}
	}
}

func TestRedirect(t *testing.T) {
	n := newNetwork(t)
	plain, captured := host(t, n, "10.10.0.1"), host(t, n, "10.244.7.2")
	if err := captured.Redirect(capture.Everything(15001, 15006)); err != nil {
		t.Fatal(err)
	}
	greeter(t, n.Space, "control plane", "10.10.255.254:15012")
	greeter(t, plain, "plain app", "0.0.0.0:80")
	greeter(t, captured, "app", "0.0.0.0:80")
	greeter(t, captured, "outbound", "0.0.0.0:15001")
	greeter(t, captured, "inbound", "0.0.0.0:15006")
	answers(t,
		reach{plain, "10.10.255.254:15012", "control plane 10.10.0.1"},
		reach{plain, "10.244.7.2:80", "inbound 10.10.0.1"},
		reach{plain, "10.244.7.2:81", "inbound 10.10.0.1"},
		reach{n.Space, "10.10.0.1:80", "plain app 10.10.255.254"},
		reach{captured, "10.10.0.1:80", "outbound 10.244.7.2"},
		reach{captured, "10.96.0.7:80", "outbound 10.244.7.2"}, // a VIP that exists nowhere
		reach{captured, "127.0.0.1:80", "app 127.0.0.1"},
		reach{captured, "10.244.7.2:80", "app 10.244.7.2"}, // to itself, over the loopback interface
	)
}

// TestExclusions: what a pod's annotations leave out goes around the sidecar.
func TestExclusions(t *testing.T) {
	n := newNetwork(t)
	plain, captured := host(t, n, "10.10.0.1"), host(t, n, "10.244.7.2")
	o := capture.Everything(15001, 15006)
	o.ExcludeInbound = []uint16{15021}
	o.ExcludeOutbound = []uint16{5432}
	o.ExcludeRanges = []netip.Prefix{netip.MustParsePrefix("10.10.255.0/24")}
	for range 2 { // twice is once
		if err := captured.Redirect(o); err != nil {
			t.Fatal(err)
		}
	}
	greeter(t, n.Space, "excluded range", "10.10.255.254:80")
	greeter(t, plain, "plain app", "0.0.0.0:80")
	greeter(t, plain, "excluded port", "0.0.0.0:5432")
	greeter(t, captured, "status", "0.0.0.0:15021")
	greeter(t, captured, "outbound", "0.0.0.0:15001")
	greeter(t, captured, "inbound", "0.0.0.0:15006")
	answers(t,
		reach{plain, "10.244.7.2:15021", "status 10.10.0.1"},
		reach{plain, "10.244.7.2:80", "inbound 10.10.0.1"},
		reach{captured, "10.10.0.1:5432", "excluded port 10.244.7.2"},
		reach{captured, "10.10.0.1:80", "outbound 10.244.7.2"},
		reach{captured, "10.10.255.254:80", "excluded range 10.244.7.2"},
	)
}

// Code outside of Do never runs in another namespace.
func TestDoLeavesOthersAlone(t *testing.T) {
	needRoot(t)
	where := func() string {
		link, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
		}
		return link
	}
	before := where()
	space, err := NewSpace()
	if err != nil {
		t.Fatal(err)
	}
	defer space.Close()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if err := space.Do(func() error {
				if where() == before {
					t.Error("Do ran outside")
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			if got := where(); got != before {
				t.Errorf("after Do in %s, before in %s", got, before)
			}
		})
	}
	all.Wait()
}
