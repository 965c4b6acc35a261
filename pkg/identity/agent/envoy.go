package agent

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// stopTime is how long Envoy may take to end.
const stopTime = 5 * time.Second

// Envoy is the proxy that an agent runs once its files are there and fit: one
// that starts without them does not find its control plane by itself.
type Envoy struct {
	Binary         string // empty is no Envoy
	Args           []string
	Stdout, Stderr io.Writer
}

func (e Envoy) checked() (Envoy, error) {
	if e.Binary == "" {
		return e, nil
	}
	path, err := exec.LookPath(e.Binary)
	if err != nil {
		return e, fmt.Errorf("the Envoy binary: %w", err)
	}
	e.Binary = path
	return e, nil
}

// envoyEnd is why an agent ends whose Envoy is gone.
type envoyEnd struct{ err error }

func (e *envoyEnd) Error() string {
	if e.err == nil {
		return "Envoy ended by itself"
	}
	return "Envoy ended: " + e.err.Error()
}

func (e *envoyEnd) Unwrap() error { return e.err }

type process struct {
	cmd  *exec.Cmd
	gone chan struct{}
}

// startEnvoy runs it, if there is one to run, it does not run yet, and the
// files are good.
func (a *agent) startEnvoy(end context.CancelCauseFunc) error {
	if a.Envoy.Binary == "" || a.envoy != nil {
		return nil
	}
	if _, err := a.present(); err != nil {
		return nil // the next attempt may bring them
	}
	cmd := exec.Command(a.Envoy.Binary, a.Envoy.Args...)
	cmd.Stdout, cmd.Stderr = a.Envoy.Stdout, a.Envoy.Stderr
	// Its own group, because Ctrl-C is the agent's to pass on; and it ends with
	// the agent even if that one is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	p := &process{cmd: cmd, gone: make(chan struct{})}
	started := make(chan error)
	go p.run(started, end)
	if err := <-started; err != nil {
		return fmt.Errorf("start Envoy: %w", err)
	}
	a.envoy = p
	a.Log.Info("Envoy started", "pid", cmd.Process.Pid)
	return nil
}

// run keeps its thread: the kernel takes the end of the thread that started a
// process for the death of its parent.
func (p *process) run(started chan<- error, end context.CancelCauseFunc) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	reopen := make(chan os.Signal, 1) // Envoy opens its log files again
	signal.Notify(reopen, syscall.SIGUSR1)
	go p.forward(reopen)
	err = p.cmd.Wait()
	signal.Stop(reopen)
	close(p.gone)
	end(&envoyEnd{err})
}

func (p *process) forward(signals <-chan os.Signal) {
	for {
		select {
		case s := <-signals:
			_ = p.cmd.Process.Signal(s) // an error says that it is gone
		case <-p.gone:
			return
		}
	}
}

// stopEnvoy asks it to end, then makes it.
func (a *agent) stopEnvoy() {
	if a.envoy == nil {
		return
	}
	_ = a.envoy.cmd.Process.Signal(syscall.SIGTERM) // an error says that it is gone
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-a.envoy.gone:
		return
	case <-timer.C:
	}
	_ = a.envoy.cmd.Process.Kill()
	<-a.envoy.gone
}
