package envoy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/lab/app"
)

// Admin is one Envoy's admin endpoint.
type Admin struct {
	base   string
	client *http.Client
}

// NewAdmin reaches the endpoint at an IP:port by dial.
func NewAdmin(address string, dial app.Dial) *Admin {
	return &Admin{
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

// Get returns the body; with a status other than 200 also an error.
func (a *Admin) Get(ctx context.Context, path string) (string, error) {
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

// Connections are what a sidecar opened to a cluster since it started; TLS are
// those with a finished handshake.
type Connections struct{ All, TLS uint64 }

// OutboundConnections counts, by cluster, the connections that the sidecar
// opened, and those among them with a finished TLS handshake.
func (a *Admin) OutboundConnections(ctx context.Context) (map[string]Connections, error) {
	const filter = `^cluster\.outbound\|.*\.(upstream_cx_total|ssl\.handshake)$`
	stats, err := a.stats(ctx, filter)
	if err != nil {
		return nil, err
	}
	return countConnections(stats), nil
}

// Rejected are the updates that Envoy refused, of all types.
func (a *Admin) Rejected(ctx context.Context) (int, error) {
	stats, err := a.stats(ctx, `\.update_rejected$`)
	sum := 0
	for _, s := range stats {
		sum += int(s.Value)
	}
	return sum, err
}

// Leaves are the serial numbers, in hexadecimal, of the certificates that the
// sidecar shows, by each of its TLS contexts.
func (a *Admin) Leaves(ctx context.Context) ([]string, error) {
	body, err := a.Get(ctx, "/certs")
	if err != nil {
		return nil, err
	}
	var answer struct {
		Certificates []struct {
			Chain []struct {
				Serial string `json:"serial_number"`
			} `json:"cert_chain"`
		} `json:"certificates"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return nil, fmt.Errorf("Envoy's certificates: %w", err)
	}
	var serials []string
	for _, c := range answer.Certificates {
		if len(c.Chain) > 0 {
			serials = append(serials, strings.TrimLeft(c.Chain[0].Serial, "0"))
		}
	}
	return serials, nil
}

type stat struct {
	Name  string `json:"name"`
	Value uint64 `json:"value"`
}

// stats are the counters and gauges whose names match.
func (a *Admin) stats(ctx context.Context, filter string) ([]stat, error) {
	body, err := a.Get(ctx, "/stats?format=json&filter="+url.QueryEscape(filter))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Stats []stat `json:"stats"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return nil, fmt.Errorf("Envoy's stats: %w", err)
	}
	return answer.Stats, nil
}

func countConnections(stats []stat) map[string]Connections {
	// A cluster with endpoints of both kinds has its handshakes one scope deeper.
	name := regexp.MustCompile(`^cluster\.(outbound\|\d+\|[^|]*\|.+?)\.(?:transport_socket_match\..+\.)?(upstream_cx_total|ssl\.handshake)$`)
	found := map[string]Connections{}
	for _, s := range stats {
		m := name.FindStringSubmatch(s.Name)
		if m == nil {
			continue
		}
		c := found[m[1]]
		if m[2] == "ssl.handshake" {
			c.TLS += s.Value
		} else {
			c.All += s.Value
		}
		found[m[1]] = c
	}
	return found
}
