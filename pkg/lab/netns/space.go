// Package netns gives the lab its own small network: one network namespace per
// workload, joined by a bridge in a namespace of its own, with transparent
// redirect as Kubernetes pods have it.
//
// Nothing has a name outside: a namespace lives as long as this process holds
// it open, so the kernel removes everything when the process ends, however it
// ends, and the machine's own interfaces and rules are never touched.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// Space is one network namespace.
type Space struct{ file *os.File }

// NewSpace makes a network namespace with its loopback interface up.
func NewSpace() (*Space, error) {
	var made *Space
	err := OnOwnThread(func() error {
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		made = &Space{file}
		return run("", "ip", "link", "set", "lo", "up")
	})
	if err != nil && made != nil {
		made.Close()
	}
	return made, err
}

// Do runs f inside the namespace, on a thread of its own: sockets and
// processes that f itself makes belong to the namespace. A process that must
// end with the lab (Pdeathsig) must also be waited for in f.
func (s *Space) Do(f func() error) error {
	return OnOwnThread(func() error {
		if err := setns(s.file.Fd()); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// Listen opens a TCP listener inside the namespace.
func (s *Space) Listen(address string) (net.Listener, error) {
	var ln net.Listener
	err := s.Do(func() (err error) {
		ln, err = net.Listen("tcp", address)
		return err
	})
	return ln, err
}

// Dial opens a TCP connection to an IP:port from inside the namespace.
func (s *Space) Dial(ctx context.Context, address string) (net.Conn, error) {
	var conn net.Conn
	err := s.Do(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

// Close lets the namespace go; it vanishes with its last socket and process.
// More than once is once.
func (s *Space) Close() error {
	if err := s.file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// path is what `ip` calls the namespace.
func (s *Space) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.file.Fd())
}

// OnOwnThread runs f on a thread that ends with it, so that no other goroutine
// ever runs in a namespace by accident.
func OnOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		if syscall.Gettid() == os.Getpid() {
			// The main thread never ends: leave it to this goroutine meanwhile.
			done <- OnOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

func setns(fd uintptr) error {
	number := uintptr(268)
	if runtime.GOARCH == "amd64" {
		number = 308
	}
	if _, _, errno := syscall.RawSyscall(number, fd, syscall.CLONE_NEWNET, 0); errno != 0 {
		return errno
	}
	return nil
}

// run runs a command in the namespace of the calling thread.
func run(stdin, name string, args ...string) error {
	cmd := exec.Command(lookup(name), args...)
	cmd.Stdin = strings.NewReader(stdin)
	// Its usual lock is root's, and nobody else is in the namespace.
	cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE=/dev/null")
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("capture needs the program %q: install it (Debian: apt-get install iproute2 iptables)", name)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// lookup also finds what Debian keeps off the PATH of users.
func lookup(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if _, err := os.Stat(dir + name); err == nil {
			return dir + name
		}
	}
	return name
}
