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

// Process is etcd or the API server: it can be stopped, killed, paused and
// started again, with the same arguments, address and data.
type Process struct {
	name, path, log string
	args            []string
	inside          func(func() error) error
	ready           func(context.Context) error

	mu      sync.Mutex
	process *os.Process   // nil before the first start
	exited  chan struct{} // closed once it is gone
}

// Start runs it and waits until it is ready. It ends with this process,
// however this one ends: the kernel sees to it.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.args...)
	cmd.Dir = filepath.Dir(p.log)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.run(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
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
		err := p.inside(func() error {
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
	p.process, p.exited = cmd.Process, exited
	return nil
}

func (p *Process) wait() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended at once\n%s", p.name, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s: %w\n%s", p.name, startTime, err, p.tail())
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
	if p.process == nil {
		return
	}
	_ = p.process.Signal(signal) // an error says that it is gone
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		_ = p.process.Kill()
		<-p.exited
	}
}

// Pause lets it stand still, its connections open, until Resume.
func (p *Process) Pause() error { return p.signal(syscall.SIGSTOP) }

// Resume lets it run on after Pause.
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *Process) signal(signal syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process == nil {
		return errors.New(p.name + " does not run")
	}
	return p.process.Signal(signal)
}

// Log is the path of all that it printed.
func (p *Process) Log() string { return p.log }

func (p *Process) tail() string {
	content, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(bytes.TrimSpace(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-logTail):], "\n")
}
