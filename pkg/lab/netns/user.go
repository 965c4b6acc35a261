package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// Privileged says whether this process may make networks: it is root, be it
// in a user namespace of its own.
func Privileged() bool { return os.Geteuid() == 0 }

// Reexec runs this program again, with the same arguments, as root of a user
// namespace of its own; it returns only if that is not possible, and says what
// to do. The namespace has the user ids of /etc/subuid besides the caller's,
// because Envoy needs another user than the applications.
func Reexec() error {
	if missing := missingProgram("unshare", "newuidmap", "newgidmap", "ip", "iptables-restore"); missing != "" {
		return fmt.Errorf("capture without root needs the program %q: install it (Debian: apt-get install util-linux uidmap iproute2 iptables), or run as root", missing)
	}
	unshare := lookup("unshare")
	flags := []string{"--user", "--map-root-user", "--map-auto", "--"}
	if out, err := exec.Command(unshare, append(flags, "true")...).CombinedOutput(); err != nil {
		return fmt.Errorf("capture without root needs a user namespace, and this system refuses one: %w: %s\n%s", err, strings.TrimSpace(string(out)), advice())
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := append(append([]string{unshare}, flags...), append([]string{self}, os.Args[1:]...)...)
	return fmt.Errorf("run %s: %w", unshare, syscall.Exec(unshare, args, os.Environ()))
}

func missingProgram(names ...string) string {
	for _, name := range names {
		if _, err := exec.LookPath(lookup(name)); err != nil {
			return name
		}
	}
	return ""
}

// advice is what usually helps, by what can be seen of the system.
func advice() string {
	uid := os.Getuid()
	ways := []string{"run the lab as root"}
	if subuids, err := os.ReadFile("/etc/subuid"); err != nil || len(strings.TrimSpace(string(subuids))) == 0 {
		ways = append(ways, fmt.Sprintf("give your user ids to use: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un %d)", uid))
	}
	for name, off := range map[string]string{
		"kernel.apparmor_restrict_unprivileged_userns": "1",
		"kernel.unprivileged_userns_clone":             "0",
		"user.max_user_namespaces":                     "0",
	} {
		value, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
		if errors.Is(err, os.ErrNotExist) || strings.TrimSpace(string(value)) != off {
			continue
		}
		on := map[string]string{"0": "1", "1": "0"}[off]
		if strings.HasPrefix(name, "user.") {
			on = "10000"
		}
		ways = append(ways, fmt.Sprintf("allow it: sysctl %s=%s", name, on))
	}
	return "What helps: " + strings.Join(ways, "; or ")
}
