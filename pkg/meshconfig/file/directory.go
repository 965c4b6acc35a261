package file

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// directory is what was read of a directory, and what of it is in force.
type directory struct {
	path     string
	hold     time.Duration // 0: believe everything at once
	files    map[string]content
	doubtful map[string]doubt
	last     meshconfig.Bundle
	trouble  string // why the directory cannot be read; empty if it can
}

// content is one decoded file. A deleted file is no content at all.
type content struct {
	sum      [sha256.Size]byte
	bundle   meshconfig.Bundle
	problems []meshconfig.Problem
}

// doubt is a change that looks like a file in the midst of being written.
type doubt struct {
	sum   [sha256.Size]byte
	since time.Time
}

func newDirectory(path string) *directory {
	return &directory{path: path, files: map[string]content{}, doubtful: map[string]doubt{}}
}

// look reads the directory and says whether something changed, and after how
// long to look again because of a doubt; 0 is not at all.
func (d *directory) look(now time.Time) (changed bool, again time.Duration, err error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return false, 0, err
	}
	seen := map[string]bool{}
	for _, e := range entries {
		if !isConfig(e.Name()) {
			continue
		}
		name := filepath.Join(d.path, e.Name())
		data, err := read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		seen[name] = true
		next := content{sum: sha256.Sum256(data)}
		if err != nil {
			data = nil
			next.sum = sha256.Sum256([]byte(err.Error()))
		}
		old, known := d.files[name]
		if known && old.sum == next.sum {
			delete(d.doubtful, name)
			continue
		}
		next.bundle, next.problems = decode(name, data, err)
		if wait := d.doubt(name, next.sum, suspicious(old, next, data), now); wait > 0 {
			again = shorter(again, wait)
			continue
		}
		d.files[name] = next
		changed = true
	}
	for name := range d.files {
		if seen[name] {
			continue
		}
		if wait := d.doubt(name, [sha256.Size]byte{}, true, now); wait > 0 {
			again = shorter(again, wait)
			continue
		}
		delete(d.files, name)
		changed = true
	}
	return changed, again, nil
}

func shorter(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// read leaves out what is no file, also behind a link: a pipe would block.
func read(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fs.ErrNotExist
	}
	return os.ReadFile(name)
}

func decode(name string, data []byte, failure error) (meshconfig.Bundle, []meshconfig.Problem) {
	if failure != nil {
		return meshconfig.Decode(broken{failure}, name)
	}
	return meshconfig.Decode(bytes.NewReader(data), name)
}

// broken is a reader of a file that cannot be read.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// suspicious says whether a change may be one half of a write: it loses
// objects or cannot be parsed, it is empty, or it ends within a line.
func suspicious(old, next content, data []byte) bool {
	if len(next.bundle.Torn) > 0 || len(bytes.TrimSpace(data)) == 0 || data[len(data)-1] != '\n' {
		return true
	}
	refused := map[model.Key]bool{}
	for _, i := range next.bundle.Invalid {
		refused[i.On] = true
	}
	for key := range old.bundle.Positions {
		if _, there := next.bundle.Positions[key]; !there && !refused[key] {
			return true
		}
	}
	return false
}

// doubt is how long to wait before a change is believed; 0 is no longer.
func (d *directory) doubt(name string, sum [sha256.Size]byte, suspicious bool, now time.Time) time.Duration {
	if !suspicious || d.hold == 0 {
		delete(d.doubtful, name)
		return 0
	}
	was, known := d.doubtful[name]
	if !known || was.sum != sum {
		d.doubtful[name] = doubt{sum: sum, since: now}
		return d.hold
	}
	if wait := d.hold - now.Sub(was.since); wait > 0 {
		return wait
	}
	delete(d.doubtful, name)
	return 0
}

// unreadable notes whether the directory can be read, and says whether that
// changed.
func (d *directory) unreadable(err error) bool {
	text := ""
	if err != nil {
		text = err.Error()
	}
	changed := text != d.trouble
	d.trouble = text
	return changed
}

// accept makes what was read the bundle in force, as far as it is valid.
func (d *directory) accept() (meshconfig.Bundle, []meshconfig.Problem) {
	var parts []meshconfig.Bundle
	var problems []meshconfig.Problem
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		parts = append(parts, d.files[name].bundle)
		problems = append(problems, d.files[name].problems...)
	}
	merged, duplicates := meshconfig.Merge(parts, d.last)
	next, problems := merged.Accept(d.last, append(problems, duplicates...))
	if d.trouble != "" {
		problems = append(problems, meshconfig.Problem{
			Code: "INVALID", Severity: meshconfig.Error, On: model.Key{Kind: "Directory", Name: d.path},
			Message: fmt.Sprintf("cannot be read: %s; the last accepted configuration stays in force", d.trouble),
		})
	}
	d.last = next
	meshconfig.SortProblems(problems)
	return next, problems
}
