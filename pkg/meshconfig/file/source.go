// Package file is the source that reads a directory of YAML files and follows
// its changes. It publishes complete bundles only.
package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/meshpilot/pilot/pkg/meshconfig"
)

// Source follows one directory: its *.yaml and *.yml files, no subdirectories.
type Source struct {
	Dir string
	// Settle is how long after a change it must be quiet before the directory
	// is read; 0 is 50 ms.
	Settle time.Duration
	// Hold is how long a change must last that looks like a file in the midst
	// of being written: cut off, emptied, deleted, with fewer objects. 0 is
	// 500 ms.
	Hold time.Duration
	// Relist is how often the directory is read without a sign of change, to
	// catch what the watch missed; 0 is 10 s.
	Relist time.Duration
	// Log gets what is no problem of the configuration; nil is slog.Default.
	Log *slog.Logger
}

// Load reads the directory once. The error is for a directory that cannot be
// read; what is wrong inside is in the problems.
func Load(dir string) (meshconfig.Bundle, []meshconfig.Problem, error) {
	d := newDirectory(dir)
	if _, _, err := d.look(time.Time{}); err != nil {
		return meshconfig.Bundle{}, nil, err
	}
	b, problems := d.accept()
	return b, problems, nil
}

// Run publishes what the directory holds, and again whenever it changed,
// until ctx ends. An error in the first reading, or a directory that cannot be
// read, ends it with an error that lists everything; later errors keep the
// last accepted version in force and are published as problems.
func (s *Source) Run(ctx context.Context, publish func(meshconfig.Bundle, []meshconfig.Problem)) error {
	log := s.Log
	if log == nil {
		log = slog.Default()
	}
	relist := orDefault(s.Relist, 10*time.Second)
	var events chan fsnotify.Event
	var failures chan error
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer watcher.Close()
		events, failures = watcher.Events, watcher.Errors
		err = watcher.Add(s.Dir) // before the first reading: nothing is missed
	}

	d := newDirectory(s.Dir)
	if _, _, err := d.look(time.Now()); err != nil {
		return err
	}
	if err != nil {
		relist = min(relist, time.Second)
		log.Warn("cannot watch the directory, it is read again and again instead", "dir", s.Dir, "every", relist, "error", err)
	}
	bundle, problems := d.accept()
	if err := refusal(s.Dir, problems); err != nil {
		return err
	}
	publish(bundle, problems)
	d.hold = orDefault(s.Hold, 500*time.Millisecond)

	settle := time.NewTimer(time.Hour)
	settle.Stop()
	ticker := time.NewTicker(relist)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-events:
			if concerns(event.Name, s.Dir) {
				settle.Reset(orDefault(s.Settle, 50*time.Millisecond))
			}
			continue
		case err := <-failures:
			log.Warn("the directory's watch failed, reading it again", "dir", s.Dir, "error", err)
		case <-settle.C:
		case <-ticker.C:
			if watcher != nil {
				// The directory may be another one by now.
				if err := watcher.Add(s.Dir); err != nil {
					log.Debug("cannot watch the directory", "dir", s.Dir, "error", err)
				}
			}
		}
		changed, again, err := d.look(time.Now())
		if again > 0 {
			settle.Reset(again)
		}
		if changed || d.unreadable(err) {
			publish(d.accept())
		}
	}
}

// concerns says whether a change of this name may change what is read: a file
// that is, the link that a ConfigMap volume swaps, or the directory itself.
func concerns(name, dir string) bool {
	base := filepath.Base(name)
	return isConfig(base) || base == "..data" || filepath.Clean(name) == filepath.Clean(dir)
}

// isConfig leaves out hidden files and what editors keep beside a file.
func isConfig(name string) bool {
	ext := filepath.Ext(name)
	return (ext == ".yaml" || ext == ".yml") && !strings.ContainsAny(name[:1], ".#~")
}

// refusal lists every error; nil if there is none.
func refusal(dir string, problems []meshconfig.Problem) error {
	var lines []string
	for _, p := range problems {
		if p.Severity == meshconfig.Error {
			lines = append(lines, p.String())
		}
	}
	if len(lines) == 0 {
		return nil
	}
	lines = slices.Compact(lines)
	return errors.New(fmt.Sprintf("the configuration in %s has %s:\n", dir, count(len(lines))) + strings.Join(lines, "\n"))
}

func count(n int) string {
	if n == 1 {
		return "an error"
	}
	return fmt.Sprintf("%d errors", n)
}

func orDefault(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}
