package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/agent"
)

const nodeAgentLong = `Gives this machine a certificate of the mesh, for its Envoy, and keeps it fresh. The
private key is made here and never leaves. The first time the agent shows the CA a
token; from then on its certificate, so remove the token once the files are there.
The root file must exist at the start: it verifies the CA.

The files are replaced in one step, and Envoy takes them without a restart. With
--envoy-bootstrap the agent also runs Envoy, once the files are there and fit, and
ends with it; what follows "--" are more arguments for Envoy.

After 5 retries (5 s, doubling) the agent ends, for systemd to start it again. While
it runs Envoy it goes on instead. See docs/node-agent.md.

Exit codes: 0 stopped by Ctrl-C or SIGTERM, 2 could not start, got no certificate, or
Envoy ended.`

const nodeAgentExample = `  pilot node-agent --ca-address istiod.istio-system.svc:15012 --token /etc/certs/token

  # With Envoy
  pilot node-agent --envoy-bootstrap /etc/istio/proxy/envoy.json -- --drain-time-s 45`

func nodeAgentCmd() *cobra.Command {
	var o agent.Options
	var keyType, env, platform, bootstrap, binary string
	var keySize int
	cmd := &cobra.Command{
		Use:     "node-agent",
		Short:   "Keep this machine's certificate fresh, and run its Envoy",
		Long:    nodeAgentLong,
		Example: nodeAgentExample,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && (cmd.ArgsLenAtDash() != 0 || bootstrap == "") {
				return fmt.Errorf("unexpected argument %q: only arguments of Envoy, after -- and with --envoy-bootstrap", args[0])
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Log = newLog(cmd.ErrOrStderr())
			for flag, value := range map[string]string{"--env": env, "--platform": platform} {
				if value != "" {
					o.Log.Info(flag+" is ignored: every machine joins with a token", "value", value)
				}
			}
			var err error
			if o.RSABits, err = rsaBits(keyType, keySize); err != nil {
				return err
			}
			if bootstrap != "" {
				if _, err := os.Stat(bootstrap); err != nil {
					return fmt.Errorf("--envoy-bootstrap: %w", err)
				}
				o.Envoy = agent.Envoy{
					Binary: binary, Args: append([]string{"-c", bootstrap}, args...),
					Stdout: cmd.OutOrStdout(), Stderr: cmd.ErrOrStderr(),
				}
			}
			return agent.Run(cmd.Context(), o)
		},
	}
	const dir = "/etc/certs/"
	f := cmd.Flags()
	f.StringVar(&o.CAAddress, "ca-address", "istio-pilot.istio-system.svc:15012", "host:port of the control plane, which is the CA")
	f.StringVar(&o.ControlPlaneNamespace, "control-plane-namespace", "istio-system", "namespace in the identity that the CA must prove")
	f.DurationVar(&o.TTL, "workload-cert-ttl", identity.DefaultLeafTTL, "lifetime to ask for; 0 is the CA's default")
	f.Float64Var(&o.GraceRatio, "grace-period-ratio", 0.5, "renew when this part of the lifetime is left")
	f.StringVar(&o.Files.CertChain, "cert-chain", dir+identity.CertChainFile, "certificate to write; all three files are in one directory")
	f.StringVar(&o.Files.Key, "key", dir+identity.KeyFile, "private key to write")
	f.StringVar(&o.Files.RootCert, "root-cert", dir+identity.RootCertFile, "root certificates; must be there at the start, and follow the CA's")
	f.StringVar(&o.Token, "token", "/var/run/secrets/tokens/istio-token", "file with the token that is used while there is no valid certificate")
	f.StringVar(&o.Org, "org", "", "organisation in the certificate request")
	f.StringVar(&keyType, "key-type", "ecdsa", "ecdsa (P-256) or rsa")
	f.IntVar(&keySize, "key-size", 2048, "bits of an RSA key")
	f.StringVar(&bootstrap, "envoy-bootstrap", "", "run Envoy with this bootstrap once the files are there and fit")
	f.StringVar(&binary, "envoy-binary", "envoy", "Envoy, with --envoy-bootstrap")
	f.StringVar(&o.MetricsAddress, "metrics-address", "", "/metrics, e.g. 127.0.0.1:15020 (default none)")
	f.StringVar(&env, "env", "", "accepted and ignored")
	f.StringVar(&platform, "platform", "", "accepted and ignored")
	return cmd
}

func rsaBits(keyType string, size int) (int, error) {
	t, err := identity.ParseKeyType(keyType)
	switch {
	case err != nil:
		return 0, fmt.Errorf("--key-type: %w", err)
	case t == identity.ECDSA:
		return 0, nil
	case size == 0:
		return 0, errors.New("--key-size: an RSA key of 0 bits is none")
	}
	return size, nil
}
