package traffic

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/feed"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

const (
	// A client may still send plaintext for a while after it was told to send
	// mTLS; what it begins later bypasses the service.
	podCallSettles = 10 * time.Second
	podCallForgets = 10 * time.Minute // after the last one
)

// podCall is a mesh client that sends a workload plaintext, though it is told
// to send mTLS to the service that leads there.
type podCall struct {
	client, server model.WorkloadID
	port           uint16
}

// PodCalls finds mesh clients that call pods by their own addresses. The zero
// value has seen none.
type PodCalls struct {
	since map[podCall]time.Time // that mTLS could be
}

// Find lists the calls as problems, and says when to look again though nothing
// new is told; zero is never.
func (c *PodCalls) Find(f *feed.Feed, s *model.Snapshot, now time.Time) (found []meshconfig.Problem, again time.Time) {
	by := Owners(s)
	mutual := mutualTLS{s: s, views: map[model.ClientClass]*model.ClientView{}}
	calls := map[podCall]time.Time{}
	f.Each(func(server model.WorkloadID, p feed.Proxy) {
		for port, t := range p.Ports {
			for _, peer := range t.Peers {
				call := podCall{by[peer.Address], server, port}
				if peer.Kind == feed.AppTLS || now.Sub(peer.Began) > podCallForgets || call.client == (model.WorkloadID{}) {
					continue
				}
				host := mutual.host(call)
				if host == "" {
					continue
				}
				since, before := c.since[call]
				if !before {
					since = now
				}
				calls[call] = since
				if peer.Began.Sub(since) > podCallSettles {
					found = append(found, podCallProblem(call, peer, host))
				}
			}
		}
	})
	c.since = calls
	slices.SortFunc(found, func(a, b meshconfig.Problem) int {
		return strings.Compare(a.On.String()+a.Message, b.On.String()+b.Message)
	})
	if len(calls) > 0 {
		again = now.Add(podCallSettles)
	}
	return found, again
}

func podCallProblem(c podCall, peer feed.Peer, host string) meshconfig.Problem {
	what := "is served there as long as the port takes plaintext"
	if peer.Kind == feed.Refused {
		what = "is refused there"
	}
	return meshconfig.Problem{
		Code: "POD_IP_CALL", Severity: meshconfig.Info, On: model.Key{Kind: "Proxy", Namespace: c.client.Namespace, Name: c.client.Name},
		Message: fmt.Sprintf("it calls port %d of %s by the pod's address, so in plaintext, which %s; by the name %s it would use mutual TLS",
			c.port, c.server, what, host),
	}
}

// mutualTLS knows which services clients send mTLS to.
type mutualTLS struct {
	s     *model.Snapshot
	views map[model.ClientClass]*model.ClientView
}

// host is the service that leads to the call's port, host:port, if the client
// sends it mTLS; else empty.
func (m mutualTLS) host(c podCall) string {
	if !m.s.HasSidecar(c.client) || !m.s.AcceptsMesh(c.server, c.port) {
		return ""
	}
	client, ok := m.s.ProxyOf(c.client)
	if !ok {
		return ""
	}
	class, _, ok := m.s.ClassOf(client)
	if !ok {
		return ""
	}
	server, _ := m.s.ProxyOf(c.server)
	_, serverClass, ok := m.s.ClassOf(server)
	if !ok {
		return ""
	}
	if m.views[class] == nil {
		m.views[class] = m.s.ClientView(class)
	}
	for _, p := range m.s.ServerView(serverClass).Ports {
		if p.Port == c.port {
			return mutualAt(m.views[class], p.Host, p.ServicePort)
		}
	}
	return ""
}

func mutualAt(v *model.ClientView, host string, number uint16) string {
	for _, svc := range v.Services {
		if svc.Host != host {
			continue
		}
		for _, port := range svc.Ports {
			if port.Number == number && (port.TLS == model.ClientMesh || port.TLS == model.ClientMixed) {
				return fmt.Sprintf("%s:%d", host, number)
			}
		}
	}
	return ""
}
