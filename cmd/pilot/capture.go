package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/meshpilot/pilot/pkg/inject/capture"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/spf13/cobra"
)

// captureFlags are what is captured, as a pod's annotations say it.
type captureFlags struct {
	outbound, inbound                             uint16
	mode                                          string
	includeInbound, excludeInbound                string
	includeRanges, excludeRanges, excludeOutbound string
}

func captureCmd() *cobra.Command {
	var f captureFlags
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "capture",
		Short: "Lead the traffic of this network namespace through its sidecar",
		Long: `Sets the rules that lead TCP over IPv4 through a sidecar: outbound to one of its ports,
inbound to another. What user and group 1337 send is left alone, because the sidecar
runs as them. It is what the init container of an injected pod runs; it needs root, or
NET_ADMIN and NET_RAW, and iptables. The rules replace all others of the same tables, so
running it twice is running it once. Do not run it outside of a pod's namespace.

Exit codes: 0 done, 2 not possible.`,
		Example: `  # What would be set
  pilot capture --exclude-inbound-ports 15021 --dry-run`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options()
			if err != nil {
				return err
			}
			if dryRun {
				_, err := io.WriteString(cmd.OutOrStdout(), capture.Rules(o)+strings.Join(capture.Routes(o), "\n"))
				return err
			}
			return setCapture(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.Uint16Var(&f.outbound, "outbound-port", 15001, "of the sidecar's outbound listener")
	flags.Uint16Var(&f.inbound, "inbound-port", 15006, "of the sidecar's inbound listener")
	flags.StringVar(&f.mode, "mode", model.CaptureRedirect.String(), "REDIRECT, or TPROXY to keep callers' addresses")
	flags.StringVar(&f.includeInbound, "include-inbound-ports", "*", "ports to capture, with commas between; * is all")
	flags.StringVar(&f.excludeInbound, "exclude-inbound-ports", "", "ports that reach the application directly")
	flags.StringVar(&f.includeRanges, "include-outbound-ranges", "*", "ranges of IPv4 addresses to capture, such as 10.0.0.0/8; * is all")
	flags.StringVar(&f.excludeRanges, "exclude-outbound-ranges", "", "ranges to call directly")
	flags.StringVar(&f.excludeOutbound, "exclude-outbound-ports", "", "ports to call directly")
	flags.BoolVar(&dryRun, "dry-run", false, "print the rules, and set none")
	return cmd
}

func (f captureFlags) options() (capture.Options, error) {
	o := capture.Options{OutboundPort: f.outbound, InboundPort: f.inbound}
	switch f.mode {
	case model.CaptureRedirect.String():
	case model.CaptureTProxy.String():
		o.TProxy = true
	default:
		return o, fmt.Errorf("--mode: %q is not REDIRECT or TPROXY", f.mode)
	}
	var errs [5]error
	o.IncludeInbound, errs[0] = flagValue("include-inbound-ports", f.includeInbound, capture.ParsePorts)
	o.ExcludeInbound, errs[1] = flagValue("exclude-inbound-ports", f.excludeInbound, capture.ParsePortList)
	o.IncludeRanges, errs[2] = flagValue("include-outbound-ranges", f.includeRanges, capture.ParseRanges)
	o.ExcludeRanges, errs[3] = flagValue("exclude-outbound-ranges", f.excludeRanges, capture.ParseRangeList)
	o.ExcludeOutbound, errs[4] = flagValue("exclude-outbound-ports", f.excludeOutbound, capture.ParsePortList)
	return o, errors.Join(errs[:]...)
}

func flagValue[T any](flag, text string, parse func(string) (T, error)) (T, error) {
	value, err := parse(text)
	if err != nil {
		return value, fmt.Errorf("--%s: %w", flag, err)
	}
	return value, nil
}

// setCapture applies the rules to the network namespace of this process.
func setCapture(ctx context.Context, o capture.Options) error {
	if err := feed(ctx, capture.Rules(o), "iptables-restore"); err != nil {
		return err
	}
	routes := capture.Routes(o)
	if len(routes) == 0 {
		return nil
	}
	_ = feed(ctx, capture.StaleRoutes()+"\n", "ip", "-batch", "-") // there may be none
	return feed(ctx, strings.Join(routes, "\n")+"\n", "ip", "-batch", "-")
}

// feed runs a program with the text as its input.
func feed(ctx context.Context, text, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(text)
	// Its usual lock is where the container's root may not write.
	cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE=/dev/null")
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("capture needs the program %q, which this image lacks: use one with iptables and iproute2", name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
