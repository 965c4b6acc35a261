package kubetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startTime = time.Minute // several tests at once on few cores
	stopTime  = 20 * time.Second
	logTail   = 15 // lines in an error
)

// Process is a program of a cluster: it can be stopped, killed, paused and
// started again, the same way, with the same address and data.
type Process struct {
	spec ProcessSpec

	mu     sync.Mutex
	cmd    *exec.Cmd     // nil before the first start
	exited chan struct{} // closed once it is gone
}

// ProcessSpec says what a process is.
type ProcessSpec struct {
	Name    string
	Log     string           // file that gets all it prints; its directory is the process's
	Command func() *exec.Cmd // for each start
	// Inside runs a function in the process's network namespace; nil: in this
	// process's own.
	Inside func(func() error) error
	Ready  func(context.Context) error // nil: at once
}

// NewProcess is one that does not run yet.
func NewProcess(s ProcessSpec) *Process {
	if s.Inside == nil {
		s.Inside = func(f func() error) error { return f() }
	}
	return &Process{spec: s}
}

// Start runs it and waits until it is ready. It ends with this process,
// however this one ends: the kernel sees to it.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alive() {
		return errors.New(p.spec.Name + " runs already")
	}
	log, err := os.OpenFile(p.spec.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := p.spec.Command()
	cmd.Dir = filepath.Dir(p.spec.Log)
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	if err := p.run(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.spec.Name, err)
	}
	if p.spec.Ready == nil {
		return nil
	}
	return p.wait()
}

// run starts cmd and sees it end, on one thread: if the thread that started a
// process ends first, the kernel takes it for the death of the parent.
func (p *Process) run(cmd *exec.Cmd) error {
	started, exited := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.spec.Inside(func() error {
			if err := cmd.Start(); err != nil {
				return err
			}
			started <- nil
			_ = cmd.Wait() // what it says at the end is in its log
			close(exited)
			return nil
		})
		if err != nil {
			started <- err
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	p.cmd, p.exited = cmd, exited
	return nil
}

// Running says whether it was started and has not ended.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.alive()
}

func (p *Process) alive() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *Process) wait() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.spec.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended at once\n%s", p.spec.Name, p.Tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s: %w\n%s", p.spec.Name, startTime, err, p.Tail())
		case <-tick.C:
		}
	}
}

// Stop asks it to end, then makes it; one that does not run is left alone.
func (p *Process) Stop() { p.end(syscall.SIGTERM, stopTime) }

// Kill ends it at once, as a power cut would.
func (p *Process) Kill() { p.end(syscall.SIGKILL, 0) }

func (p *Process) end(signal syscall.Signal, patience time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(signal) // an error says that it is gone
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// PID is that of its last start.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Pause lets it stand still, its connections open, until Resume.
func (p *Process) Pause() error { return p.signal(syscall.SIGSTOP) }

// Resume lets it run on after Pause.
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *Process) signal(signal syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return errors.New(p.spec.Name + " does not run")
	}
	return p.cmd.Process.Signal(signal)
}

// Log is the path of all that it printed.
func (p *Process) Log() string { return p.spec.Log }

// Wait waits for its end, at most as long as ctx lives; the error says how it
// failed, with the end of its log.
func (p *Process) Wait(ctx context.Context) error {
	p.mu.Lock()
	cmd, exited := p.cmd, p.exited
	p.mu.Unlock()
	select {
	case <-exited:
	case <-ctx.Done():
		return fmt.Errorf("%s does not end: %w\n%s", p.spec.Name, ctx.Err(), p.Tail())
	}
	if !cmd.ProcessState.Success() {
		return fmt.Errorf("%s: %s\n%s", p.spec.Name, cmd.ProcessState, p.Tail())
	}
	return nil
}

// Tail is the end of its log.
func (p *Process) Tail() string {
	content, err := os.ReadFile(p.spec.Log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(bytes.TrimSpace(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-logTail):], "\n")
}
