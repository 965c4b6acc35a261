package drill

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/file"
	"github.com/meshpilot/pilot/pkg/model"
)

const (
	meshFile = "mesh.yaml"
	domain   = "cluster.local"
)

// workspace is a copy of the user's directory: the drill edits that.
type workspace struct {
	dir    string
	mesh   map[string]any // mesh.yaml
	values map[string]string
}

// newWorkspace copies the configuration of from into dir. Patience is the
// drill's, everything else the user's.
func newWorkspace(from, dir string) (*workspace, error) {
	w := &workspace{dir: dir, mesh: map[string]any{}, values: map[string]string{}}
	paths, err := filepath.Glob(filepath.Join(from, "*"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if filepath.Base(path) == meshFile {
			if err := yaml.Unmarshal(content, &w.mesh); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), content, 0o644); err != nil {
			return nil, err
		}
	}
	if w.mesh == nil { // nothing but comments
		w.mesh = map[string]any{}
	}
	rollout, _ := w.mesh["mtlsRollout"].(map[string]any)
	w.mesh["mtlsRollout"] = merged(rollout, map[string]any{"quietPeriod": "1s", "deadline": "1m", "onDeadline": "HOLD"})
	// Connections that are cut must be cut within the drill.
	proxies, _ := w.mesh["defaultConfig"].(map[string]any)
	w.mesh["defaultConfig"] = merged(map[string]any{"drainDuration": "5s"}, proxies)
	return w, w.writeMesh()
}

func merged(a, b map[string]any) map[string]any {
	out := map[string]any{}
	for _, m := range []map[string]any{a, b} {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

// immediate says whether modes come into force all at once.
func (w *workspace) immediate() bool {
	rollout, _ := w.mesh["mtlsRollout"].(map[string]any)
	return rollout["mode"] == "IMMEDIATE"
}

func (w *workspace) writeMesh() error {
	content, err := yaml.Marshal(w.mesh)
	if err != nil {
		return err
	}
	return replace(filepath.Join(w.dir, meshFile), content)
}

// apply makes an edit.
func (w *workspace) apply(c change) error {
	w.values[c.slot.name] = c.value
	if c.slot.name == meshSlot {
		w.mesh["authPolicy"] = c.value
		return w.writeMesh()
	}
	path := filepath.Join(w.dir, "drill-"+strings.NewReplacer("/", "-", " ", "-").Replace(c.slot.name)+".yaml")
	if c.text == "" {
		err := os.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return replace(path, []byte(c.text))
}

// replace writes a file in one step.
func replace(path string, content []byte) error {
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(temp, content, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

func (w *workspace) bundle() (meshconfig.Bundle, error) {
	b, _, err := file.Load(w.dir) // what is wrong in it, the lab shows
	return b, err
}

// wanted are the modes that the configuration asks for now.
func (w *workspace) wanted(sidecars []model.WorkloadID) (map[model.Target]model.Mode, error) {
	b, err := w.bundle()
	if err != nil {
		return nil, err
	}
	in, _ := meshconfig.Inputs(b, domain)
	in.Connected, in.Phases = sidecars, map[model.Target]model.Phase{}
	out := map[model.Target]model.Mode{}
	for _, t := range model.Build(in).Targets() {
		out[t.Target] = t.Decision.Mode
	}
	return out, nil
}
