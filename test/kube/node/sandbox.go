package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
)

// sandboxVariable carries the sandbox to the child that enters it.
const sandboxVariable = "KUBETEST_SANDBOX"

// sandbox is a container as its process sees it: this machine's programs and
// libraries, and nothing else of its files but what is mounted.
type sandbox struct {
	Root     string // an empty directory of this machine, to mount upon
	ReadOnly bool   // the root file system
	Files    map[string]string
	Mounts   []mount
	UID, GID int
	Argv     []string
	Env      []string
}

// mount shows a file or directory of this machine in the sandbox.
type mount struct {
	From, At string
	ReadOnly bool
}

// command starts the sandbox: this program once more, in a mount namespace of
// its own.
func (s sandbox) command() (*exec.Cmd, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args[0] = s.Argv[0]
	cmd.Env = []string{sandboxVariable + "=" + string(text)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	return cmd, nil
}

// Enter makes this process a container's, if it was started to be one; then it
// does not return. A TestMain calls it first of all.
func Enter() {
	text, given := os.LookupEnv(sandboxVariable)
	if !given {
		return
	}
	var s sandbox
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		err = s.enter()
	}
	fmt.Fprintln(os.Stderr, "sandbox:", err)
	os.Exit(125)
}

func (s *sandbox) enter() error {
	runtime.LockOSThread()
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}
	if err := syscall.Mount("tmpfs", s.Root, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount a root (a container that may not mount?): %w", err)
	}
	for _, dir := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/proc", "/dev", "/sys", "/etc/alternatives"} {
		if err := s.share(dir); err != nil {
			return err
		}
	}
	// What this machine has installed there is not the container's.
	if err := syscall.Mount("tmpfs", filepath.Join(s.Root, "/usr/local"), "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	for path, text := range s.Files {
		if err := os.MkdirAll(filepath.Join(s.Root, filepath.Dir(path)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.Root, path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, m := range s.Mounts {
		if err := s.bind(m); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.From, m.At, err)
		}
	}
	if s.ReadOnly {
		if err := syscall.Mount("", s.Root, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""); err != nil {
			return err
		}
	}
	return s.become()
}

// share shows a directory of this machine at the same path, as the link that
// it may be.
func (s *sandbox) share(dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		to, err := os.Readlink(dir)
		if err != nil {
			return err
		}
		return os.Symlink(to, filepath.Join(s.Root, dir))
	}
	return s.bind(mount{From: dir, At: dir})
}

func (s *sandbox) bind(m mount) error {
	at := filepath.Join(s.Root, m.At)
	info, err := os.Stat(m.From)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(at, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(at), 0o755); err == nil {
		err = os.WriteFile(at, nil, 0o644)
	}
	if err != nil {
		return err
	}
	if err := syscall.Mount(m.From, at, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil || !m.ReadOnly {
		return err
	}
	return syscall.Mount("", at, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, "")
}

// become turns this process into the container's.
func (s *sandbox) become() error {
	if err := syscall.Chroot(s.Root); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if s.UID != 0 || s.GID != 0 {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(s.GID), syscall.Setuid(s.UID)); err != nil {
			return err
		}
	}
	// A change of the user undoes the wish to end with the parent.
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0); errno != 0 {
		return errno
	}
	return fmt.Errorf("%s: %w", s.Argv[0], syscall.Exec(s.Argv[0], s.Argv, s.Env))
}
