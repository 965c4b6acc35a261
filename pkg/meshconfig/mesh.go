package meshconfig

import "github.com/meshpilot/pilot/pkg/model"

// MeshConfig is the mesh-wide settings, defaults filled in (spec
// mesh-config.md 3).
type MeshConfig struct {
	// Mesh is what the document says, in the terms of the model.
	model.Mesh
	// Key is where it lives: MeshConfig mesh.yaml, or ConfigMap istio.
	Key model.Key
}
