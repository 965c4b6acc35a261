package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/meshpilot/pilot/pkg/explain"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/spf13/cobra"
)

const explainLong = `Says for a caller and a destination: which mode each endpoint has, by which
object, and which objects lose; what the client side sends and why; what a call
would do now; and what to change where it is refused, fails or goes in plaintext.
Everything is read from the configuration that the Envoys would get, and each call
is simulated on it.

FROM is NAMESPACE/WORKLOAD, where a Deployment's name stands for one of its pods,
or NAMESPACE for some workload of it. TO is a host, as the caller's namespace
resolves it, or an address; PORT is a service port or its name.

--all prints what becomes of calls from every class of callers (a namespace, or all
callers without a sidecar) to every service port:
  mTLS          works, in mesh mTLS        refused  plaintext is not accepted
  plaintext     works, in plaintext        fails    at all endpoints, for other reasons
  app TLS, TLS  works, in TLS of its own   partly   works at some endpoints only
                or of a rule               no endpoints
  mixed         works, differently by endpoint

Exit codes: 0 answered, whatever the answer; 2 a name that nobody has, or the
configuration cannot be read.`

func explainCmd() *cobra.Command {
	var from directoryFlags
	var output format
	var server serverFlags
	var all, plaintext bool
	var namespace string
	cmd := &cobra.Command{
		Use:   "explain DIR FROM TO:PORT | explain --server URL FROM TO:PORT",
		Short: "Say what becomes of a call, why, and what to change",
		Long:  explainLong,
		Example: `  pilot explain config/ shop/web cart:80
  pilot explain --server http://127.0.0.1:8080 shop/web cart.shop.svc.cluster.local:80
  pilot explain --context production -n shop web cart:80
  pilot explain config/ --all
  pilot explain config/ --plaintext`,
		Args: func(cmd *cobra.Command, args []string) error {
			want := 3
			if server.given() {
				want--
			}
			if all || plaintext {
				want -= 2
			}
			return cobra.ExactArgs(want)(cmd, args)
		},
		ValidArgsFunction: from.completeDirectory(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			var source explainSource = &remoteExplain{cmd.Context(), &server}
			if !server.given() {
				d, err := from.readValid(args[0], cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				source, args = localExplain{explain.New(d.snapshot, d.place)}, args[1:]
			}
			switch w := cmd.OutOrStdout(); {
			case all:
				return explainAll(w, source, output)
			case plaintext:
				return explainPlaintext(w, source, output)
			default:
				caller := args[0]
				if namespace != "" && !strings.Contains(caller, "/") {
					caller = namespace + "/" + caller
				}
				return explainCall(w, source, caller, args[1], output)
			}
		},
	}
	from.register(cmd)
	output.register(cmd)
	server.register(cmd, "", "ask a running control plane, such as http://127.0.0.1:8080, instead of a directory")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace of FROM, if FROM names only a workload")
	cmd.Flags().BoolVar(&all, "all", false, "all client classes and service ports, as a table")
	cmd.Flags().BoolVar(&plaintext, "plaintext", false, "only what goes or would go in plaintext, with the reason")
	cmd.MarkFlagsMutuallyExclusive("all", "plaintext")
	cmd.MarkFlagsMutuallyExclusive("server", "domain")
	return cmd
}

// explainSource is a directory or a running control plane.
type explainSource interface {
	ask(from, to string) (explain.Answer, error)
	all() (explain.Matrix, error)
	plaintext() ([]explain.Pair, error)
}

type localExplain struct{ *explain.Explainer }

func (l localExplain) ask(from, to string) (explain.Answer, error) { return l.Ask(from, to) }
func (l localExplain) all() (explain.Matrix, error)                { return l.All(explain.Window{}), nil }
func (l localExplain) plaintext() ([]explain.Pair, error) {
	return l.Plaintext(explain.Window{}).Pairs, nil
}

type remoteExplain struct {
	ctx    context.Context
	server *serverFlags
}

func (r *remoteExplain) ask(from, to string) (a explain.Answer, err error) {
	err = r.server.get(r.ctx, "/debug/explain", url.Values{"from": {from}, "to": {to}}, &a)
	return a, err
}

// all puts the pages together. An edit between two of them may show in the
// later ones only.
func (r *remoteExplain) all() (m explain.Matrix, err error) {
	for {
		var page explain.Matrix
		if err := r.page("all", len(m.Rows), &page); err != nil {
			return m, err
		}
		if len(m.Rows) > 0 && !sameClasses(m.Classes, page.Classes) {
			return m, errors.New("the mesh changed while it was read; ask again")
		}
		m.Classes, m.Rows = page.Classes, append(m.Rows, page.Rows...)
		if page.Left == 0 || len(page.Rows) == 0 {
			return m, nil
		}
	}
}

func sameClasses(a, b []explain.Class) bool {
	return slices.EqualFunc(a, b, func(a, b explain.Class) bool { return a.Name == b.Name })
}

func (r *remoteExplain) plaintext() ([]explain.Pair, error) {
	pairs := []explain.Pair{}
	for skip := 0; ; {
		var page explain.Pairs
		if err := r.page("plaintext", skip, &page); err != nil {
			return nil, err
		}
		pairs = append(pairs, page.Pairs...)
		skip += page.Ports
		if page.Left == 0 || page.Ports == 0 {
			return pairs, nil
		}
	}
}

func (r *remoteExplain) page(what string, skip int, answer any) error {
	return r.server.get(r.ctx, "/debug/explain", url.Values{what: {"true"}, "skip": {strconv.Itoa(skip)}}, answer)
}

func explainCall(w io.Writer, source explainSource, from, to string, output format) error {
	answer, err := source.ask(from, to)
	if err != nil {
		return err
	}
	if output == formatJSON {
		return printJSON(w, answer)
	}
	return answer.Print(w)
}

func explainAll(w io.Writer, source explainSource, output format) error {
	m, err := source.all()
	if err != nil {
		return err
	}
	if len(m.Classes) == 0 || len(m.Rows) == 0 {
		return errors.New("there is nothing to explain: no workload, or no service")
	}
	if output == formatJSON {
		return printJSON(w, m)
	}
	return m.Print(w)
}

func explainPlaintext(w io.Writer, source explainSource, output format) error {
	pairs, err := source.plaintext()
	if err != nil {
		return err
	}
	if output == formatJSON {
		return printJSON(w, pairs)
	}
	for _, p := range pairs {
		if _, err := fmt.Fprintln(w, p); err != nil {
			return err
		}
	}
	if len(pairs) == 0 {
		_, err = fmt.Fprintln(w, "nothing goes in plaintext")
	}
	return err
}

// place is where an object was written.
func (d *directory) place(key model.Key) string {
	at := d.bundle.Positions[key]
	if at.File == "" {
		return ""
	}
	return at.String()
}
