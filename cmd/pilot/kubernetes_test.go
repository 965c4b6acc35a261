package main

import "testing"

// serve follows a directory or a cluster, not both and not neither.
func TestServeArgs(t *testing.T) {
	for _, c := range []struct {
		flags kubernetesFlags
		args  []string
		want  string
	}{
		{kubernetesFlags{}, []string{"dir"}, ""},
		{kubernetesFlags{on: true}, nil, ""},
		{kubernetesFlags{context: "test"}, nil, ""},
		{kubernetesFlags{}, nil, "give one configuration directory, or --kubernetes"},
		{kubernetesFlags{}, []string{"a", "b"}, "give one configuration directory, or --kubernetes"},
		{kubernetesFlags{on: true}, []string{"dir"}, `"dir": with --kubernetes there is no directory`},
	} {
		err := serveArgs(&c.flags)(nil, c.args)
		if got := errorText(err); got != c.want {
			t.Errorf("%+v %v: got %q, want %q", c.flags, c.args, got, c.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
