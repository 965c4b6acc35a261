package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/translate"
)

// description is what the proxies' process has to know.
type description struct {
	Address, Certificates string
	Services, Proxies     int
	Secure                bool
}

// answer is what the proxies' process says after each command.
type answer struct {
	Wall             time.Duration
	Bytes, Resources int
	Error            string
}

// children is the process with the proxies, seen from the server's.
type children struct {
	process *exec.Cmd
	in      *os.File
	out     *json.Decoder
	proxies int
	secure  bool
}

func startChildren(d description) (*children, error) {
	text, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	c := &children{process: exec.Command(os.Args[0], "-child", string(text)), proxies: d.Proxies, secure: d.Secure}
	c.process.Stderr = os.Stderr
	stdin, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.process.Stdin, c.in = stdin, in
	out, err := c.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = json.NewDecoder(out)
	return c, c.process.Start()
}

func (c *children) send(command string) (answer, error) {
	var a answer
	if _, err := fmt.Fprintln(c.in, command); err != nil {
		return a, err
	}
	if err := c.out.Decode(&a); err != nil {
		return a, fmt.Errorf("%s: %w", command, err)
	}
	if a.Error != "" {
		return a, fmt.Errorf("%s: %s", command, a.Error)
	}
	return a, nil
}

// do carries out commands and gives how long the last one took.
func (c *children) do(commands ...string) (wall time.Duration, err error) {
	for _, command := range commands {
		a, err := c.send(command)
		if err != nil {
			return 0, err
		}
		wall = a.Wall
	}
	return wall, nil
}

func (c *children) count() (answer, error) { return c.send("count") }

func (c *children) stop() {
	c.in.Close()
	if err := c.process.Wait(); err != nil {
		fmt.Fprintln(os.Stderr, "push: proxies:", err)
	}
}

// fleet is the proxies, in their own process.
type fleet struct {
	description
	names   map[string][]string // by type URL, that proxies subscribe to
	proxies []*proxy

	bytes, resources atomic.Int64
	ready            sync.WaitGroup
	recording        bool // proxies note what they hold
}

func runProxies(text string) error {
	f := &fleet{}
	if err := json.Unmarshal([]byte(text), &f.description); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		begin := time.Now()
		err := f.run(commands.Text())
		a := answer{Wall: time.Since(begin), Bytes: int(f.bytes.Load()), Resources: int(f.resources.Load())}
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return commands.Err()
}

func (f *fleet) run(command string) error {
	if strings.HasPrefix(command, "floor ") {
		return f.floor(command)
	}
	switch command {
	case "count":
		return nil
	case "learn":
		return f.learn()
	case "tell":
		return f.tell()
	case "connect":
		return f.connect(false)
	case "record":
		f.recording = true
		return f.connect(false)
	case "reconnect":
		f.recording = false
		return f.connect(true)
	case "disconnect":
		for _, p := range f.proxies {
			p.close()
		}
		time.Sleep(2 * time.Second) // for the server to notice
		return nil
	}
	return errors.New("unknown command")
}

// connect connects all proxies and waits until each has its configuration.
func (f *fleet) connect(again bool) error {
	failed := make(chan error, len(f.proxies))
	dialing := make(chan struct{}, 64)
	for _, p := range f.proxies {
		f.ready.Add(1)
		go func() {
			dialing <- struct{}{}
			err := p.connect(again)
			<-dialing
			if err != nil {
				failed <- err
				f.ready.Done()
				return
			}
			p.read()
		}()
	}
	done := make(chan struct{})
	go func() { f.ready.Wait(); close(done) }()
	select {
	case err := <-failed:
		return err
	case <-done:
	case <-time.After(2 * time.Minute):
		return errors.New("not all proxies have their configuration after 2 minutes")
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// learn makes the proxies. It asks the server for what they subscribe to, as
// a whole proxy does.
func (f *fleet) learn() error {
	creds := insecure.NewCredentials()
	if f.Secure {
		config, err := f.tls(0)
		if err != nil {
			return err
		}
		creds = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient(f.Address, grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return err
	}
	defer conn.Close()
	e, err := fakeenvoy.Connect(context.Background(), conn, fakeenvoy.Options{Node: &corev3.Node{Id: f.node(0)}})
	if err != nil {
		return err
	}
	for range 300 {
		time.Sleep(100 * time.Millisecond)
		if len(e.Names(translate.RouteType)) > 1 && len(e.Names(translate.SecretType)) == 2 {
			break
		}
	}
	time.Sleep(time.Second)
	if e.Err() != nil {
		return e.Err()
	}
	f.names = map[string][]string{}
	for _, url := range []string{translate.EndpointType, translate.RouteType, translate.SecretType} {
		f.names[url] = e.Names(url)
	}
	if len(f.names[translate.EndpointType]) < f.Services || len(f.names[translate.SecretType]) != 2 {
		return fmt.Errorf("the first proxy got %d endpoints, %d secrets", len(f.names[translate.EndpointType]), len(f.names[translate.SecretType]))
	}
	e.Close()
	for i := range f.Proxies {
		p, err := f.newProxy(i)
		if err != nil {
			return err
		}
		f.proxies = append(f.proxies, p)
	}
	return nil
}

func (f *fleet) node(i int) string {
	service, replica := i%f.Services, i/f.Services
	namespace := service % namespaces
	return fmt.Sprintf("sidecar~10.%d.%d.%d~svc-%d-%d.ns-%d~ns-%d.svc.cluster.local", 1+i>>16, i>>8&255, i&255, service, replica, namespace, namespace)
}

// writeCertificates makes a certificate for each service's account.
func writeCertificates(ca *identity.CA, dir string, services int) error {
	for i := range services {
		pair, err := ca.Issue(identity.URI("cluster.local", fmt.Sprintf("ns-%d", i%namespaces), fmt.Sprintf("svc-%d", i)), time.Hour)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), append(pair.CertChain, pair.Key...), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// tls is the client side of proxy i. It does not verify the server, whose
// cost is what is measured.
func (f *fleet) tls(i int) (*tls.Config, error) {
	both := filepath.Join(f.Certificates, strconv.Itoa(i%f.Services))
	certificate, err := tls.LoadX509KeyPair(both, both)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{certificate}, InsecureSkipVerify: true, NextProtos: []string{"h2"}}, nil
}
