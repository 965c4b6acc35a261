package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/inject/capture"
	"github.com/meshpilot/pilot/pkg/lab/app"
	"github.com/meshpilot/pilot/pkg/lab/envoy"
	"github.com/meshpilot/pilot/pkg/lab/netns"
	"github.com/meshpilot/pilot/pkg/lab/relay"
	"github.com/meshpilot/pilot/pkg/lab/rotation"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/bootstrap"
)

// defaultHTTPProxy is the port of the explicit HTTP proxy where the mesh
// configuration names none (spec xds.md 4).
const defaultHTTPProxy = 15002

// cell is one workload that runs: its application and, if it has one, its
// Envoy; with capture in a network namespace of its own.
type cell struct {
	workload
	space  *netns.Space // nil without capture
	server *app.Server
	served map[uint16]bool
	proxy  string // the explicit HTTP proxy that the application uses; empty with capture
	node   model.Proxy
	leaves atomic.Pointer[rotation.Leaves] // nil without a sidecar
	envoy  *envoy.Process                  // nil without a sidecar
	admin  *envoy.Admin
	relay  *relay.Relay // to the control plane, in a drill
}

// setting is what all cells of a lab share.
type setting struct {
	dir       string // of this run
	binary    string // Envoy
	discovery string // host:port
	ca        *identity.CA
	network   *netns.Network   // nil without capture
	appCert   *tls.Certificate // of the applications; nil: each has its own
	renewer   *rotation.Renewer
	relays    bool // a drill may disturb what sidecars hear
}

// newCell prepares a workload and starts its application.
func (s *setting) newCell(w workload, mesh *model.Mesh) (*cell, error) {
	c := &cell{workload: w, server: app.NewServer(w.id.Name, s.appCert), served: map[uint16]bool{}}
	if s.network != nil {
		space, err := s.network.Host(w.address)
		if err != nil {
			return nil, err
		}
		c.space = space
		if w.sidecar {
			if err := space.Redirect(capture.Everything(mesh.ListenPort, mesh.InboundListenPort)); err != nil {
				return nil, err
			}
		}
	}
	if err := s.prepareSidecar(c, mesh); err != nil {
		return nil, err
	}
	return c, c.serve(w.ports)
}

// is says whether the cell already runs w, up to its ports.
func (c *cell) is(w workload) bool {
	return c.id == w.id && c.address == w.address && c.app == w.app && c.uri == w.uri && c.sidecar == w.sidecar
}

// serve makes the application listen on those ports that it does not yet.
func (c *cell) serve(ports []port) error {
	for _, p := range ports {
		if c.served[p.number] {
			continue
		}
		ln, err := c.listen(join(c.app.String(), p.number))
		if err != nil {
			return inUse(err, "application of "+c.id.String())
		}
		if p.only {
			err = c.server.ServeTLS(ln)
		} else {
			err = c.server.Serve(ln, p.protocol)
		}
		if err != nil {
			return errors.Join(err, ln.Close())
		}
		c.served[p.number] = true
	}
	c.ports = ports
	return nil
}

func (c *cell) listen(address string) (net.Listener, error) {
	if c.space != nil {
		return c.space.Listen(address)
	}
	return listenFree(address)
}

// listenFree waits a moment for a port in use: an Envoy of a killed run keeps
// its ports for a moment after it is no longer seen.
func listenFree(address string) (net.Listener, error) {
	const patience, pause = 2 * time.Second, 50 * time.Millisecond
	for start := time.Now(); ; time.Sleep(pause) {
		ln, err := net.Listen("tcp", address)
		if !errors.Is(err, syscall.EADDRINUSE) || time.Since(start) > patience {
			return ln, err
		}
	}
}

// dial opens a connection as the application would.
func (c *cell) dial(ctx context.Context, address string) (net.Conn, error) {
	if c.space != nil {
		return c.space.Dial(ctx, address)
	}
	var d net.Dialer
	if !c.sidecar { // called by its own address, so that evidence names it
		d.LocalAddr = &net.TCPAddr{IP: c.address.AsSlice()}
	}
	return d.DialContext(ctx, "tcp", address)
}

// prepareSidecar decides where the sidecar finds things.
func (s *setting) prepareSidecar(c *cell, mesh *model.Mesh) error {
	if !c.sidecar {
		return nil
	}
	certs := filepath.Join(s.cellDir(c), "certs")
	capture := model.CaptureNone
	adminHost := c.address
	if c.space != nil {
		capture = model.CaptureRedirect
		adminHost = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	} else {
		port := mesh.HTTPPort
		if port == 0 {
			port = defaultHTTPProxy
		}
		c.proxy = join(c.address.String(), port)
	}
	c.node = model.Proxy{
		ID: c.id, Type: model.Sidecar, Address: c.address.String(), Capture: &capture,
		Local: model.Local{
			CertChain: filepath.Join(certs, identity.CertChainFile),
			Key:       filepath.Join(certs, identity.KeyFile),
			RootCert:  filepath.Join(certs, identity.RootCertFile),
		},
	}
	if c.space == nil {
		c.node.Local.AppAddress = c.app.String()
	}
	c.admin = envoy.NewAdmin(join(adminHost.String(), mesh.AdminPort), c.dial)
	return s.freePorts(c, mesh)
}

// freePorts fails if another program has a port that the sidecar needs: Envoy
// would share it without a word.
func (s *setting) freePorts(c *cell, mesh *model.Mesh) error {
	if c.space != nil {
		return nil // nobody else is in there
	}
	addresses := []string{c.proxy, join(c.address.String(), mesh.AdminPort)}
	for _, p := range c.ports {
		addresses = append(addresses, join(c.address.String(), p.number))
	}
	for _, address := range addresses {
		if err := free(address); err != nil {
			return inUse(err, "sidecar of "+c.id.String())
		}
	}
	return nil
}

// free fails if the address stays in use.
func free(address string) error {
	ln, err := listenFree(address)
	if err != nil {
		return err
	}
	return ln.Close()
}

// inUse says what to do about a port that another program has.
func inUse(err error, who string) error {
	var op *net.OpError
	if errors.Is(err, syscall.EADDRINUSE) && errors.As(err, &op) {
		return fmt.Errorf("%s is in use by another program, but the %s needs it: stop that program (another lab?), or change the address or port", op.Addr, who)
	}
	return fmt.Errorf("%s: %w", who, err)
}

func (s *setting) cellDir(c *cell) string {
	return filepath.Join(s.dir, c.id.Namespace+"."+c.id.Name)
}

// startSidecar issues the certificate, writes the bootstrap, starts Envoy and
// waits until it is live.
func (s *setting) startSidecar(ctx context.Context, c *cell, mesh *model.Mesh) error {
	if !c.sidecar {
		return nil
	}
	if err := s.certify(c); err != nil {
		return err
	}
	discovery := s.discovery
	if s.relays {
		var err error
		if c.relay, discovery, err = s.newRelay(c, mesh); err != nil {
			return err
		}
	}
	dir := s.cellDir(c)
	options := bootstrap.Options{
		Proxy: c.node, Mesh: mesh, DiscoveryAddress: discovery, ConfigPath: dir, StatsInterval: time.Second,
	}
	if c.space == nil {
		options.AdminAddress = c.address.String()
	}
	files := bootstrap.SecretFiles(options)
	files[s.bootstrapFile(c)] = bootstrap.Config(options)
	for path, content := range files {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	if err := s.startEnvoy(c, mesh); err != nil {
		return err
	}
	return c.envoy.WaitLive(ctx, c.admin)
}

// certify puts the sidecar's certificate into its files.
func (s *setting) certify(c *cell) error {
	leaves, err := s.renewer.Add(identity.Dir{Path: filepath.Dir(c.node.Local.Key), UID: s.uid(c)}, c.uri)
	if err == nil {
		c.leaves.Store(leaves)
	}
	return err
}

// uid is the user that the Envoy runs as; 0: this one.
func (s *setting) uid(c *cell) int {
	if c.space == nil {
		return 0
	}
	return netns.ProxyUID
}

func (s *setting) bootstrapFile(c *cell) string { return filepath.Join(s.cellDir(c), "envoy.json") }

func (s *setting) startEnvoy(c *cell, mesh *model.Mesh) error {
	args := append(bootstrap.EnvoyArgs(mesh), "-c", s.bootstrapFile(c), "--disable-hot-restart", "--log-level", "warning")
	if mesh.Concurrency == 0 {
		args = append(args, "--concurrency", "1") // many Envoys share the cores
	}
	started, err := envoy.Start(envoy.Spec{
		Name: c.id.String(), Binary: s.binary, Args: args, Dir: s.cellDir(c), Space: c.space, UID: s.uid(c),
	})
	if err == nil {
		c.envoy = started
	}
	return err
}

// stop ends the sidecar, then the application, and lets the network go.
func (c *cell) stop() error {
	if c.envoy != nil {
		c.envoy.Stop()
	}
	err := c.server.Close()
	if c.relay != nil {
		err = errors.Join(err, c.relay.Close())
	}
	if c.space != nil {
		err = errors.Join(err, c.space.Close())
	}
	return err
}
