package kube

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A failed request shows until one is answered; a clock only if it is far off.
func TestLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pokes := 0
		l := &link{poke: func() { pokes++ }}
		at := func(ahead time.Duration) *http.Response {
			return &http.Response{Header: http.Header{"Date": {time.Now().Add(ahead).UTC().Format(http.TimeFormat)}}}
		}
		down := errors.New("refused")
		for i, step := range []struct {
			resp *http.Response
			err  error
			skew time.Duration
			want int
		}{
			{at(0), nil, 0, 0},
			{nil, down, 0, 1},
			{nil, down, 0, 1},
			{at(10 * time.Second), nil, 0, 2},
			{at(time.Hour), nil, time.Hour, 3},
			{at(time.Hour + 3*time.Second), nil, time.Hour, 3},
			{nil, down, time.Hour, 4},
			{at(-time.Hour), nil, -time.Hour, 5},
			{&http.Response{}, nil, 0, 6},
		} {
			l.saw(step.resp, step.err)
			if failed, skew := l.state(); failed != step.err || skew != step.skew || pokes != step.want {
				t.Errorf("step %d: %v, %s, %d pokes; want %+v", i, failed, skew, pokes, step)
			}
		}
	})
}

func TestClockSkewText(t *testing.T) {
	got := clockSkew("https://a", -90*time.Second).String()
	if want := "APIServer https://a: its clock is 1m30s behind pilot's; certificates and leases need clocks that agree"; got != want {
		t.Errorf("got %s", got)
	}
}

// Only what concerns the API as a whole is an outage.
func TestOutage(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for _, c := range []struct {
		err  error
		want string // empty: none
	}{
		{nil, ""},
		{apierrors.NewForbidden(pods, "", errors.New("no")), ""},
		{fmt.Errorf("failed to list: %w", apierrors.NewNotFound(pods, "")), ""},
		{apierrors.NewUnauthorized("Unauthorized"), "is the token or certificate expired, or a clock wrong?"},
		{errors.New("tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time …"), "is a clock wrong?"},
		{apierrors.NewInternalError(errors.New("etcd")), "etcd"},
	} {
		switch got := outage(c.err); {
		case (got != nil) != (c.want != ""):
			t.Errorf("%v: %v", c.err, got)
		case got != nil && !strings.Contains(got.Error(), c.want):
			t.Errorf("%v: %v, want %s", c.err, got, c.want)
		}
	}
}

// client-go's warnings are for debugging, its errors are errors.
func TestQuiet(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(quiet{slog.NewTextHandler(&out, nil)}).With("from", "client-go").WithGroup("g")
	log.Info("one")
	log.Warn("two")
	log.Error("three")
	if got := out.String(); strings.Contains(got, "one") || strings.Contains(got, "two") || !strings.Contains(got, "level=ERROR msg=three from=client-go") {
		t.Errorf("got %s", got)
	}
}
