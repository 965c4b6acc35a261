package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/spf13/cobra"
)

func checkCmd() *cobra.Command {
	var from directoryFlags
	var output format
	var server serverFlags
	var namespace string
	failOn := failWarning
	cmd := &cobra.Command{
		Use:   "check DIR | check --server URL",
		Short: "Find what is valid but hardly meant: conflicts, and statements without effect",
		Long: `"pilot validate" says whether a configuration is accepted, this command whether
it is meant: clients that send what a server refuses (by simulated calls), mTLS
that is switched off where it would work, and policies, selectors, annotations and
exclusions that do nothing. Each finding says where, what is wrong, and what to
write instead. Errors and warnings of validate are listed too.

With --server it is the mesh of a running control plane, with what its proxies
report.

Exit codes: 0 nothing of the severity of --fail-on, 1 something, 2 trouble.`,
		Example: `  pilot check config/
  pilot check config/ --fail-on error
  pilot check --server http://127.0.0.1:8080 -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if server.given() {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		ValidArgsFunction: from.completeDirectory(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			findings := []problemReport{}
			if server.given() {
				if err := server.get(cmd.Context(), "/debug/check", nil, &findings); err != nil {
					return err
				}
				for i := range findings {
					findings[i].Directory = server.name()
				}
			} else {
				d, err := from.read(args[0])
				if err != nil {
					return err
				}
				for _, p := range d.check() {
					findings = append(findings, reportOf(d.name, p))
				}
			}
			if namespace != "" {
				findings = slices.DeleteFunc(findings, func(p problemReport) bool { return p.Namespace != namespace })
			}
			return checked(cmd.OutOrStdout(), findings, failOn, output)
		},
	}
	from.register(cmd)
	output.register(cmd)
	server.register(cmd, "", "check a running control plane, such as http://127.0.0.1:8080, instead of a directory")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only findings about objects of this namespace")
	cmd.Flags().Var(&failOn, "fail-on", "the least severity with exit code 1: warning or error")
	cmd.MarkFlagsMutuallyExclusive("server", "domain")
	return cmd
}

// failOn is the value of --fail-on.
type failOn string

const (
	failWarning failOn = "warning"
	failError   failOn = "error"
)

// String, Set and Type make it a flag's value.
func (f *failOn) String() string { return string(*f) }

func (f *failOn) Set(s string) error {
	switch v := failOn(s); v {
	case failWarning, failError:
		*f = v
		return nil
	}
	return fmt.Errorf("must be warning or error")
}

func (f *failOn) Type() string { return "severity" }

func checked(w io.Writer, findings []problemReport, failOn failOn, output format) error {
	count := map[string]int{}
	for _, f := range findings {
		count[f.Severity]++
	}
	if output == formatJSON {
		if err := printJSON(w, findings); err != nil {
			return err
		}
	} else {
		for _, f := range findings {
			fmt.Fprintln(w, problemLine(f.problem()))
		}
		fmt.Fprintf(w, "%s, %s, %s\n", plural(count["error"], "error"), plural(count["warning"], "warning"), plural(count["info"], "info"))
	}
	if count["error"] > 0 || failOn == failWarning && count["warning"] > 0 {
		return errFindings
	}
	return nil
}

// problem is what the report was made of.
func (r problemReport) problem() meshconfig.Problem {
	severity := meshconfig.Info
	for _, s := range []meshconfig.Severity{meshconfig.Warning, meshconfig.Error} {
		if s.String() == r.Severity {
			severity = s
		}
	}
	return meshconfig.Problem{
		Code: r.Code, Severity: severity, On: model.Key{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name},
		Field: r.Field, Message: r.Message, At: meshconfig.Position{File: r.File, Line: r.Line},
	}
}
