package agent

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func TestMetricsPort(t *testing.T) {
	var log bytes.Buffer
	m := newMetrics()
	m.expiry.Set(1234)
	m.failures.Inc()
	stop, err := m.serve("127.0.0.1:0", slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	resp, err := http.Get("http://" + regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(log.String()) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"pilot_agent_certificate_expiry_timestamp_seconds 1234\n",
		"pilot_agent_certificates_total 0\n",
		"pilot_agent_failures_total 1\n",
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
}
