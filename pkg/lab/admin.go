package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/meshpilot/pilot/pkg/lab/app"
	"net"
)

// admin is one Envoy's admin endpoint.
type admin struct {
	base   string
	client *http.Client
}

func newAdmin(address string, dial app.Dial) *admin {
	return &admin{
		base: "http://" + address,
		client: &http.Client{
			Timeout: 10 * time.Second,
			Transport: &http.Transport{
				DialContext:  func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) },
				MaxIdleConns: 1,
			},
		},
	}
}

// get returns the body; with a status other than 200 also an error.
func (a *admin) get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("Envoy admin %s: status %d", path, resp.StatusCode)
	}
	return string(body), err
}

// connections are what a sidecar opened to a cluster since it started.
type connections struct{ all, tls uint64 }

// outboundConnections counts, by cluster, the connections that the sidecar
// opened, and those among them with a finished TLS handshake.
func (a *admin) outboundConnections(ctx context.Context) (map[string]connections, error) {
	filter := url.QueryEscape(`^cluster\.outbound\|.*\.(upstream_cx_total|ssl\.handshake)$`)
	body, err := a.get(ctx, "/stats?format=json&filter="+filter)
	if err != nil {
		return nil, err
	}
	return parseConnections([]byte(body))
}

func parseConnections(body []byte) (map[string]connections, error) {
	var stats struct {
		Stats []struct {
			Name  string `json:"name"`
			Value uint64 `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(body, &stats); err != nil {
		return nil, fmt.Errorf("Envoy's stats: %w", err)
	}
	// A cluster with endpoints of both kinds has its handshakes one scope deeper.
	name := regexp.MustCompile(`^cluster\.(outbound\|\d+\|[^|]*\|.+?)\.(?:transport_socket_match\..+\.)?(upstream_cx_total|ssl\.handshake)$`)
	found := map[string]connections{}
	for _, s := range stats.Stats {
		m := name.FindStringSubmatch(s.Name)
		if m == nil {
			continue
		}
		c := found[m[1]]
		if m[2] == "ssl.handshake" {
			c.tls += s.Value
		} else {
			c.all += s.Value
		}
		found[m[1]] = c
	}
	return found, nil
}
