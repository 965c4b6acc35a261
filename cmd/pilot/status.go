package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/replica"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/spf13/cobra"
)

const (
	watchTime = time.Second
	mostLines = 10 // of a list
	mostWaits = 5  // of a target
)

func statusCmd() *cobra.Command {
	var output format
	var server serverFlags
	var namespace string
	var watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how far an edit is: revision, targets under way, proxies that are behind",
		Long: `Shows a running control plane at a glance: the revision in force and who has not
acknowledged it, the targets (ports of workload groups) that are on the way to another
mode with what each waits for, held ones first, the proxies, and the number of problems.

--watch follows: on a terminal in place, else it prints again whenever more than times
and counts changed; with -o json, one object a line.

Exit codes: 0 shown, 2 the control plane does not answer.`,
		Example: `  pilot status
  pilot status --watch -n shop
  pilot status --context production
  pilot status --server http://127.0.0.1:8080 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := func() (o status.Overview, err error) {
				err = server.get(cmd.Context(), "/debug/status", url.Values{"namespace": {namespace}}, &o)
				return o, err
			}
			if watch {
				return watchStatus(cmd.Context(), cmd.OutOrStdout(), ask, output, watchTime)
			}
			o, err := ask()
			if err != nil {
				return err
			}
			if output == formatJSON {
				return printJSON(cmd.OutOrStdout(), o)
			}
			return printOverview(cmd.OutOrStdout(), o)
		},
	}
	output.register(cmd)
	server.register(cmd, defaultServer, "the control plane's --http-address")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only what is in this namespace")
	cmd.Flags().BoolVar(&watch, "watch", false, "follow until interrupted")
	return cmd
}

// watchStatus shows every change until ctx ends; that the control plane does
// not answer for a while is shown like a change.
func watchStatus(ctx context.Context, w io.Writer, ask func() (status.Overview, error), output format, pause time.Duration) error {
	place, last := inPlace(w), ""
	for {
		o, err := ask()
		if ctx.Err() != nil {
			return nil
		}
		var text bytes.Buffer
		key := ""
		switch {
		case err != nil:
			key = err.Error()
			fmt.Fprintf(&text, "%v\n", err)
		case output == formatJSON:
			key = contentKey(o)
			if err := json.NewEncoder(&text).Encode(o); err != nil {
				return err
			}
		default:
			key = contentKey(o)
			if last != "" && !place {
				text.WriteByte('\n')
			}
			if err := printOverview(&text, o); err != nil {
				return err
			}
		}
		switch {
		case place && output != formatJSON:
			_, err = fmt.Fprintf(w, "\x1b[H\x1b[2J%s", text.String())
		case key != last:
			_, err = w.Write(text.Bytes())
		default:
			err = nil
		}
		if err != nil {
			return err
		}
		last = key
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// inPlace says whether w is a terminal, where one state replaces the other.
func inPlace(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	about, err := f.Stat()
	return err == nil && about.Mode()&os.ModeCharDevice != 0
}

// contentKey is an overview without what changes all the time.
func contentKey(o status.Overview) string {
	o.Now = time.Time{}
	o.Replicas = slices.Clone(o.Replicas)
	for i := range o.Replicas {
		o.Replicas[i].Age = 0
	}
	o.Newest.UnderWay = slices.Clone(o.Newest.UnderWay)
	for i := range o.Newest.UnderWay {
		waits := slices.Clone(o.Newest.UnderWay[i].Waits)
		for j := range waits {
			waits[j].Detail = ""
		}
		o.Newest.UnderWay[i].Waits = waits
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func printOverview(w io.Writer, o status.Overview) error {
	p := &lines{w: w}
	r := o.Newest
	state := "acknowledged by all of " + ofProxies(r.Proxies)
	if !r.Acknowledged {
		state = fmt.Sprintf("not acknowledged by all of %s yet", ofProxies(r.Proxies))
	}
	p.add("revision  %s (%s), applied %s ago: %s", r.Revision, r.Change, age(o.Now, r.Applied), state)
	p.add("targets   %s", targetsLine(o))
	p.add("proxies   %s", proxiesLine(o))
	p.add("problems  %s, %s, %s", plural(o.Problems.Errors, "error"), plural(o.Problems.Warnings, "warning"), plural(o.Problems.Infos, "info"))
	for i, k := range o.Replicas {
		if i == 0 {
			p.add("replicas  %s", replicaLine(k))
		} else {
			p.add("          %s", replicaLine(k))
		}
	}
	for i := range r.UnderWay {
		if i == mostLines {
			p.add("and %d more targets under way", len(r.UnderWay)-i)
			break
		}
		if i == 0 {
			p.add("")
		}
		p.target(r, i, o.Now)
	}
	p.list("proxies behind", len(o.Behind), func(i int) string { return laggardLine(o.Behind[i].Workload, o.Behind[i].Lag, o.Now) })
	p.list("sidecars that are not connected", len(o.Proxies.Missing), func(i int) string { return o.Proxies.Missing[i] })
	return p.err
}

func replicaLine(k replica.Member) string {
	text := fmt.Sprintf("%s: %s, revision %s", k.Name, ofProxies(k.Proxies), k.Revision)
	if k.Leads {
		text += ", leads"
	}
	if k.Self {
		return text + ", asked here"
	}
	if k.Silent != "" {
		text += ", " + k.Silent
	}
	return text + fmt.Sprintf(", heard %s ago", time.Duration(k.Age*float64(time.Second)).Round(time.Second))
}

func targetsLine(o status.Overview) string {
	c := o.Targets
	if len(c.Phases) == 0 {
		return "none in phases"
	}
	var parts []string
	for _, phase := range []string{"NONE", "PERMISSIVE", "GRACE", "STRICT"} {
		if n := c.Phases[phase]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, phase))
		}
	}
	return fmt.Sprintf("%s; %d under way, %d held", strings.Join(parts, ", "), c.UnderWay, c.Held)
}

func proxiesLine(o status.Overview) string {
	c := o.Proxies
	text := fmt.Sprintf("%d connected: %d up to date, %d behind (%d refuse something)", c.Connected, c.Current, c.Behind, c.Refusing)
	for _, more := range []struct {
		n    int
		what string
	}{
		{c.Unknown, "%d of no known workload"},
		{c.WithoutCertificates, "%d without certificates"},
		{len(c.Missing), "%d sidecars not connected"},
	} {
		if more.n > 0 {
			text += ", " + fmt.Sprintf(more.what, more.n)
		}
	}
	return text
}

// laggardLine says who is behind with what; now is zero for no age.
func laggardLine(workload string, l status.Lag, now time.Time) string {
	text := workload
	if l.Type != "" {
		text += "  " + l.Type
	}
	text += "  since " + l.Since.UTC().Format("15:04:05")
	if !now.IsZero() {
		text += " (" + age(now, l.Since) + ")"
	}
	return text + "  " + l.Why
}

// lines writes lines until one fails.
type lines struct {
	w   io.Writer
	err error
}

func (p *lines) add(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// list shows the first of so many.
func (p *lines) list(title string, n int, line func(int) string) {
	if n == 0 {
		return
	}
	p.add("\n%s:", title)
	for i := range min(n, mostLines) {
		p.add("  %s", line(i))
	}
	if n > mostLines {
		p.add("  and %d more", n-mostLines)
	}
}

// target shows a target that is under way.
func (p *lines) target(r status.Revision, i int, now time.Time) {
	t := r.UnderWay[i]
	text := fmt.Sprintf("%s  %s -> %s, set by %s", t.Target, t.Phase, t.Mode, t.Source)
	if t.Held {
		text = "HELD " + text
	}
	if !now.IsZero() {
		text += ", for " + age(now, t.Since)
		if t.Deadline != nil {
			text += ", deadline in " + age(*t.Deadline, now)
		}
	}
	p.add("%s", text)
	for _, b := range t.Waits[:min(mostWaits, len(t.Waits))] {
		p.add("  waits: %s", b)
	}
	if more := len(t.Waits) - mostWaits; more > 0 {
		p.add("  and %d more", more)
	}
}

func age(now, since time.Time) string { return max(0, now.Sub(since)).Round(time.Second).String() }
