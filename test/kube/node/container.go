package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpilot/pilot/internal/kubetest"
	"github.com/meshpilot/pilot/pkg/lab/app"
	"github.com/meshpilot/pilot/pkg/model"
)

// AppImage is the image of the lab's application.
const AppImage = "app"

// searchPath is what an image's environment usually says.
const searchPath = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// runInit runs an init container to its end, or a native sidecar until it has
// started.
func (p *Pod) runInit(ctx context.Context, c *corev1.Container) error {
	if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
		return p.run(ctx, c)
	}
	process, err := p.process(ctx, c, c.Name, argv(c))
	if err != nil {
		return err
	}
	if err := process.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return process.Wait(ctx)
}

// run starts a container, and waits for its hook and its startup probe.
func (p *Pod) run(ctx context.Context, c *corev1.Container) error {
	if c.Image == AppImage {
		return p.serve(c)
	}
	process, err := p.process(ctx, c, c.Name, argv(c))
	if err != nil {
		return err
	}
	p.Processes[c.Name] = process
	if err := process.Start(); err != nil {
		return err
	}
	if c.Lifecycle != nil {
		if err := p.hook(ctx, c, c.Lifecycle.PostStart); err != nil {
			return fmt.Errorf("%w\n%s", err, process.Tail())
		}
	}
	return p.probe(ctx, c, c.StartupProbe)
}

// argv is the container's whole command; pilot is its image's own.
func argv(c *corev1.Container) []string {
	command := c.Command
	if len(command) == 0 {
		command = []string{"/usr/local/bin/pilot"}
	}
	return append(append([]string{}, command...), c.Args...)
}

// serve is the application: its ports, in the protocols that their names say.
func (p *Pod) serve(c *corev1.Container) error {
	p.app = app.NewServer(p.Name, nil)
	for _, port := range c.Ports {
		ln, err := p.Space.Listen(net.JoinHostPort("0.0.0.0", strconv.Itoa(int(port.ContainerPort))))
		if err != nil {
			return err
		}
		if err := p.app.Serve(ln, model.ParseProtocol("", port.Name)); err != nil {
			return errors.Join(err, ln.Close())
		}
	}
	return nil
}

// hook runs a command in the container beside its process.
func (p *Pod) hook(ctx context.Context, c *corev1.Container, h *corev1.LifecycleHandler) error {
	if h == nil {
		return nil
	}
	if h.Exec == nil {
		return fmt.Errorf("container %s: this node runs only exec hooks", c.Name)
	}
	process, err := p.process(ctx, c, c.Name+"-hook", h.Exec.Command)
	if err != nil {
		return err
	}
	if err := process.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return process.Wait(ctx)
}

// process is a command in the container's sandbox.
func (p *Pod) process(ctx context.Context, c *corev1.Container, name string, argv []string) (*kubetest.Process, error) {
	if err := p.node.route(ctx, p); err != nil {
		return nil, err
	}
	s, err := p.sandbox(ctx, c, name)
	if err != nil {
		return nil, err
	}
	for _, arg := range argv {
		s.Argv = append(s.Argv, expand(arg, s.Env))
	}
	if _, err := s.command(); err != nil {
		return nil, err
	}
	log := filepath.Join(p.dir, name+".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return nil, err
	}
	// Whatever user the container has, it may open /dev/stdout again.
	if err := errors.Join(f.Chmod(0o666), f.Close()); err != nil {
		return nil, err
	}
	return kubetest.NewProcess(kubetest.ProcessSpec{
		Name: p.Namespace + "/" + p.Name + " " + name, Log: log, Inside: p.Space.Do,
		Command: func() *exec.Cmd { cmd, _ := s.command(); return cmd }, // it could be made above
	}), nil
}

func (p *Pod) sandbox(ctx context.Context, c *corev1.Container, name string) (*sandbox, error) {
	hosts, err := p.node.etcHosts(ctx)
	if err != nil {
		return nil, err
	}
	s := &sandbox{
		Root:  filepath.Join(p.dir, "root-"+name),
		Files: map[string]string{"/etc/hosts": hosts + p.Address + " " + p.Name + "\n"},
		Mounts: []mount{
			{From: p.node.options.Pilot, At: "/usr/local/bin/pilot", ReadOnly: true},
			{From: p.node.options.Envoy, At: "/usr/local/bin/envoy", ReadOnly: true},
		},
	}
	if err := os.MkdirAll(s.Root, 0o755); err != nil {
		return nil, err
	}
	for _, m := range c.VolumeMounts {
		s.Mounts = append(s.Mounts, mount{From: filepath.Join(p.volumes[m.Name].dir, m.SubPath), At: m.MountPath, ReadOnly: m.ReadOnly})
	}
	if pod := p.Spec.SecurityContext; pod != nil {
		s.setUser(pod.RunAsUser, pod.RunAsGroup)
	}
	if own := c.SecurityContext; own != nil {
		s.setUser(own.RunAsUser, own.RunAsGroup)
		s.ReadOnly = own.ReadOnlyRootFilesystem != nil && *own.ReadOnlyRootFilesystem
	}
	s.Env = append(s.Env, "PATH="+searchPath, "HOME=/", "HOSTNAME="+p.Name,
		"KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443")
	for _, e := range c.Env {
		value := expand(e.Value, s.Env)
		if from := e.ValueFrom; from != nil {
			switch {
			case from.FieldRef != nil:
				value = p.field(from.FieldRef.FieldPath)
			case from.ResourceFieldRef != nil:
				quantity := c.Resources.Limits[corev1.ResourceName(strings.TrimPrefix(from.ResourceFieldRef.Resource, "limits."))]
				value = strconv.FormatInt(quantity.Value(), 10)
			default:
				return nil, fmt.Errorf("container %s: variable %s: this node has no such source", c.Name, e.Name)
			}
		}
		s.Env = append(s.Env, e.Name+"="+value)
	}
	return s, nil
}

func (s *sandbox) setUser(uid, gid *int64) {
	if uid != nil {
		s.UID = int(*uid)
	}
	if gid != nil {
		s.GID = int(*gid)
	}
}

// expand replaces $(NAME) by the variables before.
func expand(text string, env []string) string {
	return regexp.MustCompile(`\$\([A-Za-z_][A-Za-z0-9_]*\)`).ReplaceAllStringFunc(text, func(ref string) string {
		for i := len(env) - 1; i >= 0; i-- {
			if value, is := strings.CutPrefix(env[i], ref[2:len(ref)-1]+"="); is {
				return value
			}
		}
		return ref
	})
}

// field is what the downward API says.
func (p *Pod) field(path string) string {
	switch path {
	case "metadata.name":
		return p.Name
	case "metadata.namespace":
		return p.Namespace
	case "metadata.uid":
		return string(p.UID)
	case "status.podIP":
		return p.Address
	case "status.hostIP":
		return address
	case "spec.nodeName":
		return p.Spec.NodeName
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName
	}
	return ""
}

// probe waits until a probe succeeds; one that is not there does at once.
func (p *Pod) probe(ctx context.Context, c *corev1.Container, probe *corev1.Probe) error {
	if probe == nil {
		return nil
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		return p.node.Network.Dial(ctx, address)
	}}
	client := &http.Client{Transport: transport, Timeout: time.Second}
	process := p.Processes[c.Name]
	err := until(ctx, func(ctx context.Context) (bool, error) {
		err := p.probeOnce(ctx, client, c, probe)
		if err != nil && process != nil && !process.Running() {
			return true, fmt.Errorf("%w; it ended", err)
		}
		return err == nil, err
	})
	if err != nil && process != nil {
		return fmt.Errorf("%w\n%s", err, process.Tail())
	}
	return err
}

func (p *Pod) probeOnce(ctx context.Context, client *http.Client, c *corev1.Container, probe *corev1.Probe) error {
	switch {
	case probe.HTTPGet != nil:
		url := fmt.Sprintf("%s://%s%s", strings.ToLower(string(probe.HTTPGet.Scheme)), net.JoinHostPort(p.Address, portOf(c, probe.HTTPGet.Port)), probe.HTTPGet.Path)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		if resp.StatusCode >= 400 {
			return fmt.Errorf("%s: %s: %s", url, resp.Status, body)
		}
		return nil
	case probe.TCPSocket != nil:
		conn, err := p.node.Network.Dial(ctx, net.JoinHostPort(p.Address, portOf(c, probe.TCPSocket.Port)))
		if err != nil {
			return err
		}
		return conn.Close()
	}
	return fmt.Errorf("container %s: this node has no such probe", c.Name)
}

// portOf is a port's number; it may be a name of the container's.
func portOf(c *corev1.Container, port intstr.IntOrString) string {
	for _, own := range c.Ports {
		if port.Type == intstr.String && own.Name == port.StrVal {
			return strconv.Itoa(int(own.ContainerPort))
		}
	}
	return port.String()
}
