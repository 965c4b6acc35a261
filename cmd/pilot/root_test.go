package main

import (
	"bytes"
	"runtime/debug"
	"strings"
	"testing"
)

// run executes one command line as main would.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = execute(t.Context(), args, &out, &err)
	return code, out.String(), err.String()
}

func TestWrongUsage(t *testing.T) {
	cases := []struct{ name, args, stderr string }{
		{"unknown command", "frob", `pilot: unknown command "frob" for "pilot"`},
		{"unknown flag", "version --frob", "pilot: unknown flag: --frob\nSee 'pilot version --help'"},
		{"too many arguments", "version x", `pilot: unknown command "x" for "pilot version"`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := run(t, strings.Fields(c.args)...)
			if code != exitTrouble || stdout != "" || strings.TrimSpace(stderr) != c.stderr {
				t.Errorf("exit %d, stdout %q, stderr %q; want exit 2 and %q", code, stdout, stderr, c.stderr)
			}
		})
	}
}

func TestEveryCommandHasHelp(t *testing.T) {
	for _, c := range rootCmd().Commands() {
		if c.Short == "" || c.Example == "" {
			t.Errorf("pilot %s: no short help or no example", c.Name())
		}
		if code, stdout, _ := run(t, c.Name(), "--help"); code != exitOK || !strings.Contains(stdout, "pilot "+c.Name()) {
			t.Errorf("pilot %s --help: exit %d, %q", c.Name(), code, stdout)
		}
	}
}

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	printVersion(&out, &debug.BuildInfo{
		GoVersion: "go1.26.0",
		Main:      debug.Module{Version: "v1.2.3"},
		Deps:      []*debug.Module{{Path: "github.com/envoyproxy/go-control-plane/envoy", Version: "v1.40.0"}},
		Settings:  []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}},
	})
	for _, want := range []string{"pilot      v1.2.3\n", "revision   abc with local changes\n", "go         go1.26.0 ", "envoy api  v1.40.0\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if code, stdout, stderr := run(t, "version"); code != exitOK || !strings.HasPrefix(stdout, "pilot ") || stderr != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}
