package main

import (
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// configs gives the configuration of a mesh's proxies; each half is built
// once for all that share it.
type configs struct {
	snapshot  *model.Snapshot
	shared    *translate.Shared
	endpoints *translate.Table
	clients   map[model.ClientClass]*translate.Half
	servers   map[model.ServerClass]*translate.Half
}

func newConfigs(s *model.Snapshot) *configs {
	return &configs{
		snapshot:  s,
		shared:    translate.Share(s, nil),
		endpoints: translate.Endpoints(s.Endpoints(), nil),
		clients:   map[model.ClientClass]*translate.Half{},
		servers:   map[model.ServerClass]*translate.Half{},
	}
}

// of is the configuration of the workload's own sidecar; false if the mesh
// has no such workload, or it has no sidecar.
func (c *configs) of(id model.WorkloadID) (translate.Config, bool) {
	proxy, ok := c.snapshot.ProxyOf(id)
	if !ok || !c.snapshot.HasSidecar(id) {
		return translate.Config{}, false
	}
	client, server, ok := c.snapshot.ClassOf(proxy)
	if !ok {
		return translate.Config{}, false
	}
	if c.clients[client] == nil {
		c.clients[client] = translate.Outbound(c.snapshot.ClientView(client), c.shared, nil)
	}
	if c.servers[server] == nil {
		c.servers[server] = translate.Inbound(c.snapshot.ServerView(server), nil)
	}
	return translate.Config{Client: c.clients[client], Server: c.servers[server], Endpoints: c.endpoints}, true
}
