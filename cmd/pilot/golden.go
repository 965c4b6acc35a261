package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
)

// goldenHeader is the first line of the files that render --out writes; only
// files that begin with it are ever overwritten or removed.
const goldenHeader = "# Written by pilot render --out. Do not edit.\n"

// goldenName is the file of a workload. A namespace has no dots, so the name
// can be read back.
func goldenName(id model.WorkloadID) string { return id.Namespace + "." + id.Name + ".yaml" }

func goldenWorkload(name string) (model.WorkloadID, bool) {
	namespace, workload, ok := strings.Cut(strings.TrimSuffix(name, ".yaml"), ".")
	return model.WorkloadID{Namespace: namespace, Name: workload}, ok && strings.HasSuffix(name, ".yaml")
}

// writeGoldens makes dir hold exactly the configuration of the workloads.
func writeGoldens(w io.Writer, dir string, c *configs, ids []model.WorkloadID) error {
	old, err := readGoldens(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	written := 0
	for _, id := range ids {
		text, ok := c.text(id)
		if !ok {
			return fmt.Errorf("workload %s has no configuration", id)
		}
		before, known := old[id]
		delete(old, id)
		if known && bytes.Equal(before, text) {
			continue
		}
		if err := writeGolden(filepath.Join(dir, goldenName(id)), text, known); err != nil {
			return err
		}
		written++
	}
	for id := range old {
		if err := os.Remove(filepath.Join(dir, goldenName(id))); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "%s: %s; %d written, %d unchanged, %d removed\n",
		dir, plural(len(ids), "workload"), written, len(ids)-written, len(old))
	return nil
}

// writeGolden replaces a file that render wrote before, and no other.
func writeGolden(path string, text []byte, known bool) error {
	if _, err := os.Lstat(path); err == nil && !known {
		return fmt.Errorf("%s was not written by pilot render; move it away", path)
	}
	partial := path + ".partial"
	if err := os.WriteFile(partial, append([]byte(goldenHeader), text...), 0o644); err != nil {
		return err
	}
	return os.Rename(partial, path)
}

// readGoldens are the files in dir that render wrote, without their header.
func readGoldens(dir string) (map[model.WorkloadID][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	goldens := map[model.WorkloadID][]byte{}
	for _, e := range entries {
		id, ok := goldenWorkload(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		// A checkout may have turned line ends; the content is the same.
		text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
		if body, ok := bytes.CutPrefix(text, []byte(goldenHeader)); ok {
			goldens[id] = body
		}
	}
	return goldens, nil
}
