package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/meshpilot/pilot/pkg/lab/netns"
)

const runDirPrefix = "pilot-lab-"

// runDir holds what one run writes: keys, bootstraps, logs. A lock in it lives
// as long as this process, so the next run knows which ones are left over.
type runDir struct {
	path string
	lock *os.File
	keep bool
}

// newRunDir makes one, and removes those of runs that are over.
func newRunDir() (*runDir, error) {
	if err := removeLeftovers(); err != nil {
		return nil, err
	}
	path, err := os.MkdirTemp("", runDirPrefix)
	if err != nil {
		return nil, fmt.Errorf("make the directory of this run: %w", err)
	}
	// Envoy may run as another user; keys have modes of their own.
	if err := os.Chmod(path, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", lock.Name(), err), lock.Close())
	}
	return &runDir{path: path, lock: lock}, nil
}

// ca is where the CA of the run is, readable by this user alone.
func (r *runDir) ca() string { return filepath.Join(r.path, "ca") }

// openToOthers fails if the path leads through a directory that another user
// may not enter, as Envoy does with capture.
func (r *runDir) openToOthers() error {
	for dir := r.path; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("%s is closed to other users, but with capture Envoy runs as user %d: set TMPDIR to an open directory, such as /tmp", dir, netns.ProxyUID)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// removeLeftovers removes the directories whose run was killed. Their
// processes and namespaces are gone: the kernel ends them with the lab.
func removeLeftovers() error {
	old, err := filepath.Glob(filepath.Join(os.TempDir(), runDirPrefix+"*", "lock"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := removeIfOver(path); err != nil {
			return fmt.Errorf("remove what an earlier run left: %w", err)
		}
	}
	return nil
}

func removeIfOver(path string) error {
	lock, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil // of another user, or gone by now
	}
	defer lock.Close()
	if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil // that run is alive
	}
	return os.RemoveAll(filepath.Dir(path))
}

// close removes the directory, or keeps it without the keys.
func (r *runDir) close() error {
	errs := []error{r.lock.Close()}
	if !r.keep {
		return errors.Join(append(errs, os.RemoveAll(r.path))...)
	}
	certs, err := filepath.Glob(filepath.Join(r.path, "*", "certs"))
	errs = append(errs, err)
	for _, dir := range append(certs, r.ca()) {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}
