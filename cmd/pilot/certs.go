package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/identity/inspect"
	"github.com/spf13/cobra"
)

const certsLong = `Says of every certificate: whose it is, who issued it, how long it lasts and when it
is renewed; what is wrong with its chain, its key and its identity; and when the
first outage comes if nothing is renewed.

A TARGET is a directory of published files (cert-chain.pem, key.pem, root-cert.pem,
or ca-cert.pem and ca-key.pem) or a tree of such directories; a YAML file with
Secrets, such as "kubectl get secret -o yaml" prints, "-" for standard input; or a
PEM file. With --server it is a running control plane: its roots, its own
certificate, and that of every proxy that is connected with mutual TLS.

Private keys are only compared with their certificates; none is ever printed.

Exit codes: 0 nothing wrong (warnings may be), 1 an error, or something ends within
--fail-within, 2 trouble.`

// certsFlags are how certificates are judged.
type certsFlags struct {
	server serverFlags
	space  string // --namespace
	within time.Duration
	rules  inspect.Rules
	output format
}

func certsCmd() *cobra.Command {
	var f certsFlags
	cmd := &cobra.Command{
		Use:   "certs TARGET... | certs --server URL",
		Short: "Judge certificates: identities, chains, renewals, and the first outage",
		Long:  certsLong,
		Example: `  pilot certs /etc/certs
  kubectl get secret -A -o yaml | pilot certs -
  pilot certs ~/.local/state/pilot --fail-within 720h
  pilot certs --server http://127.0.0.1:8080 --trust-domain cluster.local`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.server.given() && len(args) > 0:
				return fmt.Errorf("%s and --server exclude each other: give one of them", strings.Join(args, " "))
			case !f.server.given() && len(args) == 0:
				return errors.New("what to look at? Give a directory or file, or --server URL, or --kubernetes")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.rules.Ratio < 0 || f.rules.Ratio > 1 {
				return fmt.Errorf("workload cert grace period ratio %v should be within [0, 1]", f.rules.Ratio)
			}
			sets, err := f.sets(cmd, args)
			if err != nil {
				return err
			}
			f.rules.Now = time.Now()
			return f.judged(cmd.OutOrStdout(), sets)
		},
	}
	flags := cmd.Flags()
	f.output.register(cmd)
	f.server.register(cmd, "", "ask a running control plane, such as http://127.0.0.1:8080")
	flags.StringVarP(&f.space, "namespace", "n", "", "of a control plane, only proxies of this namespace")
	flags.DurationVar(&f.within, "fail-within", 0, "exit code 1 if something ends within this time, leaves included, e.g. 72h")
	flags.StringSliceVar(&f.rules.TrustDomains, "trust-domain", nil, "trust domain that identities must be of; its aliases too (default: any)")
	flags.Float64Var(&f.rules.Ratio, "workload-cert-grace-period-ratio", 0.5, "a leaf is renewed when less than this share of its life is left")
	flags.DurationVar(&f.rules.MinGrace, "workload-cert-min-grace-period", 10*time.Minute, "or less than this")
	return cmd
}

// sets reads what the command line names.
func (f *certsFlags) sets(cmd *cobra.Command, targets []string) ([]inspect.Set, error) {
	if f.server.given() {
		var held []inspect.Public
		if err := f.server.get(cmd.Context(), "/debug/certificates", url.Values{}, &held); err != nil {
			return nil, err
		}
		if f.space != "" {
			held = slices.DeleteFunc(held, func(p inspect.Public) bool {
				return strings.HasPrefix(p.Name, "proxy ") && !strings.HasPrefix(p.Name, "proxy "+f.space+"/")
			})
		}
		return inspect.Sets(held), nil
	}
	var all []inspect.Set
	for _, target := range targets {
		sets, err := readTarget(target, cmd.InOrStdin())
		if err != nil {
			return nil, err
		}
		all = append(all, sets...)
	}
	return all, nil
}

func readTarget(target string, stdin io.Reader) ([]inspect.Set, error) {
	if target == "-" {
		content, err := io.ReadAll(stdin)
		if err != nil {
			return nil, err
		}
		return readSecrets("standard input", content)
	}
	info, err := os.Stat(target)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return inspect.Dir(target)
	}
	content, err := os.ReadFile(target)
	if err != nil {
		return nil, err
	}
	if strings.Contains(string(content), "-----BEGIN CERTIFICATE-----") && !strings.Contains(string(content), "kind:") {
		return []inspect.Set{inspect.File(target, content)}, nil
	}
	return readSecrets(target, content)
}

func (f *certsFlags) judged(w io.Writer, sets []inspect.Set) error {
	if len(sets) == 0 {
		return errors.New("there are no certificates: plaintext xDS has none")
	}
	report := inspect.Judge(sets, f.rules)
	var err error
	if f.output == formatJSON {
		err = printJSON(w, report)
	} else {
		err = report.Print(w, f.rules.Now)
	}
	if err == nil && report.Failed(f.rules.Now, f.within) {
		err = errFindings
	}
	return err
}
