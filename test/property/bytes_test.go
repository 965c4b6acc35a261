package property

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// versions are hashes of the bytes of a table, by name.
func versions(out map[string]string, prefix string, t *translate.Table) {
	for _, r := range t.Resources {
		out[prefix+r.Name] = r.Version
	}
}

// server and client are what the workloads' sidecars get of each half.
func halves(s *model.Snapshot) (server, client map[string]string) {
	server, client = map[string]string{}, map[string]string{}
	for id, c := range translate.Sidecars(s) {
		for _, t := range []*translate.Table{c.Server.Secrets, c.Server.Clusters, c.Server.Listeners, c.Server.Routes} {
			versions(server, id.String()+" ", t)
		}
		for _, t := range []*translate.Table{c.Client.Secrets, c.Client.Clusters, c.Client.Listeners, c.Client.Routes} {
			versions(client, id.String()+" ", t)
		}
		versions(client, "endpoints ", c.Endpoints)
	}
	return server, client
}

// TestOrder: the order in which a source lists objects changes no byte.
func TestOrder(t *testing.T) {
	eachMesh(t, func(t *testing.T, r *rand.Rand, in model.Inputs) {
		server, client := halves(model.Build(in))
		shuffle(r, in.Services)
		shuffle(r, in.Workloads)
		shuffle(r, in.Policies)
		shuffle(r, in.Rules)
		for i := range in.Services {
			shuffle(r, in.Services[i].Ports)
			for j := range in.Services[i].Ports {
				shuffle(r, in.Services[i].Ports[j].Endpoints)
			}
		}
		shuffledServer, shuffledClient := halves(model.Build(in))
		if !maps.Equal(server, shuffledServer) || !maps.Equal(client, shuffledClient) {
			t.Error("a shuffle changes the configuration")
		}
	})
}

func shuffle[T any](r *rand.Rand, list []T) {
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}

// TestUnrelatedNamespace: what comes into another namespace changes no byte of
// a workload's server half, nor of the clusters and endpoints of others.
func TestUnrelatedNamespace(t *testing.T) {
	eachMesh(t, func(t *testing.T, r *rand.Rand, in model.Inputs) {
		server, client := halves(model.Build(in))
		more := in
		more.Services, more.Workloads, more.Policies = slices.Clone(in.Services), slices.Clone(in.Workloads), slices.Clone(in.Policies)
		drawNamespace(r, &more, 7, "north")
		more.Policies = slices.DeleteFunc(more.Policies, func(p model.ServerPolicy) bool {
			return p.Key.Namespace == "north" && slices.ContainsFunc(p.Rules, func(rule model.PolicyRule) bool { return rule.Rank == model.RankMesh })
		})
		moreServer, moreClient := halves(model.Build(more))
		for name, version := range server {
			if moreServer[name] != version {
				t.Errorf("server half: %s changes", name)
			}
		}
		for name, version := range client {
			shared := strings.Contains(name, "outbound|") || strings.HasSuffix(name, "Cluster") || strings.HasPrefix(name, "endpoints ")
			if shared && moreClient[name] != version {
				t.Errorf("client half: %s changes", name)
			}
		}
	})
}
