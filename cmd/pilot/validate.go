package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/spf13/cobra"
)

func validateCmd() *cobra.Command {
	var from directoryFlags
	var output format
	cmd := &cobra.Command{
		Use:   "validate DIR...",
		Short: "List every problem of configuration directories, with file and line",
		Long: `Reads each directory as "pilot serve" would, and says whether it is accepted:
every error, and what was understood in another way than one may expect. Directories
are independent of each other. Whether what is accepted is also meant, "pilot check"
says.

Exit codes: 0 no errors (warnings may be), 1 errors, 2 a directory cannot be read.`,
		Example: `  pilot validate config/
  pilot validate -o json config/ | jq '.[] | select(.severity == "error")'`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeDirectories,
		RunE: func(cmd *cobra.Command, args []string) error {
			var directories []*directory
			for _, dir := range args {
				d, err := from.read(dir)
				if err != nil {
					return err
				}
				directories = append(directories, d)
			}
			return validate(cmd.OutOrStdout(), directories, output)
		},
	}
	from.register(cmd)
	output.register(cmd)
	return cmd
}

func validate(w io.Writer, directories []*directory, output format) error {
	failed := false
	reports := []problemReport{}
	for _, d := range directories {
		failed = failed || d.count(meshconfig.Error) > 0
		for _, p := range d.problems {
			reports = append(reports, reportOf(d.name, p))
			if output == formatText {
				fmt.Fprintln(w, problemLine(p))
			}
		}
		if output == formatText {
			fmt.Fprintln(w, verdict(d))
		}
	}
	if output == formatJSON {
		if err := printJSON(w, reports); err != nil {
			return err
		}
	}
	if failed {
		return errFindings
	}
	return nil
}

// verdict is the last line about a directory.
func verdict(d *directory) string {
	errors, warnings := d.count(meshconfig.Error), d.count(meshconfig.Warning)
	holds := fmt.Sprintf("%s, %s with a sidecar", plural(len(d.snapshot.Services()), "service"), plural(len(d.sidecars()), "workload"))
	switch {
	case errors > 0:
		return fmt.Sprintf("%s: refused, %s and %s", d.name, plural(errors, "error"), plural(warnings, "warning"))
	case warnings > 0:
		return fmt.Sprintf("%s: valid with %s; %s", d.name, plural(warnings, "warning"), holds)
	}
	return fmt.Sprintf("%s: valid; %s", d.name, holds)
}

// problemLine is one problem as editors and terminals link it.
func problemLine(p meshconfig.Problem) string {
	place := ""
	if p.At.File != "" {
		place = p.At.String() + ": "
	}
	return fmt.Sprintf("%s%s: %s [%s]", place, p.Severity, strings.TrimPrefix(p.String(), place), p.Code)
}

// problemReport is a problem in JSON.
type problemReport struct {
	Directory string `json:"directory"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	Severity  string `json:"severity"`
	Code      string `json:"code"`
	Kind      string `json:"kind,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	Field     string `json:"field,omitempty"`
	Message   string `json:"message"`
}

func reportOf(dir string, p meshconfig.Problem) problemReport {
	return problemReport{
		Directory: dir, File: p.At.File, Line: p.At.Line, Severity: p.Severity.String(), Code: p.Code,
		Kind: p.On.Kind, Namespace: p.On.Namespace, Name: p.On.Name, Field: p.Field, Message: p.Message,
	}
}
