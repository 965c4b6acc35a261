package lab

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
	envoyStart = 60 * time.Second // several start at once on few cores
	envoyStop  = 5 * time.Second
	logTail    = 12 // lines of Envoy's log in an error
)

// envoy is one running Envoy process.
type envoy struct {
	name    string
	log     string // path
	process *os.Process
	exited  chan struct{} // closed once the process is gone
	err     error         // why it ended; set before exited is closed

	stopping atomic.Bool // it is asked to end
}

// startEnvoy runs binary with args, in space if that is not nil, as the user
// uid if that is not 0; access.log and envoy.log in dir get what it says. The
// process ends with this one, however this one ends: the kernel sees to it.
func startEnvoy(name, binary string, args []string, dir string, space *netns.Space, uid int) (*envoy, error) {
	access, err := logFile(filepath.Join(dir, "access.log"), uid)
	if err != nil {
		return nil, err
	}
	defer access.Close()
	log, err := logFile(filepath.Join(dir, "envoy.log"), uid)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	exe, err := os.Open(binary)
	if err != nil {
		return nil, fmt.Errorf("open Envoy: %w", err)
	}
	defer exe.Close()
	cmd := exec.Command(binary, args...)
	// By its descriptor, because another user may not reach it by its path.
	cmd.Path = "/proc/self/fd/3"
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Stdout, cmd.Stderr = access, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	e := &envoy{name: name, log: log.Name(), exited: make(chan struct{})}
	started := make(chan error, 1)
	// The thread that starts the process must outlive it, or the kernel takes
	// it for the death of the parent.
	go func() {
		err := inSpace(space, func() error {
			if err := cmd.Start(); err != nil {
				started <- fmt.Errorf("start Envoy %s: %w", binary, err)
				return nil
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
	if err := <-started; err != nil {
		return nil, err
	}
	return e, nil
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

// waitLive waits until Envoy has its configuration and its listeners are open.
func (e *envoy) waitLive(ctx context.Context, a *admin) error {
	ctx, cancel := context.WithTimeout(ctx, envoyStart)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	state := "does not answer yet"
	for {
		if s, err := a.get(ctx, "/ready"); err == nil || s != "" {
			if state = strings.TrimSpace(s); state == "LIVE" {
				return nil
			}
		}
		select {
		case <-e.exited:
			return e.failure(fmt.Errorf("ended at once: %w", e.err))
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return e.failure(fmt.Errorf("not live after %s: %s", envoyStart, state))
			}
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// failure is an error with the end of Envoy's log.
func (e *envoy) failure(err error) error {
	return fmt.Errorf("Envoy of %s: %w\n%s\nIts whole log is in %s", e.name, err, tailOf(e.log), e.log)
}

// stop asks the process to end, then makes it.
func (e *envoy) stop() {
	e.stopping.Store(true)
	_ = e.process.Signal(syscall.SIGTERM) // an error says that it is gone
	timer := time.NewTimer(envoyStop)
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
	var lines []string
	for scan := bufio.NewScanner(bytes.NewReader(content)); scan.Scan(); {
		lines = append(lines, "    "+scan.Text())
	}
	return strings.Join(lines[max(0, len(lines)-logTail):], "\n")
}
