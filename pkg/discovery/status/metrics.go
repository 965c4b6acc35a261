package status

import (
	"net/http"
	"time"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
)

// Metrics are the control plane's numbers in a registry of their own. Safe for
// concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	Proxies   prometheus.Gauge
	Pushes    *prometheus.CounterVec // by type
	Bytes     *prometheus.CounterVec // by type
	Resources *prometheus.CounterVec // by type
	ACKs      *prometheus.CounterVec // by type
	NACKs     *prometheus.CounterVec // by type
	Ignored   *prometheus.CounterVec // by type
	Refused   *prometheus.CounterVec // by gRPC code, or CertificateExpired
	// RefusedConnections are by reason: handshake, strangers.
	RefusedConnections  *prometheus.CounterVec
	CertificateRequests *prometheus.CounterVec // by gRPC code
	Edits               prometheus.Counter
	LastACK             *prometheus.HistogramVec // by kind of change
	Work                *prometheus.HistogramVec // by step: compile, build, translate, apply, lint
	Halves              *prometheus.GaugeVec     // by side: client, server
	Cache               *prometheus.CounterVec   // by result: hit, miss

	Records          *prometheus.CounterVec // of evidence, by result: read, excess
	PlaintextRefused *prometheus.CounterVec // by namespace, group, port

	RolloutTime  *prometheus.HistogramVec // by mode
	RolloutSteps *prometheus.CounterVec   // by phase

	targets  *prometheus.GaugeVec // by phase
	underWay prometheus.Gauge
	held     prometheus.Gauge
	problems *prometheus.GaugeVec
	expiry   prometheus.Gauge
}

// NewMetrics makes and registers all metrics.
func NewMetrics() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.Proxies = m.gauge("pilot_connected_proxies", "Proxies with an open xDS stream.")
	m.Pushes = m.counters("pilot_pushes_total", "xDS responses sent.", "type")
	m.Bytes = m.counters("pilot_push_bytes_total", "Bytes of xDS responses sent, before TLS.", "type")
	m.Resources = m.counters("pilot_pushed_resources_total", "Resources in the xDS responses sent.", "type")
	m.ACKs = m.counters("pilot_acks_total", "Responses that proxies accepted.", "type")
	m.NACKs = m.counters("pilot_nacks_total", "Responses that proxies refused.", "type")
	m.Ignored = m.counters("pilot_ignored_requests_total", "Requests that answer an older response than the last one.", "type")
	m.Refused = m.counters("pilot_refused_streams_total", "xDS streams that were refused or ended by the control plane.", "code")
	m.RefusedConnections = m.counters("pilot_refused_connections_total", "Connections to the xDS port that failed in the handshake, or were too many without a certificate of the mesh.", "reason")
	m.CertificateRequests = m.counters("pilot_certificate_requests_total", "Certificate requests by how they ended; OK is a certificate, ResourceExhausted a rate limit.", "code")
	m.Edits = m.counter("pilot_edits_total", "Changes of the configuration that were read.")
	m.LastACK = m.histograms("pilot_edit_to_last_ack_seconds", "Time from an edit until the last proxy that it concerned had accepted it; steps of a rollout that follow do not count.", "kind")
	m.RolloutTime = m.histograms("pilot_rollout_seconds", "Time from when another mode was wanted of a target until it was in force.", "mode")
	m.RolloutSteps = m.counters("pilot_rollout_steps_total", "Steps of targets, by the phase that they entered.", "phase")
	m.targets = m.gauges("pilot_rollout_targets", "Targets (ports of workload groups), by the phase in force.", "phase")
	m.underWay = m.gauge("pilot_rollout_targets_under_way", "Targets that are not where their mode ends.")
	m.held = m.gauge("pilot_rollout_targets_held", "Targets that wait past their deadline, or were stopped by failures.")
	m.Work = m.histograms("pilot_work_seconds", "Time of the steps from an edit to its configuration.", "step")
	m.Halves = m.gauges("pilot_halves", "Distinct configurations in use: client halves are shared by a namespace, server halves by a workload.", "side")
	m.Cache = m.counters("pilot_cached_halves_total", "Changed views whose configuration was remembered (hit) or translated (miss).", "result")
	m.Records = m.counters("pilot_evidence_records_total", "Records of traffic that is not mutual TLS: read, or in excess of what a proxy may send.", "result")
	m.PlaintextRefused = m.counters("pilot_plaintext_refused_total", "Plaintext requests (HTTP) and connections (TCP) that sidecars refused; port 0 is all that nothing names.", "namespace", "group", "port")
	m.problems = m.gauges("pilot_problems", "Problems in force.", "code", "severity")
	m.expiry = m.gauge("pilot_server_certificate_expiry_timestamp_seconds", "When the certificate of the xDS port expires, in seconds since 1970; 0 without TLS.")
	m.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// A counter that does not exist yet is not zero for an alert.
	m.Records.WithLabelValues("read")
	m.Records.WithLabelValues("excess")
	for _, perType := range []*prometheus.CounterVec{m.Pushes, m.Bytes, m.Resources, m.ACKs, m.NACKs, m.Ignored} {
		for _, name := range []string{"SDS", "CDS", "EDS", "LDS", "RDS"} {
			perType.WithLabelValues(name)
		}
	}
	for _, code := range []codes.Code{codes.OK, codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.ResourceExhausted, codes.Internal} {
		m.CertificateRequests.WithLabelValues(code.String())
	}
	for phase := range model.PhaseStrict + 1 {
		m.RolloutSteps.WithLabelValues(phase.String())
		m.targets.WithLabelValues(phase.String())
	}
	for _, reason := range []string{"handshake", "strangers"} {
		m.RefusedConnections.WithLabelValues(reason)
	}
	return m
}

// EvidenceStreams registers the number of open streams of evidence.
func (m *Metrics) EvidenceStreams(count func() (logs, stats int)) {
	for kind, of := range map[string]func() int{
		"logs":  func() int { n, _ := count(); return n },
		"stats": func() int { _, n := count(); return n },
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pilot_evidence_streams", Help: "Open streams on which sidecars tell of their traffic.", ConstLabels: prometheus.Labels{"kind": kind},
		}, func() float64 { return float64(of()) }))
	}
}

// Handler serves the metrics in Prometheus' text format.
func (m *Metrics) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry}))
	return mux
}

// Registry is where everything is registered, for tests that read numbers.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// CertificateExpires states when the certificate of the xDS port expires.
func (m *Metrics) CertificateExpires(at time.Time) { m.expiry.Set(float64(at.Unix())) }

// TypeName is the short name of an xDS type: CDS for clusters, and so on.
func TypeName(typeURL string) string {
	switch typeURL {
	case translate.SecretType:
		return "SDS"
	case translate.ClusterType:
		return "CDS"
	case translate.EndpointType:
		return "EDS"
	case translate.ListenerType:
		return "LDS"
	case translate.RouteType:
		return "RDS"
	default:
		return "other"
	}
}

func (m *Metrics) setProblems(list []Finding) {
	type label struct {
		code     string
		severity meshconfig.Severity
	}
	counts := map[label]int{}
	for _, f := range list {
		counts[label{f.Code, f.Severity}]++
	}
	m.problems.Reset()
	for l, n := range counts {
		m.problems.WithLabelValues(l.code, l.severity.String()).Set(float64(n))
	}
}

// SetTargets counts the targets.
func (m *Metrics) SetTargets(list []Rollout) {
	counts := targetCounts{Phases: map[string]int{}}
	for _, r := range list {
		counts.count(r)
	}
	for phase := range model.PhaseStrict + 1 {
		m.targets.WithLabelValues(phase.String()).Set(float64(counts.Phases[phase.String()]))
	}
	m.underWay.Set(float64(counts.UnderWay))
	m.held.Set(float64(counts.Held))
}

func buckets() []float64 {
	return []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 180, 600}
}

func (m *Metrics) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	m.registry.MustRegister(g)
	return g
}

func (m *Metrics) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(g)
	return g
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) histograms(name, help string, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets()}, labels)
	m.registry.MustRegister(h)
	return h
}
