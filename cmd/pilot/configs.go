package main

import (
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
	"github.com/meshpilot/pilot/pkg/translate/diff"
)

// configs are the configurations of a mesh's sidecars. Workloads that are
// alike share their halves, and the text of them.
type configs struct {
	byWorkload map[model.WorkloadID]translate.Config
	texts      map[[2]*translate.Half][]byte
}

// newConfigs translates the mesh; if some workloads are given, only theirs.
func newConfigs(s *model.Snapshot, only ...model.WorkloadID) *configs {
	return &configs{translate.Sidecars(s, only...), map[[2]*translate.Half][]byte{}}
}

// of is the configuration of the workload's own sidecar; false if the mesh
// has no such workload, or it has no sidecar.
func (c *configs) of(id model.WorkloadID) (translate.Config, bool) {
	config, ok := c.byWorkload[id]
	return config, ok
}

// text is the configuration as canonical YAML.
func (c *configs) text(id model.WorkloadID) ([]byte, bool) {
	config, ok := c.of(id)
	if !ok {
		return nil, false
	}
	halves := [2]*translate.Half{config.Client, config.Server}
	text, known := c.texts[halves]
	if !known {
		text = diff.Render(config)
		c.texts[halves] = text
	}
	return text, true
}
