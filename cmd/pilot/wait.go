package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/spf13/cobra"
)

const pollTime = 250 * time.Millisecond

const waitLong = `Waits until every connected proxy that should hold a revision acknowledged it, or a
later one. A revision is a name of the complete configuration: equal content has an
equal one. Without --revision it is the newest that the control plane applied; with
DIR, the one that DIR has now, so that an edit which is not read yet is waited for.

A proxy that connects meanwhile counts, one that leaves does not. With --settled the
changes of modes have to be at their end too: a revision is acknowledged as soon as
every proxy has the phase that is in force.

Exit codes: 0 acknowledged, 1 not in time: the laggards are named, 2 trouble.`

func waitCmd() *cobra.Command {
	var from directoryFlags
	var output format
	var w waiting
	cmd := &cobra.Command{
		Use:   "wait [DIR]",
		Short: "Wait until every connected proxy acknowledged an edit",
		Long:  waitLong,
		Example: `  pilot wait
  pilot wait config/ --timeout 30s
  pilot wait --revision 3f0c2a91d7 --settled --timeout 10m`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: from.completeDirectory(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				d, err := from.readValid(args[0], cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				w.revision = d.inputs.Revision().String()
			}
			r, err := w.until(cmd.Context())
			if err != nil {
				return err
			}
			if output == formatJSON {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				err = w.print(cmd.OutOrStdout(), r)
			}
			if err == nil && !w.done(r) {
				return errFindings
			}
			return err
		},
	}
	from.register(cmd)
	output.register(cmd)
	w.server.register(cmd, defaultServer, "the control plane's --http-address")
	cmd.Flags().StringVar(&w.revision, "revision", "", "the revision to wait for (default the newest)")
	cmd.Flags().DurationVar(&w.timeout, "timeout", time.Minute, "how long to wait")
	cmd.Flags().BoolVar(&w.settled, "settled", false, "wait for the changes of modes too")
	return cmd
}

type waiting struct {
	server   serverFlags
	revision string
	timeout  time.Duration
	settled  bool
}

// done says whether what was waited for is there.
func (w *waiting) done(r status.Revision) bool {
	return r.Found && r.Acknowledged && (!w.settled || len(r.UnderWay) == 0)
}

// until asks until it is done, or the time is over.
func (w *waiting) until(ctx context.Context) (r status.Revision, err error) {
	deadline := time.Now().Add(w.timeout)
	for {
		r = status.Revision{}
		if err := w.server.get(ctx, "/debug/revision", url.Values{"revision": {w.revision}}, &r); err != nil {
			return r, err
		}
		left := time.Until(deadline)
		if w.done(r) || left <= 0 {
			return r, nil
		}
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(min(pollTime, left)):
		}
	}
}

func (w *waiting) print(out io.Writer, r status.Revision) error {
	p := &lines{w: out}
	switch {
	case !r.Found:
		p.add("revision %s was not applied within %s; %s is in force", cmp.Or(r.Revision, "(any)"), w.timeout, cmp.Or(r.InForce, "nothing"))
	case w.done(r):
		p.add("revision %s: acknowledged by %s%s", r.Revision, ofProxies(r.Proxies), w.after(r))
	case !r.Acknowledged:
		p.add("revision %s: %d of %s did not acknowledge it within %s", r.Revision, len(r.Laggards), ofProxies(r.Proxies), w.timeout)
	default:
		p.add("revision %s: acknowledged by %s, but %s not settled within %s", r.Revision, ofProxies(r.Proxies), areUnderWay(len(r.UnderWay)), w.timeout)
	}
	if r.InForce != r.Revision && r.Found {
		p.add("  meanwhile %s is in force", r.InForce)
	}
	for _, l := range r.Laggards {
		p.add("  %s", laggardLine(l.Workload, l.Lag, time.Time{}))
	}
	if w.settled {
		for i := range r.UnderWay {
			p.target(r, i, time.Time{})
		}
	}
	return p.err
}

// after is what is still to come, or is over.
func (w *waiting) after(r status.Revision) string {
	switch {
	case w.settled:
		return ", and all changes of modes are settled"
	case len(r.UnderWay) > 0:
		return fmt.Sprintf("; %s under way", areUnderWay(len(r.UnderWay)))
	default:
		return ""
	}
}

func areUnderWay(n int) string {
	if n == 1 {
		return "1 target is"
	}
	return fmt.Sprintf("%d targets are", n)
}

func ofProxies(n int) string {
	if n == 1 {
		return "1 proxy"
	}
	return fmt.Sprintf("%d proxies", n)
}
