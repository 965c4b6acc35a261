package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/meshpilot/pilot/pkg/identity/secrets"
	"github.com/spf13/cobra"
)

// secretsFlags say which service accounts get Secrets, and where.
type secretsFlags struct {
	dir, namespace, storage, dnsNames string
	uid                               int
}

func (f *secretsFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.dir, "secrets-dir", "", "keep a key and certificate for each service account, in SECRETS-DIR/NAMESPACE/istio.ACCOUNT/")
	flags.IntVar(&f.uid, "secrets-uid", 0, "user that owns the files of Secrets, as only the owner reads keys (default: who runs pilot)")
	flags.StringVar(&f.namespace, "listened-namespace", "", "only for the accounts of this namespace (default: all)")
	flags.StringVar(&f.dnsNames, "custom-dns-names", "", "further DNS names of certificates in Secrets: account.namespace:dns,...")
	flags.StringVar(&f.storage, "citadel-storage-namespace", storageNamespace(), "where the Secret of the CA is on Kubernetes; a configuration directory has --state-dir instead")
}

// storageNamespace is where the CA's Secret is if no flag says it.
func storageNamespace() string {
	if ns := os.Getenv("NAMESPACE"); ns != "" {
		return ns
	}
	return "istio-system"
}

// controller keeps the Secrets in the directory, or else in the store of o;
// nil without either.
func (f *secretsFlags) controller(o secrets.Options) (*secrets.Controller, error) {
	names, err := parseDNSNames(f.dnsNames)
	if err != nil {
		return nil, fmt.Errorf("--custom-dns-names: %w", err)
	}
	if f.dir != "" {
		o.Store = secrets.Directory{Path: f.dir, UID: f.uid}
	}
	if o.Store == nil {
		if f.namespace != "" || f.dnsNames != "" {
			o.Log.Warn("--listened-namespace and --custom-dns-names have no effect without --secrets-dir")
		}
		return nil, nil
	}
	o.Namespace, o.DNSNames = f.namespace, names
	return secrets.New(o), nil
}

// parseDNSNames reads account.namespace:dns,… in which an account may occur
// several times. Namespaces have no dots, accounts may.
func parseDNSNames(text string) (map[secrets.Account][]string, error) {
	out := map[secrets.Account][]string{}
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		who, dns, ok := strings.Cut(part, ":")
		dot := strings.LastIndexByte(who, '.')
		if !ok || dot <= 0 || dot == len(who)-1 || dns == "" || strings.ContainsAny(dns, ": /") {
			return nil, fmt.Errorf("%q is not account.namespace:dns", part)
		}
		a := secrets.Account{Namespace: who[dot+1:], Name: who[:dot]}
		out[a] = append(out[a], dns)
	}
	return out, nil
}
