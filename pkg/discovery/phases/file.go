// Package phases keeps how far the targets of rollouts are, so that a restart
// neither skips a phase nor goes back.
package phases

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// Store keeps all states, or none: after a crash it has those of one Save.
type Store interface {
	// Load gives what was saved last, nil if nothing was ever. An error means
	// that something is there that is not whole, or not ours.
	Load() (map[model.Target]rollout.State, error)
	Save(states map[model.Target]rollout.State) error
}

// File is the Store of a machine: one file that is replaced as a whole.
type File struct {
	path string
	lock *os.File
	last []byte
}

// Open takes the file for this process, until Close; its directory is made if
// it is not there. Two control planes with one file would undo each other.
func Open(path string) (*File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("%s belongs to another control plane that is running: stop it, or choose another directory", path)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &File{path: path, lock: lock}, nil
}

// Close lets another process have the file.
func (f *File) Close() error { return f.lock.Close() }

// Load implements Store. The file is left alone if it cannot be read.
func (f *File) Load() (map[model.Target]rollout.State, error) {
	data, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	states, err := rollout.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s is not what pilot stored there: %w; restore it from a copy, or, if every client and server "+
			"of the mesh is known to be where its mode ends, move it away", f.path, err)
	}
	f.last = data
	return states, nil
}

// Save implements Store. It writes nothing if nothing changed.
func (f *File) Save(states map[model.Target]rollout.State) error {
	data, err := rollout.Encode(states)
	if err != nil || bytes.Equal(data, f.last) {
		return err
	}
	if err := replace(f.path, data); err != nil {
		return fmt.Errorf("store rollout phases: %w", err)
	}
	f.last = data
	return nil
}

// replace writes a new file, and gives it its name when all of it is on disk.
func replace(path string, data []byte) error {
	next, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	_, err = next.Write(data)
	err = errors.Join(err, next.Sync(), next.Close())
	if err == nil {
		err = os.Rename(next.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(next.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
