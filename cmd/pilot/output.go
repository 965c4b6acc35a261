package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// format is the value of --output.
type format string

const (
	formatText format = "text"
	formatJSON format = "json"
)

func (f *format) register(cmd *cobra.Command) {
	*f = formatText
	cmd.Flags().VarP(f, "output", "o", "text or json")
	err := cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag was registered in the line above
	}
}

// String, Set and Type make it a flag's value.
func (f *format) String() string { return string(*f) }

func (f *format) Set(s string) error {
	switch v := format(s); v {
	case formatText, formatJSON:
		*f = v
		return nil
	}
	return fmt.Errorf("must be text or json")
}

func (f *format) Type() string { return "format" }

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
