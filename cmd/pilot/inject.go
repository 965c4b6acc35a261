package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/meshpilot/pilot/pkg/inject"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// injectFlags are the settings of sidecars that are not in the mesh
// configuration.
type injectFlags struct {
	image, pullPolicy string
	cpu, memory       string
	cpuLimit, memMax  string
	drain             time.Duration
}

func (f *injectFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.image, "proxy-image", "pilot-proxy:latest", "image of sidecars: it has Envoy, pilot and iptables")
	flags.StringVar(&f.pullPolicy, "proxy-image-pull-policy", "", "Always, IfNotPresent or Never (default: Kubernetes')")
	flags.StringVar(&f.cpu, "proxy-cpu", "50m", "that a sidecar requests")
	flags.StringVar(&f.memory, "proxy-memory", "96Mi", "that a sidecar requests")
	flags.StringVar(&f.cpuLimit, "proxy-cpu-limit", "", "of a sidecar, and the number of its threads (default: none)")
	flags.StringVar(&f.memMax, "proxy-memory-limit", "1Gi", "of a sidecar")
	flags.DurationVar(&f.drain, "termination-drain-duration", 5*time.Second, "how long a sidecar goes on at least when its pod stops")
}

func (f *injectFlags) settings(mesh *model.Mesh, namespace string, native bool) (inject.Settings, error) {
	s := inject.Settings{
		Mesh: mesh, Image: f.image, PullPolicy: corev1.PullPolicy(f.pullPolicy), Native: native,
		ControlPlaneNamespace: namespace, Drain: f.drain,
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}},
	}
	switch s.PullPolicy {
	case "", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		return s, fmt.Errorf("--proxy-image-pull-policy: %q is not Always, IfNotPresent or Never", f.pullPolicy)
	}
	for _, r := range []struct {
		flag, text string
		list       corev1.ResourceList
		name       corev1.ResourceName
	}{
		{"--proxy-cpu", f.cpu, s.Resources.Requests, corev1.ResourceCPU},
		{"--proxy-memory", f.memory, s.Resources.Requests, corev1.ResourceMemory},
		{"--proxy-cpu-limit", f.cpuLimit, s.Resources.Limits, corev1.ResourceCPU},
		{"--proxy-memory-limit", f.memMax, s.Resources.Limits, corev1.ResourceMemory},
	} {
		if r.text == "" {
			continue
		}
		quantity, err := resource.ParseQuantity(r.text)
		if err != nil {
			return s, fmt.Errorf("%s: %q: %w", r.flag, r.text, err)
		}
		r.list[r.name] = quantity
	}
	return s, nil
}

func injectCmd() *cobra.Command {
	var f injectFlags
	var self controlPlaneFlags
	var files []string
	var meshFile string
	var native bool
	cmd := &cobra.Command{
		Use:   "inject -f FILE",
		Short: "Add the sidecar to the pods of manifests",
		Long: `Prints the manifests with a sidecar in each Pod, Deployment, ReplicaSet, StatefulSet,
DaemonSet, ReplicationController, Job and CronJob, as the webhook of "pilot serve
--kubernetes" would add it; all else stays as it is. Pods opt out by the annotation
sidecar.istio.io/inject: "false". What has a sidecar is left alone, so injecting twice is
injecting once. What was not injected, and why, is said on stderr. See docs/injection.md.

Exit codes: 0 printed, 1 errors (nothing is printed), 2 a file cannot be read.`,
		Example: `  pilot inject -f shop.yaml | kubectl apply -f -
  kubectl get deployment cart -o yaml | pilot inject -f - --mesh-config mesh.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			mesh, err := readMesh(meshFile)
			if err != nil {
				return err
			}
			s, err := f.settings(mesh, self.namespace, native)
			if err != nil {
				return err
			}
			return injectFiles(cmd, files, s)
		},
	}
	f.register(cmd)
	self.register(cmd)
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "manifests, or - for stdin; more than once for several")
	cmd.Flags().StringVar(&meshFile, "mesh-config", "", "the mesh configuration, mesh.yaml or the ConfigMap istio (default: the built-in defaults)")
	cmd.Flags().BoolVar(&native, "native-sidecars", true, "sidecars that start before and end after the other containers; false for Kubernetes before 1.29")
	if err := cmd.MarkFlagRequired("filename"); err != nil {
		panic(err) // the flag was registered above
	}
	return cmd
}

// injectFiles prints all files or, with an error in any, none.
func injectFiles(cmd *cobra.Command, files []string, s inject.Settings) error {
	var all [][]byte
	failed := false
	for _, name := range files {
		data, err := readInput(cmd.InOrStdin(), name)
		if err != nil {
			return err
		}
		out, done, problems := inject.Manifests(data, name, s)
		all = append(all, out)
		for _, m := range done {
			if m.Skipped != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s is not injected: %s\n", name, m.On, m.Skipped)
			}
		}
		for _, p := range problems {
			failed = failed || p.Severity == meshconfig.Error
			fmt.Fprintln(cmd.ErrOrStderr(), problemLine(p))
		}
	}
	if failed {
		return errFindings
	}
	for i, out := range all {
		if i > 0 {
			out = append([]byte("---\n"), out...)
		}
		if _, err := cmd.OutOrStdout().Write(out); err != nil {
			return err
		}
	}
	return nil
}

func readInput(stdin io.Reader, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}

// readMesh reads a mesh configuration that must be valid.
func readMesh(path string) (*model.Mesh, error) {
	if path == "" {
		return &meshconfig.DefaultMesh().Mesh, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--mesh-config: %w", err)
	}
	defer file.Close()
	bundle, problems := meshconfig.Decode(file, path)
	for _, p := range problems {
		if p.Severity == meshconfig.Error {
			return nil, fmt.Errorf("--mesh-config: %s", p)
		}
	}
	if bundle.Mesh == nil {
		return nil, fmt.Errorf("--mesh-config: %s holds no mesh configuration; it must be called mesh.yaml, or hold the ConfigMap istio", path)
	}
	return &bundle.Mesh.Mesh, nil
}
