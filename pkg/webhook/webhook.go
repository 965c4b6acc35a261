// Package webhook serves Kubernetes' admission webhooks over HTTPS: one adds
// sidecars to pods, the other refuses what `pilot validate` refuses. It asks
// nobody anything; what it must know of the mesh it is given.
package webhook

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"syscall"
	"time"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/meshpilot/pilot/pkg/inject"
	"github.com/meshpilot/pilot/pkg/meshconfig"
)

// Paths of the webhooks. Which pods are asked about, the API server knows:
// those of labelled namespaces, and those that ask for a sidecar themselves.
const (
	InjectPath   = "/inject"
	ValidatePath = "/validate"
)

const (
	// largestBody has room for an object and its predecessor, which are 3 MB at
	// most each.
	largestBody = 8 << 20
	// maxReviews bounds the memory that callers can take.
	maxReviews = 16
	// callTime is more than the API server waits.
	callTime = 5 * time.Second
	stopTime = 2 * time.Second
)

// Options say what the webhooks know, and where they are.
type Options struct {
	Address string // usually :15017
	// Certificate is shown to callers.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Mesh is all objects of this moment, as they are in force; false while
	// they are not known.
	Mesh func() (meshconfig.Bundle, bool)
	// Settings are those of sidecars; false while they are not known.
	Settings func() (inject.Settings, bool)
	Domain   string       // DNS suffix of services
	Log      *slog.Logger // nil is slog.Default
}

// Server is the webhooks, their port open.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Listen opens the port. An error names the flag of pilot serve that chooses
// another.
func Listen(o Options) (*Server, error) {
	o.Log = cmp.Or(o.Log, slog.Default())
	l, err := net.Listen("tcp", o.Address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use by another program; stop it, or choose another address with --webhook-address: %w", o.Address, err)
	case err != nil:
		return nil, fmt.Errorf("cannot listen on %s (--webhook-address): %w", o.Address, err)
	}
	return &Server{listener: l, http: &http.Server{
		Handler:           Handler(o),
		TLSConfig:         &tls.Config{GetCertificate: o.Certificate, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: callTime, ReadTimeout: callTime, WriteTimeout: 2 * callTime, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), // strangers fill it
	}}, nil
}

// Address is where the server listens.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		if s.http.Shutdown(late) != nil {
			_ = s.http.Close() // what is still open is cut
		}
	}()
	err := s.http.ServeTLS(s.listener, "", "")
	if errors.Is(err, http.ErrServerClosed) {
		<-stopped
		return nil
	}
	return fmt.Errorf("webhooks: %w", err)
}

// Handler answers AdmissionReviews at the paths of the webhooks.
func Handler(o Options) http.Handler {
	v := &validator{options: o, lint: make(chan struct{}, 1)}
	slots := make(chan struct{}, maxReviews)
	mux := http.NewServeMux()
	for path, answer := range map[string]reviewer{
		InjectPath:   func(_ context.Context, r *admissionv1.AdmissionRequest) *answer { return injected(o, r) },
		ValidatePath: v.review,
	} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
				serve(w, r, answer)
			case <-r.Context().Done():
			}
		})
	}
	return mux
}

type answer = admissionv1.AdmissionResponse

// reviewer answers one request; nil: it cannot yet.
type reviewer func(context.Context, *admissionv1.AdmissionRequest) *answer

func serve(w http.ResponseWriter, r *http.Request, review reviewer) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		http.Error(w, "want application/json", http.StatusUnsupportedMediaType)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, largestBody))
	if err != nil {
		status := http.StatusBadRequest
		if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, err.Error(), status)
		return
	}
	var in admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &in); err != nil || in.Request == nil || in.APIVersion != "admission.k8s.io/v1" {
		http.Error(w, "want an AdmissionReview of admission.k8s.io/v1 with a request", http.StatusBadRequest)
		return
	}
	response := review(r.Context(), in.Request)
	if response == nil {
		http.Error(w, "the configuration of the mesh is not read yet", http.StatusServiceUnavailable)
		return
	}
	out := admissionv1.AdmissionReview{TypeMeta: in.TypeMeta, Response: response}
	out.Response.UID = in.Request.UID
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // the caller is gone otherwise
}
