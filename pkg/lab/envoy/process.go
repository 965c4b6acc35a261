// Package envoy runs real Envoys for the lab, and reads their admin endpoints.
package envoy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/meshpilot/pilot/pkg/lab/netns"
)

const (
	startTime = 60 * time.Second // several start at once on few cores
	stopTime  = 5 * time.Second
	logTail   = 12 // lines of Envoy's log in an error
)

// Process is one running Envoy.
type Process struct {
	name    string
	log     string // path
	process *os.Process
	exited  chan struct{} // closed once the process is gone
	err     error         // why it ended; set before exited is closed

	stopping atomic.Bool // it is asked to end
}

// Spec says what to start.
type Spec struct {
	Name   string // whose sidecar it is, for errors
	Binary string
	Args   []string
	Dir    string       // gets access.log and envoy.log
	Space  *netns.Space // nil: where this process is
	UID    int          // 0: as this process
}

// Start runs an Envoy. It ends with this process, however this one ends: the
// kernel sees to it.
func Start(s Spec) (*Process, error) {
	access, err := logFile(filepath.Join(s.Dir, "access.log"), s.UID)
	if err != nil {
		return nil, err
	}
	defer access.Close()
	log, err := logFile(filepath.Join(s.Dir, "envoy.log"), s.UID)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	exe, err := os.Open(s.Binary)
	if err != nil {
		return nil, fmt.Errorf("open Envoy: %w", err)
	}
	defer exe.Close()
	cmd := exec.Command(s.Binary, s.Args...)
	// By its descriptor, because another user may not reach it by its path.
	cmd.Path = "/proc/self/fd/3"
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Stdout, cmd.Stderr = access, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if s.UID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(s.UID), Gid: uint32(s.UID)}
	}
	e := &Process{name: s.Name, log: log.Name(), exited: make(chan struct{})}
	if err := e.run(cmd, s.Space); err != nil {
		return nil, err
	}
	return e, nil
}

// run starts cmd and sees it end, on one thread: if the thread that started a
// process ends first, the kernel takes it for the death of the parent.
func (e *Process) run(cmd *exec.Cmd, space *netns.Space) error {
	started := make(chan error, 1)
	go func() {
		err := inSpace(space, func() error {
			if err := cmd.Start(); err != nil {
				return fmt.Errorf("start Envoy %s: %w", cmd.Args[0], err)
			}
			e.process = cmd.Process
			started <- nil
			e.err = cmd.Wait()
			close(e.exited)
			return nil
		})
		if err != nil {
			started <- err
		}
	}()
	return <-started
}

// logFile is a file that the user can open again by the name /dev/stdout.
func logFile(path string, uid int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil || uid == 0 {
		return f, err
	}
	if err := f.Chown(uid, -1); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func inSpace(space *netns.Space, f func() error) error {
	if space == nil {
		return netns.OnOwnThread(f)
	}
	return space.Do(f)
}

// WaitLive waits until Envoy has its configuration and its listeners are open.
func (e *Process) WaitLive(ctx context.Context, a *Admin) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	state := "does not answer yet"
	for {
		if s, err := a.Get(ctx, "/ready"); err == nil || s != "" {
			if state = strings.TrimSpace(s); state == "LIVE" {
				return nil
			}
		}
		select {
		case <-e.exited:
			return e.Failure(fmt.Errorf("ended at once: %w", e.err))
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return e.Failure(fmt.Errorf("not live after %s: %s", startTime, state))
			}
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Failure is an error with the end of Envoy's log.
func (e *Process) Failure(err error) error {
	return fmt.Errorf("Envoy of %s: %w\n%s\nIts whole log is in %s", e.name, err, tailOf(e.log), e.log)
}

// Stop asks the process to end, then makes it.
func (e *Process) Stop() {
	e.stopping.Store(true)
	_ = e.process.Signal(syscall.SIGTERM) // an error says that it is gone
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-e.exited:
		return
	case <-timer.C:
	}
	_ = e.process.Kill()
	<-e.exited
}

func tailOf(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return "    " + err.Error()
	}
	var lines, cause []string
	for scan := bufio.NewScanner(bytes.NewReader(content)); scan.Scan(); {
		line := "    " + scan.Text()
		lines = append(lines, line)
		if strings.Contains(line, "bug failure") || strings.Contains(line, "assert failure") {
			cause = []string{line} // a crash's traces are longer than the tail
		}
	}
	return strings.Join(append(cause, lines[max(0, len(lines)-logTail):]...), "\n")
}

// Died waits for the end of the process, and is nil if Stop asked for it.
func (e *Process) Died() error {
	<-e.exited
	if e.stopping.Load() {
		return nil
	}
	return e.Failure(fmt.Errorf("ended by itself: %w", e.err))
}
