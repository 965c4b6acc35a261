package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

// Dial opens one TCP connection.
type Dial func(ctx context.Context, address string) (net.Conn, error)

// Target is a service port as one caller reaches it.
type Target struct {
	Host     string // what HTTP calls it, and CONNECT
	Port     uint16
	Protocol model.Protocol
	// Address is the IP:port to dial; not used with an explicit proxy.
	Address string
}

// authority is host:port.
func (t Target) authority() string { return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) }

// Client calls one target. It is not safe for concurrent use.
type Client struct {
	target Target
	name   string
	dial   Dial // opens a connection that leads to the target
	kept   *http.Transport
	fresh  *http.Transport
	lines  *lineConn // the kept connection of a TCP target
}

// Secured is dial with TLS of the application's own around the connection,
// whatever the port's protocol is.
func Secured(dial Dial, config *tls.Config) Dial {
	return func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := dial(ctx, address)
		if err != nil {
			return nil, err
		}
		secured := tls.Client(conn, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return secured, nil
	}
}

// NewClient calls target by dial; if proxy is set, through the sidecar's
// explicit HTTP proxy at that address.
func NewClient(name string, target Target, dial Dial, proxy string) *Client {
	c := &Client{target: target, name: name}
	c.dial = func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx, target.Address) }
	if proxy != "" {
		c.dial = func(ctx context.Context, _ string) (net.Conn, error) {
			return connect(ctx, dial, proxy, target.authority())
		}
	}
	if p := target.Protocol; p.IsHTTP() || p == model.HTTPS || p == model.TLS {
		c.kept, c.fresh = c.transport(dial, proxy), c.transport(dial, proxy)
		c.fresh.DisableKeepAlives = true
	}
	return c
}

// transport speaks the target's protocol: HTTP/1.1 and HTTP/2 to the proxy's
// own port, which routes by authority; TLS through a CONNECT tunnel.
func (c *Client) transport(dial Dial, proxy string) *http.Transport {
	t := &http.Transport{
		DisableCompression: true,
		MaxIdleConns:       1,
		// The application's certificate is its own, signed by nobody.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	through := c.dial
	if proxy != "" && c.target.Protocol.IsHTTP() {
		through = func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx, proxy) }
		if !c.target.Protocol.IsHTTP2() {
			t.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
		}
	}
	t.DialContext = func(ctx context.Context, _, address string) (net.Conn, error) { return through(ctx, address) }
	if c.target.Protocol.IsHTTP2() {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	return t
}

// Call makes one request, on a connection of its own or on a kept one, and
// returns what the application says. Line protocols know no peer.
func (c *Client) Call(ctx context.Context, keepAlive bool) (Echo, error) {
	if c.kept == nil {
		return c.callLine(ctx, keepAlive)
	}
	return c.callHTTP(ctx, keepAlive, 0)
}

func (c *Client) callHTTP(ctx context.Context, keepAlive bool, wait time.Duration) (Echo, error) {
	transport := c.fresh
	if keepAlive {
		transport = c.kept
	}
	req, err := c.request(ctx)
	if err != nil {
		return Echo{}, err
	}
	if wait > 0 {
		req.Header.Set(waitHeader, wait.String())
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return Echo{}, err
	}
	defer resp.Body.Close()
	return c.read(resp)
}

// Close closes the kept connections.
func (c *Client) Close() {
	if c.kept != nil {
		c.kept.CloseIdleConnections()
		c.fresh.CloseIdleConnections()
	}
	c.dropLines()
}

func (c *Client) request(ctx context.Context) (*http.Request, error) {
	scheme, path, body := "http", "/", []byte(c.name)
	switch c.target.Protocol {
	case model.HTTPS, model.TLS:
		scheme = "https"
	case model.GRPC:
		var err error
		if body, err = frame(body); err != nil {
			return nil, err
		}
		path = grpcMethod
	}
	// A POST whose body cannot be read twice is never sent twice.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+"://"+c.target.authority()+path, io.NopCloser(bytes.NewReader(body)))
	if err != nil {
		return nil, err
	}
	req.ContentLength = int64(len(body))
	if c.target.Protocol == model.GRPC {
		req.Header.Set("Content-Type", grpcContentType)
		req.Header.Set("Te", "trailers")
	}
	return req, nil
}

func (c *Client) read(resp *http.Response) (Echo, error) {
	var body []byte
	var err error
	if c.target.Protocol == model.GRPC {
		body, err = grpcAnswer(resp)
	} else if body, err = io.ReadAll(resp.Body); err == nil && resp.StatusCode != http.StatusOK {
		err = refusal(resp.StatusCode, body)
	}
	if err != nil {
		return Echo{}, err
	}
	var echo Echo
	if err := json.Unmarshal(body, &echo); err != nil {
		return Echo{}, fmt.Errorf("not the application's answer: %w", err)
	}
	if echo.Name == "" {
		return Echo{}, errors.New("the application's answer has no name")
	}
	return echo, nil
}

// refusal is an HTTP error with the reason that the body gives.
func refusal(status int, body []byte) error {
	text, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if text == "" {
		return fmt.Errorf("status %d", status)
	}
	return fmt.Errorf("status %d: %.300s", status, text)
}
