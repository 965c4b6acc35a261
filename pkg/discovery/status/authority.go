package status

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/secrets"
)

// CA adds the numbers of a CA; of one alone.
func (m *Metrics) CA(ca *identity.CA) { m.registry.MustRegister(authority{ca}) }

// authority asks a CA when it is asked.
type authority struct{ ca *identity.CA }

func (a authority) expiry() *prometheus.Desc {
	return prometheus.NewDesc("pilot_root_certificate_expiry_timestamp_seconds",
		"When the first of the roots that are trusted expires, in seconds since 1970.", nil, nil)
}

func (a authority) requests() *prometheus.Desc {
	return prometheus.NewDesc("pilot_certificates_total",
		"Certificates that the CA issued (OK), refused for what was asked (InvalidArgument), or could not issue (Internal).", []string{"code"}, nil)
}

// Describe implements prometheus.Collector.
func (a authority) Describe(to chan<- *prometheus.Desc) {
	to <- a.expiry()
	to <- a.requests()
}

// Collect implements prometheus.Collector.
func (a authority) Collect(to chan<- prometheus.Metric) {
	roots := a.ca.RootCertificates()
	first := roots[0].NotAfter
	for _, root := range roots[1:] {
		if root.NotAfter.Before(first) {
			first = root.NotAfter
		}
	}
	to <- prometheus.MustNewConstMetric(a.expiry(), prometheus.GaugeValue, float64(first.Unix()))
	issued, refused, failed := a.ca.Counts()
	for code, n := range map[string]uint64{"OK": issued, "InvalidArgument": refused, "Internal": failed} {
		to <- prometheus.MustNewConstMetric(a.requests(), prometheus.CounterValue, float64(n), code)
	}
}

// Secrets adds the numbers of a controller; of one alone.
func (m *Metrics) Secrets(c *secrets.Controller) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pilot_secrets", Help: "Secrets of service accounts that are kept.",
		}, func() float64 { return float64(c.Stats().Secrets) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pilot_secret_certificate_expiry_timestamp_seconds",
			Help: "When the first of the certificates in Secrets expires, in seconds since 1970; 0 without any.",
		}, func() float64 { return seconds(c.Stats().FirstExpiry) }))
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}
