package agent

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

type metrics struct {
	registry     *prometheus.Registry
	expiry       prometheus.Gauge
	certificates prometheus.Counter
	failures     prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		expiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pilot_agent_certificate_expiry_timestamp_seconds",
			Help: "End of the certificate that Envoy is shown; 0 is none.",
		}),
		certificates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pilot_agent_certificates_total",
			Help: "Certificates that the CA issued and that were written.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pilot_agent_failures_total",
			Help: "Attempts to get a certificate that failed.",
		}),
	}
	m.registry.MustRegister(m.expiry, m.certificates, m.failures)
	return m
}

// serve answers on address until stop; an empty address is none.
func (m *metrics) serve(address string, log *slog.Logger) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s (--metrics-address): %w", address, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	log.Info("metrics", "address", l.Addr().String())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); err != http.ErrServerClosed {
			log.Error("the metrics port failed", "error", err)
		}
	}()
	return func() { _ = server.Close(); <-done }, nil
}
