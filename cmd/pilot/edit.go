package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/spf13/cobra"
)

// editFlags are the files of an edit, as kubectl's -f.
type editFlags struct{ files []string }

func (f *editFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.files, "filename", "f", nil, "file or directory with objects that are applied over what is in force, as by kubectl apply; - is standard input")
}

// runningFlags are those that mean a running control plane.
func runningFlags() []string {
	return []string{"server", "kubernetes", "kubeconfig", "context", "filename"}
}

// args wants a directory where no files are given.
func (f *editFlags) args(cmd *cobra.Command, args []string) error {
	if len(f.files) > 0 {
		return cobra.NoArgs(cmd, args)
	}
	return cobra.ExactArgs(1)(cmd, args)
}

// running reads what a control plane has in force, and what would be: the
// directory in args, or with the files applied.
func (f *editFlags) running(cmd *cobra.Command, from *directoryFlags, server *serverFlags, args []string) (old, next *directory, err error) {
	var answer status.Inputs
	if err := server.get(cmd.Context(), "/debug/inputs", nil, &answer); err != nil {
		return nil, nil, err
	}
	old = compiled(server.name(), answer.Model())
	if len(f.files) > 0 {
		next, err = f.applied(cmd, server)
		return old, next, err
	}
	if !cmd.Flags().Changed("domain") && old.inputs.Mesh.Domain != "" {
		from.domain = old.inputs.Mesh.Domain
	}
	if next, err = from.readValid(args[0], cmd.ErrOrStderr()); err != nil {
		return nil, nil, err
	}
	next.inputs.Connected = old.inputs.Connected
	next.snapshot = model.Build(next.inputs)
	return old, next, nil
}

func compiled(name string, inputs model.Inputs) *directory {
	return &directory{name: name, inputs: inputs, snapshot: model.Build(inputs)}
}

// applied asks the control plane, which knows all objects, what the files
// would make of them.
func (f *editFlags) applied(cmd *cobra.Command, server *serverFlags) (*directory, error) {
	files, err := f.read(cmd.InOrStdin())
	if err != nil {
		return nil, err
	}
	var parts []meshconfig.Bundle
	var problems []meshconfig.Problem
	for _, name := range slices.Sorted(maps.Keys(files)) {
		part, found := meshconfig.Decode(strings.NewReader(files[name]), name)
		parts, problems = append(parts, part), append(problems, found...)
	}
	edit, found := meshconfig.Merge(parts, meshconfig.Bundle{})
	name := strings.Join(f.files, ", ")
	local := &directory{name: name, bundle: edit, problems: append(problems, found...)}
	if local, err = local.valid(cmd.ErrOrStderr()); err != nil {
		return nil, err
	}
	var answer status.Inputs
	if err := server.ask(cmd.Context(), "/debug/inputs", nil, files, &answer); err != nil {
		return nil, err
	}
	next := compiled(name, answer.Inputs) // at the ends of all rollouts
	next.bundle = local.bundle            // for places
	return next, nil
}

// read gives texts by the names of their files.
func (f *editFlags) read(stdin io.Reader) (map[string]string, error) {
	files := map[string]string{}
	for _, name := range f.files {
		names := []string{name}
		if info, err := os.Stat(name); name != "-" && err == nil && info.IsDir() {
			if names, err = yamlFiles(name); err != nil {
				return nil, err
			}
		}
		for _, name := range names {
			var text []byte
			var err error
			if name == "-" {
				text, err = io.ReadAll(stdin)
			} else {
				text, err = os.ReadFile(name)
			}
			if err != nil {
				return nil, err
			}
			files[name] = string(text)
		}
	}
	return files, nil
}

func yamlFiles(dir string) ([]string, error) {
	var names []string
	for _, pattern := range []string{"*.yaml", "*.yml"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		names = append(names, found...)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s has no *.yaml or *.yml", dir)
	}
	slices.Sort(names)
	return names, nil
}
