package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the versions of pilot, Go and the Envoy API",
		Example: "  pilot version",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return fmt.Errorf("this binary was built without build information")
			}
			printVersion(cmd.OutOrStdout(), info)
			return nil
		},
	}
}

func printVersion(w io.Writer, info *debug.BuildInfo) {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	revision := settings["vcs.revision"]
	switch {
	case revision == "":
		revision = "unknown (built outside a git checkout)"
	case settings["vcs.modified"] == "true":
		revision += " with local changes"
	}
	api := "unknown"
	for _, d := range info.Deps {
		if d.Path == "github.com/envoyproxy/go-control-plane/envoy" {
			api = d.Version
		}
	}
	fmt.Fprintf(w, "pilot      %s\n", info.Main.Version)
	fmt.Fprintf(w, "revision   %s\n", revision)
	fmt.Fprintf(w, "go         %s %s/%s\n", info.GoVersion, runtime.GOOS, runtime.GOARCH)
	fmt.Fprintf(w, "envoy api  %s\n", api)
}
