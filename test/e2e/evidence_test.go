package e2e

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	statuspage "github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/lab"
	"github.com/meshpilot/pilot/pkg/model"
)

// TestTrafficEvidence: what a caller without a sidecar does is known to the
// control plane, by address and port, while it does it.
func TestTrafficEvidence(t *testing.T) {
	dir := config(t, "testdata/evidence")
	k := kubelet{startMeshWith(t, lab.Options{Dir: dir, Capture: true, Quiet: true}), "10.10.0.11"}
	k.eventually("figures are known", func() bool { return k.traffic().Complete })
	k.eventually("the strict port refuses", func() bool { return status(k.raw(8081, get("/"))) == "403" })
	t.Run("http", k.evidenceOfHTTP)
	t.Run("tcp", k.evidenceOfTCP)
	t.Run("application's TLS", k.evidenceOfAppTLS)
	t.Run("refusals", k.evidenceOfRefusals)
	t.Run("probes", k.evidenceOfProbes)
	t.Run("ports without a service", k.evidenceOfOtherPorts)
	t.Run("mesh", k.evidenceOfMesh)
	if n := k.Report(t.Context()).NACKs; n != 0 {
		t.Errorf("the Envoys refused %d updates", n)
	}
}

// traffic is what the page says of the server.
func (k kubelet) traffic() statuspage.Traffic {
	k.t.Helper()
	var out []statuspage.Traffic
	text := fetch(k.t, "http://"+controlAddress()+":8080/debug/traffic?workload=shop/server")
	if err := json.Unmarshal([]byte(text), &out); err != nil || len(out) != 1 {
		return statuspage.Traffic{} // nothing was told yet
	}
	return out[0]
}

// port is what is known of a port; unknown, if it was not heard of.
func (k kubelet) port(port uint16) statuspage.TrafficPort {
	t := k.traffic()
	for _, p := range t.Ports {
		if p.Port == port {
			return p
		}
	}
	return statuspage.TrafficPort{Port: port}
}

// peer is the kubelet as a peer of a port.
func peer(p statuspage.TrafficPort, kind string) statuspage.TrafficPeer {
	for _, peer := range p.Peers {
		if peer.Address == "10.10.0.12" && peer.Kind == kind {
			return peer
		}
	}
	return statuspage.TrafficPeer{}
}

// within waits for something that must be known soon after it happened.
func (k kubelet) within(t *testing.T, what string, limit time.Duration, done func() bool) {
	t.Helper()
	start := time.Now()
	for !done() {
		if time.Since(start) > limit {
			t.Fatalf("%s: not within %s; the page says %+v", what, limit, k.traffic())
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("%s: after %d ms", what, time.Since(start).Milliseconds())
}

// An idle kept connection writes no record; its gauge shows it.
func (k kubelet) evidenceOfHTTP(t *testing.T) {
	conn, err := k.dial(8080)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request, _ := http.NewRequest(http.MethodGet, "http://server/", nil)
	if err := request.Write(conn); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer, err)
	}
	k.within(t, "the peer", 5*time.Second, func() bool {
		p := peer(k.port(8080), "plain")
		return p.Count == 1 && p.Workload == "shop/kubelet" && p.Port == 8080
	})
	k.within(t, "the idle connection", 5*time.Second, func() bool { return k.port(8080).Plain.Open == 1 })
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	k.within(t, "its end", 5*time.Second, func() bool { return k.port(8080).Plain.Open == 0 })
	if p := k.port(8080); !p.Plain.Known || p.Plain.Total != 1 || p.LastPlaintext.IsZero() {
		t.Errorf("got %+v", p)
	}
}

func (k kubelet) evidenceOfTCP(t *testing.T) {
	conn, err := k.dial(9000)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	line := func() {
		t.Helper()
		if _, err := io.WriteString(conn, "hello\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	line()
	k.within(t, "the peer", 5*time.Second, func() bool { return peer(k.port(9000), "plain").Count == 1 })
	k.within(t, "the open connection", 5*time.Second, func() bool { return k.port(9000).Plain.Open == 1 })
	line()
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	k.within(t, "its end", 5*time.Second, func() bool { return k.port(9000).Plain.Open == 0 })
	if n := peer(k.port(9000), "plain").Count; n != 1 {
		t.Errorf("one connection counts %d times", n)
	}
}

// TLS of the application is passed on by an HTTP port as well.
func (k kubelet) evidenceOfAppTLS(t *testing.T) {
	raw, err := k.dial(8080)
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // the application signs its own
	defer conn.Close()
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	k.within(t, "the peer", 5*time.Second, func() bool { return peer(k.port(8080), "app-tls").Count == 1 })
	k.within(t, "the open connection", 5*time.Second, func() bool { return k.port(8080).Plain.Open == 1 })
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	k.within(t, "its end", 5*time.Second, func() bool { return k.port(8080).Plain.Open == 0 })
}

func (k kubelet) evidenceOfRefusals(t *testing.T) {
	before := k.port(8081)
	for range 3 {
		if got := status(k.raw(8081, get("/"))); got != "403" {
			t.Errorf("got %s", got)
		}
	}
	k.within(t, "refused requests", 5*time.Second, func() bool { return peer(k.port(8081), "refused").Count == peer(before, "refused").Count+3 })
	k.within(t, "their number", 5*time.Second, func() bool { return k.port(8081).Refused == before.Refused+3 })
	if got := k.raw(9001, "hello\n"); got != "" {
		t.Errorf("got %q", got)
	}
	k.within(t, "the refused connection", 5*time.Second, func() bool { return peer(k.port(9001), "refused").Count == 1 && k.port(9001).Refused == 1 })
}

// Probes get in whatever the mode, so they are nobody's plaintext.
func (k kubelet) evidenceOfProbes(t *testing.T) {
	before := k.traffic().Records
	for _, port := range []int{8080, 8081} {
		if got := reached(k.raw(port, get("/healthz"))); len(got) != 1 {
			t.Errorf("port %d: the application got %v", port, got)
		}
	}
	plain, refused := peer(k.port(8080), "plain").Count, peer(k.port(8081), "refused").Count
	k.within(t, "the records", 5*time.Second, func() bool { return k.traffic().Records == before+2 })
	if p, r := peer(k.port(8080), "plain").Count, peer(k.port(8081), "refused").Count; p != plain || r != refused {
		t.Errorf("a probe counts as plaintext: %d served, %d refused", p-plain, r-refused)
	}
}

func (k kubelet) evidenceOfOtherPorts(t *testing.T) {
	conn, err := k.dial(7777)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	k.within(t, "the peer", 5*time.Second, func() bool { return peer(k.port(0), "plain").Port == 7777 })
}

// Mutual TLS is told apart, on an HTTP port and on a TCP one.
func (k kubelet) evidenceOfMesh(t *testing.T) {
	before := k.port(8080)
	web := model.WorkloadID{Namespace: "shop", Name: "web"}
	for port, bytes := range map[int]string{80: "GET / HTTP/1.1\r\nHost: server.shop\r\n\r\n", 90: "hello\n"} {
		conn, err := k.Dial(t.Context(), web, net.JoinHostPort("10.96.1.1", fmt.Sprint(port)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, bytes); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	k.within(t, "both connections", 5*time.Second, func() bool {
		return k.port(8080).MutualTLS.Open == 1 && k.port(9000).MutualTLS.Open == 1
	})
	if now := k.port(8080); now.Plain.Open != 0 || !now.LastPlaintext.Equal(before.LastPlaintext) || len(now.Peers) != len(before.Peers) {
		t.Errorf("mutual TLS counts as plaintext: %+v", now)
	}
}
