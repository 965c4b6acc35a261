// Package app is the lab's built-in application: a server behind each sidecar
// that says who it is and who its sidecar says is calling, and the client that
// calls it through a sidecar or without one. Every call is made once: what
// fails is counted, never tried again.
package app

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/model"
)

// Echo is what an application answers: its name, and what it received.
type Echo struct {
	Name     string `json:"name"`
	Peer     string `json:"peer,omitempty"`     // the caller's SPIFFE URI, as the sidecar reports it
	PeerHash string `json:"peerHash,omitempty"` // SHA-256 of the caller's certificate, as the sidecar reports it
	Protocol string `json:"protocol"`
	Method   string `json:"method"`
	Host     string `json:"host"`
	Path     string `json:"path"`
	Body     string `json:"body,omitempty"`
	TLS      int    `json:"tls,omitempty"` // layers of TLS that arrived at the application itself
}

// Server is one application: a name and the ports it serves.
type Server struct {
	name  string
	cert  *tls.Certificate
	close []func() error
	done  sync.WaitGroup
}

// NewServer is an application without ports. In TLS of its own it presents
// cert or, if that is nil, one for each port that it signs itself.
func NewServer(name string, cert *tls.Certificate) *Server { return &Server{name: name, cert: cert} }

// Serve answers on ln in the protocol of the port until Close: HTTP/1.1,
// HTTP/2 and gRPC, or lines of text; a server-first port greets first. All
// others answer with TLS, by a certificate of their own, if the caller begins
// with it, and tell so.
func (s *Server) Serve(ln net.Listener, p model.Protocol) error {
	if !p.ServerFirst() {
		config, err := s.tlsConfig()
		if err != nil {
			return err
		}
		ln = layeredListener{ln, config, false}
	}
	if p.IsHTTP() || p == model.HTTPS || p == model.TLS {
		s.serveHTTP(ln)
	} else {
		s.serveLines(ln, p.ServerFirst())
	}
	return nil
}

// ServeTLS answers HTTP in TLS on ln until Close, and closes all connections
// that begin with anything else.
func (s *Server) ServeTLS(ln net.Listener) error {
	config, err := s.tlsConfig()
	if err != nil {
		return err
	}
	s.serveHTTP(layeredListener{ln, config, true})
	return nil
}

func (s *Server) tlsConfig() (*tls.Config, error) {
	cert := s.cert
	if cert == nil {
		own, err := ownCertificate(s.name)
		if err != nil {
			return nil, err
		}
		cert = &own
	}
	return &tls.Config{
		Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
	}, nil
}

// Close closes all ports and connections, and waits for what served them.
func (s *Server) Close() error {
	var errs []error
	for _, f := range s.close {
		errs = append(errs, f())
	}
	s.done.Wait()
	return errors.Join(errs...)
}

func (s *Server) serveHTTP(ln net.Listener) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler: http.HandlerFunc(s.answer), Protocols: protocols,
		ErrorLog: log.New(io.Discard, "", 0), // what fails, the caller counts
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
	}
	s.close = append(s.close, server.Close)
	s.done.Go(func() { _ = server.Serve(ln) }) // ends with Close
}

type connKey struct{}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, streamPath) {
		echoStream(w, r)
		return
	}
	if !waitAsAsked(r) {
		return // the caller is gone
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err != nil {
		return // the caller is gone
	}
	grpc := strings.HasPrefix(r.Header.Get("Content-Type"), grpcContentType)
	if grpc {
		if body, err = unframe(body); err != nil {
			refuseGRPC(w, err)
			return
		}
	}
	xfcc := r.Header.Get("X-Forwarded-Client-Cert")
	conn, _ := r.Context().Value(connKey{}).(net.Conn)
	echo, err := json.Marshal(Echo{
		TLS:      layersOf(conn),
		Name:     s.name,
		Peer:     peerOf(xfcc, "URI"),
		PeerHash: peerOf(xfcc, "Hash"),
		Protocol: r.Proto, Method: r.Method, Host: r.Host, Path: r.URL.Path, Body: string(body),
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if grpc {
		answerGRPC(w, echo)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(echo)
}

// peerOf is a field of the last element of an x-forwarded-client-cert header:
// the caller of the sidecar that is nearest to the application.
func peerOf(xfcc, name string) string {
	last := xfcc[strings.LastIndex(xfcc, ",")+1:]
	for _, field := range strings.Split(last, ";") {
		if value, ok := strings.CutPrefix(field, name+"="); ok {
			return strings.Trim(value, `"`)
		}
	}
	return ""
}

// serveLines answers each line with the name, a mark for each layer of TLS
// that arrived, and the line.
func (s *Server) serveLines(ln net.Listener, greet bool) {
	ctx, cancel := context.WithCancel(context.Background())
	s.close = append(s.close, func() error { cancel(); return ln.Close() })
	s.done.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.done.Go(func() {
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				defer stop()
				defer conn.Close()
				s.echoLines(conn, greet)
			})
		}
	})
}

// tlsMark follows the name; a name never has it.
const tlsMark = "+tls"

func (s *Server) echoLines(conn net.Conn, greet bool) {
	if greet {
		if _, err := fmt.Fprintf(conn, "%s ready\n", s.name); err != nil {
			return
		}
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		name := s.name + strings.Repeat(tlsMark, layersOf(conn))
		if _, err := fmt.Fprintf(conn, "%s %s\n", name, lines.Text()); err != nil {
			return
		}
	}
}

func ownCertificate(name string) (tls.Certificate, error) {
	ca, err := identity.NewCA(name, identity.DefaultLeafTTL)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := ca.Issue(identity.URI("application.example", "own", "self-signed"), identity.DefaultLeafTTL)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(pair.CertChain, pair.Key)
}
