package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/file"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/simulate"
)

// kubelet is a caller without a sidecar.
type kubelet struct {
	*mesh
	address string // of the pod that it asks
}

func (k kubelet) id() model.WorkloadID { return model.WorkloadID{Namespace: "shop", Name: "kubelet"} }

func (k kubelet) dial(port int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(k.t.Context(), 5*time.Second)
	defer cancel()
	return k.Dial(ctx, k.id(), net.JoinHostPort(k.address, fmt.Sprint(port)))
}

// raw sends bytes and returns all that comes back within a second; nothing if
// nobody listens.
func (k kubelet) raw(port int, request string) string {
	k.t.Helper()
	conn, err := k.dial(port)
	if err != nil {
		return ""
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		k.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return ""
	}
	answer, _ := io.ReadAll(conn) // until it closes, or the deadline
	return string(answer)
}

// reached are the requests that the application says it got.
func reached(answer string) []string {
	var out []string
	for _, m := range regexp.MustCompile(`"method":"([^"]*)".*?"path":"([^"]*)"`).FindAllStringSubmatch(answer, -1) {
		out = append(out, m[1]+" "+m[2])
	}
	return out
}

func status(answer string) string {
	if len(answer) < 12 || !strings.HasPrefix(answer, "HTTP/1.") {
		return "closed"
	}
	return answer[9:12]
}

// TestProbes: at ports that want mutual TLS, a caller without a certificate
// gets what is declared as a probe and nothing else, whatever it tries.
func TestProbes(t *testing.T) {
	dir := config(t, "testdata/probes")
	k := kubelet{startMesh(t, dir, true), "10.10.0.11"}
	k.eventually("mutual TLS is on", func() bool {
		return strings.Contains(k.raw(8080, get("/admin")), "set by mesh config authPolicy")
	})
	k.assertDumps("with probes")
	t.Run("paths", func(t *testing.T) { k.paths(t, dir) })
	t.Run("tricks", k.tricks)
	t.Run("http2", k.http2)
	t.Run("grpc", k.grpc)
	t.Run("other ports", k.otherPorts)
	t.Run("reset", func(t *testing.T) {
		write(t, filepath.Join(dir, "mesh.yaml"), "authPolicy: MUTUAL_TLS\nplaintextRefusal: RESET\n"+immediate)
		k.eventually("RESET is in force", func() bool { return !strings.Contains(k.raw(8080, get("/admin")), "plaintext refused") })
		if got := k.raw(8080, get("/admin")); status(got) != "403" || !strings.Contains(got, "content-length: 0") && !strings.HasSuffix(got, "\r\n\r\n") {
			t.Errorf("got %q", got)
		}
		if got := reached(k.raw(8080, get("/healthz"))); len(got) != 1 {
			t.Errorf("the probe no longer works: %v", got)
		}
	})
	if n := k.Report(t.Context()).NACKs; n != 0 {
		t.Errorf("the Envoys refused %d updates", n)
	}
}

func get(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
}

// paths compares Envoy with what simulate says about each path.
func (k kubelet) paths(t *testing.T, dir string) {
	b, problems, err := file.Load(dir)
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	in, _ := meshconfig.Compile(b, "cluster.local")
	simulated := simulate.Of(model.Build(in))
	for _, path := range []string{
		"/healthz", "/healthz?a", "/healthz?a=/../b", "//healthz", "///healthz", "/./healthz", "/x/../healthz", "/%2e/healthz", "/x/%2E%2e/healthz",
		"/%68ealthz", "/healthz/", "/healthz//", "/HEALTHZ", "/healthz;x", "/healthz/..", "/healthz/../admin", "/healthz/%2e%2e/admin", "/healthz//../admin",
		"/healthz%2f..%2fadmin", "/healthz%2Fadmin", "/healthz%5cadmin", "/healthz%00", "/healthz%3fadmin", "/healthz%3Fx", "/healthz%20", "/healthz.", "/healthz/.",
		"/x\\..\\healthz", "/healthz%", "/healthz%zz", "/%252e%252e/healthz", "/admin", "/", "//", "/admin?/healthz", "/admin/../../healthz",
	} {
		answer := k.raw(8080, get(path))
		want := simulated.Call(simulate.Call{From: k.id(), Host: k.address, Address: k.address, Port: 8080, Protocol: simulate.HTTP, Path: path})[0]
		if status(answer) != want.Result {
			t.Errorf("%s: Envoy says %s, simulate %s", path, status(answer), want.Result)
		}
		for _, r := range reached(answer) {
			if r != "GET /healthz" {
				t.Errorf("%s: the application got %s", path, r)
			}
		}
		if (status(answer) == "200") != (len(reached(answer)) == 1) {
			t.Errorf("%s: %s, and the application got %v", path, status(answer), reached(answer))
		}
	}
}

// tricks are malformed and ambiguous requests. Whatever the answer, the
// application gets the probe or nothing.
func (k kubelet) tricks(t *testing.T) {
	const head, admin = "GET /healthz HTTP/1.1\r\nHost: x\r\n", "GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(admin), admin)
	var all sync.WaitGroup // some are never answered
	for name, c := range map[string]struct{ request, first string }{
		"POST":                        {"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "403"},
		"HEAD":                        {"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "403"},
		"PUT":                         {"PUT /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", "403"},
		"DELETE":                      {"DELETE /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "403"},
		"TRACE":                       {"TRACE /healthz HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		"get":                         {"get /healthz HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		"OPTIONS *":                   {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		"CONNECT":                     {"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n" + admin, ""},
		"absolute URL":                {"GET http://evil.example/healthz HTTP/1.1\r\nHost: x\r\n\r\n", "200"},
		"absolute URL, other path":    {"GET http://evil.example/admin HTTP/1.1\r\nHost: x\r\n\r\n", "403"},
		"absolute URL, dots":          {"GET http://evil.example/healthz/../admin HTTP/1.1\r\nHost: x\r\n\r\n", "403"},
		"absolute URL, https":         {"GET https://evil.example/healthz HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		"URL without path":            {"GET http://evil.example HTTP/1.1\r\nHost: x\r\n\r\n", "403"},
		"method by header":            {head + "X-HTTP-Method-Override: DELETE\r\n\r\n", "200"},
		"websocket":                   {head + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + admin, "403"},
		"upgrade to HTTP/2":           {head + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" + admin, ""},
		"two lengths":                 {head + "Content-Length: 0\r\nContent-Length: " + fmt.Sprint(len(admin)) + "\r\n\r\n" + admin, "400"},
		"two equal lengths":           {head + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", ""},
		"a list of lengths":           {head + "Content-Length: 0, " + fmt.Sprint(len(admin)) + "\r\n\r\n" + admin, "400"},
		"length and chunks":           {head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked, "400"},
		"chunks and length":           {head + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + admin, "400"},
		"a body that is a request":    {head + "Content-Length: " + fmt.Sprint(len(admin)) + "\r\n\r\n" + admin, "403"},
		"chunks that are a request":   {head + "Transfer-Encoding: chunked\r\n\r\n" + chunked, "413"},
		"two encodings":               {head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunked, ""},
		"unknown encoding":            {head + "Transfer-Encoding: xchunked\r\n\r\n" + chunked, ""},
		"encoding with a blank":       {head + "Transfer-Encoding : chunked\r\n\r\n" + chunked, "400"},
		"encoding after a tab":        {head + "Transfer-Encoding:\tchunked\r\n\r\n" + chunked, ""},
		"negative length":             {head + "Content-Length: -1\r\n\r\n" + admin, "400"},
		"length with a sign":          {head + "Content-Length: +" + fmt.Sprint(len(admin)) + "\r\n\r\n" + admin, "400"},
		"folded header":               {head + "X: a\r\n Transfer-Encoding: chunked\r\n\r\n" + chunked, ""},
		"line feeds only":             {"GET /healthz HTTP/1.1\nHost: x\n\n" + strings.ReplaceAll(admin, "\r", ""), ""},
		"a lone carriage return":      {"GET /healthz HTTP/1.1\r\nHost: x\rX: y\r\n\r\n", ""},
		"NUL in the path":             {"GET /healthz\x00/../admin HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		"a blank in the path":         {"GET /healthz /admin HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		"a fragment":                  {"GET /healthz#/../admin HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		"HTTP/1.0":                    {"GET /admin HTTP/1.0\r\n\r\n", ""},
		"HTTP/0.9":                    {"GET /admin\r\n", ""},
		"pipelined":                   {head + "\r\n" + admin + head + "\r\n", "200"},
		"two hosts":                   {head + "Host: y\r\n\r\n", ""},
		"original path by header":     {head + "X-Envoy-Original-Path: /admin\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\n\r\n", "200"},
		"TLS without the certificate": {"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", ""},
	} {
		all.Go(func() {
			answer := k.raw(8080, c.request)
			for _, r := range reached(answer) {
				if r != "GET /healthz" {
					t.Errorf("%s: the application got %s", name, r)
				}
			}
			if c.first != "" && status(answer) != c.first {
				t.Errorf("%s: answer %q, want %s", name, answer, c.first)
			}
		})
	}
	all.Wait()
}

// client speaks HTTP/2 without TLS.
func (k kubelet) client(port int) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols:   protocols,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return k.dial(port) },
	}
	k.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 5 * time.Second}
}

// unsized hides the length of a body, so that no content-length is sent.
type unsized struct{ io.Reader }

func (k kubelet) http2(t *testing.T) {
	for _, c := range []struct {
		name, method, path, host string
		body                     io.Reader
		want                     int
	}{
		{"the probe", "GET", "/healthz", "", nil, 200},
		{"an odd authority", "GET", "/healthz", "evil.example:1", nil, 200},
		{"an authority with a path", "GET", "/admin", "x/healthz", nil, 0},
		{"another path", "GET", "/admin", "", nil, 403},
		{"dots", "GET", "/healthz/../admin", "", nil, 403},
		{"an escaped slash", "GET", "/healthz%2fadmin", "", nil, 400},
		{"another method", "POST", "/healthz", "", nil, 403},
		{"a length", "GET", "/healthz", "", strings.NewReader("GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"), 403},
		{"a body without length", "GET", "/healthz", "", unsized{strings.NewReader("GET /admin HTTP/1.1\r\nHost: x\r\n\r\n")}, 0},
		{"a body of what is refused", "POST", "/admin", "", strings.NewReader("something"), 403},
	} {
		request, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+k.address+":8080"+c.path, c.body)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = c.host
		response, err := k.client(8080).Do(request)
		if err != nil {
			if c.want != 0 {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		for _, r := range reached(string(body)) {
			if r != "GET /healthz" {
				t.Errorf("%s: the application got %s", c.name, r)
			}
		}
		if c.want != 0 && response.StatusCode != c.want {
			t.Errorf("%s: %d %s, want %d", c.name, response.StatusCode, body, c.want)
		}
	}
}

// grpc asks the health check of a gRPC port and of an HTTP port.
func (k kubelet) grpc(t *testing.T) {
	const health = "/grpc.health.v1.Health/"
	for _, port := range []int{8080, 8082} {
		for method, admitted := range map[string]bool{health + "Check": true, health + "Watch": false, "/pilot.lab.Echo/Call": false} {
			message := append([]byte{0, 0, 0, 0, 3, 0x0a, 1}, 's') // service: "s"
			request, err := http.NewRequestWithContext(t.Context(), "POST", fmt.Sprintf("http://%s:%d%s", k.address, port, method), bytes.NewReader(message))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", "application/grpc")
			request.Header.Set("TE", "trailers")
			response, err := k.client(port).Do(request)
			if err != nil {
				t.Fatalf("%d %s: %v", port, method, err)
			}
			body, _ := io.ReadAll(response.Body)
			response.Body.Close()
			code := response.Header.Get("Grpc-Status") + response.Trailer.Get("Grpc-Status")
			got := strings.Join(reached(string(body)), ", ")
			if admitted && (code != "0" || got != "POST "+method) || !admitted && (code != "7" || got != "") {
				t.Errorf("%d %s: grpc-status %q, the application got %q", port, method, code, got)
			}
		}
	}
}

// otherPorts: open for a probe, named by a policy, and neither.
func (k kubelet) otherPorts(t *testing.T) {
	for _, c := range []struct {
		port       int
		path, want string // status and body
	}{
		{5000, "/any", "200 GET /any"},
		{5000, "/other", "200 GET /other"},
		{5001, "/any", "closed "},
		{9000, "/any", "closed "},
		{6060, "/ready", "200 GET /ready"},
		{6060, "/admin", "403 "},
	} {
		answer := k.raw(c.port, get(c.path))
		if got := status(answer) + " " + strings.Join(reached(answer), ", "); got != c.want {
			t.Errorf("%d%s: %s, want %s", c.port, c.path, got, c.want)
		}
	}
	response, err := http.ReadResponse(bufio.NewReader(strings.NewReader(k.raw(6060, get("/admin")))), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	if want := "plaintext refused: port 6060 accepts only mutual TLS (STRICT, set by PeerAuthentication shop/admin)"; string(body) != want {
		t.Errorf("got %q", body)
	}
}
