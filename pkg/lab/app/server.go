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
	Peer     string `json:"peer,omitempty"` // the caller's SPIFFE URI, as the sidecar reports it
	Protocol string `json:"protocol"`
	Method   string `json:"method"`
	Host     string `json:"host"`
	Path     string `json:"path"`
	Body     string `json:"body,omitempty"`
}

// Server is one application: a name and the ports it serves.
type Server struct {
	name  string
	close []func() error
	done  sync.WaitGroup
}

// NewServer is an application without ports.
func NewServer(name string) *Server { return &Server{name: name} }

// Serve answers on ln in the protocol of the port until Close: HTTP/1.1 and
// HTTP/2 without TLS, gRPC, HTTPS with a certificate of its own, or lines of
// text; a server-first port greets first.
func (s *Server) Serve(ln net.Listener, p model.Protocol) error {
	switch {
	case p == model.HTTPS || p == model.TLS:
		cert, err := ownCertificate(s.name)
		if err != nil {
			return err
		}
		s.serveHTTP(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}))
	case p.IsHTTP():
		s.serveHTTP(ln)
	default:
		s.serveLines(ln, p.ServerFirst())
	}
	return nil
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
	}
	s.close = append(s.close, server.Close)
	s.done.Go(func() { _ = server.Serve(ln) }) // ends with Close
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
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
	echo, err := json.Marshal(Echo{
		Name:     s.name,
		Peer:     peerOf(r.Header.Get("X-Forwarded-Client-Cert")),
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

// peerOf is the URI of the last element of an x-forwarded-client-cert header:
// the caller of the sidecar that is nearest to the application.
func peerOf(xfcc string) string {
	last := xfcc[strings.LastIndex(xfcc, ",")+1:]
	for _, field := range strings.Split(last, ";") {
		if uri, ok := strings.CutPrefix(field, "URI="); ok {
			return strings.Trim(uri, `"`)
		}
	}
	return ""
}

// serveLines answers each line with the name and the line.
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

func (s *Server) echoLines(conn net.Conn, greet bool) {
	if greet {
		if _, err := fmt.Fprintf(conn, "%s ready\n", s.name); err != nil {
			return
		}
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if _, err := fmt.Fprintf(conn, "%s %s\n", s.name, lines.Text()); err != nil {
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
