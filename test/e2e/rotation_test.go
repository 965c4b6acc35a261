package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/lab"
)

// connections are replaced often, so that applications meet new certificates:
// an open connection keeps the one that it began with.
const connections = `apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: {name: connections, namespace: bookinfo}
spec:
  host: "*.bookinfo.svc.cluster.local"
  trafficPolicy:
    connectionPool: {http: {maxRequestsPerConnection: 10}}
`

// rotation is one run: how long leaves last, how many of each sidecar there
// must be, and how long it takes at least.
type rotation struct {
	life    time.Duration
	renewed int
	least   time.Duration
}

// planned is a run for every test, or the long one that `make rotation` asks
// for with PILOT_ROTATION=10m.
func planned(t *testing.T) rotation {
	t.Helper()
	text := os.Getenv("PILOT_ROTATION")
	if text == "" {
		return rotation{life: 8 * time.Second, renewed: 5}
	}
	least, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("PILOT_ROTATION: %v", err)
	}
	return rotation{life: 40 * time.Second, renewed: 20, least: least}
}

// Certificates rotate and the root is replaced while all traffic is in mutual
// TLS, streams to the control plane end with their certificates, and no call
// is lost.
func TestRotation(t *testing.T) {
	plan := planned(t)
	dir := bookinfo(t)
	write(t, filepath.Join(dir, "connections.yaml"), connections)
	setMutualTLS(t, dir, true)
	m := startMeshWith(t, lab.Options{Dir: dir, LeafTTL: plan.life})
	m.until("mutual TLS at the start", 10*time.Second, allMutual)
	start := time.Now()
	failed, before := m.sidecarFailures()

	time.Sleep(plan.least / 2)
	m.replaceRoot()
	m.within("enough certificates", plan.life*time.Duration(plan.renewed+2), func() bool { return m.seen(plan.renewed) })
	time.Sleep(time.Until(start.Add(plan.least)))
	m.until("mutual TLS at the end", 5*time.Second, allMutual)
	m.answersAnEdit(dir)

	lost, all := m.sidecarFailures()
	report := m.Report(t.Context())
	t.Logf("%s: %d calls between sidecars, %d lost", time.Since(start).Round(time.Second), all-before, lost-failed)
	for _, c := range report.Certificates {
		t.Logf("%s: %d certificates", c.Workload, c.Latest.Number)
	}
	if lost != failed || report.NACKs != 0 {
		t.Errorf("%d calls lost, %d updates refused", lost-failed, report.NACKs)
	}
	for _, r := range report.Pairs {
		if r.Sidecar && r.Failed > 0 {
			t.Errorf("lost: %s", describe(r))
		}
	}
}

// seen says whether every Envoy has loaded so many renewed certificates, and
// every application has seen them: the caller's serial in its answers changed
// as often.
func (m *mesh) seen(renewed int) bool {
	report := m.Report(m.t.Context())
	for _, c := range report.Certificates {
		if c.Loaded.Number <= renewed {
			return false
		}
	}
	for _, r := range report.Pairs {
		if r.Sidecar && r.Protocol != "tcp" && r.PeerChanges < renewed {
			return false
		}
	}
	return len(report.Certificates) == 5
}

// answersAnEdit proves that all Envoys are connected still, or again.
func (m *mesh) answersAnEdit(dir string) {
	m.t.Helper()
	if err := os.Remove(filepath.Join(dir, "connections.yaml")); err != nil {
		m.t.Fatal(err)
	}
	m.within("an edit in every Envoy", 10*time.Second, func() bool {
		edits := m.Report(m.t.Context()).Edits
		return len(edits) > 0 && edits[len(edits)-1].Complete
	})
	m.assertDumps("after the rotations")
}

// replaceRoot goes from the CA's root to another as the documentation says:
// both trusted, then leaves of the new one, then the old one dropped. Each step
// waits until every Envoy has loaded what the step before wrote.
func (m *mesh) replaceRoot() {
	m.t.Helper()
	next := filepath.Join(m.t.TempDir(), "next")
	if _, err := identity.OpenCA(next, identity.Options{}); err != nil {
		m.t.Fatal(err)
	}
	read := func(dir, name string) []byte {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			m.t.Fatal(err)
		}
		return content
	}
	old, fresh := read(m.CA(), "ca-cert.pem"), read(next, "ca-cert.pem")
	put := func(name string, content []byte) { write(m.t, filepath.Join(m.CA(), name), string(content)) }

	put("root-cert.pem", append(bytes.Clone(old), fresh...))
	m.within("both roots in every Envoy", 15*time.Second, func() bool { return m.all(func(c contexts) bool { return c.roots == 2 }) })
	put("ca-key.pem", read(next, "ca-key.pem"))
	put("ca-cert.pem", fresh)
	m.within("leaves of the new root in every Envoy", 15*time.Second, func() bool { return m.all(func(c contexts) bool { return c.signedBy(fresh) }) })
	put("root-cert.pem", fresh)
	m.within("the new root alone in every Envoy", 15*time.Second, func() bool { return m.all(func(c contexts) bool { return c.roots == 1 }) })
}

// contexts are what all TLS contexts of an Envoy have in common.
type contexts struct {
	roots int               // how many it trusts; 0 if that differs
	leaf  *x509.Certificate // that it shows; nil if it is not the one in the files
}

func (c contexts) signedBy(ca []byte) bool {
	certs, err := identity.ParseCertificates(ca)
	return err == nil && c.leaf != nil && c.leaf.CheckSignatureFrom(certs[0]) == nil
}

// all says whether every Envoy's contexts are as wanted.
func (m *mesh) all(wanted func(contexts) bool) bool {
	m.t.Helper()
	for _, id := range m.Sidecars() {
		body, err := m.Admin(m.t.Context(), id, "/certs")
		if err != nil {
			m.t.Fatal(err)
		}
		node, _ := m.Proxy(id)
		chain, err := os.ReadFile(node.Local.CertChain)
		if err != nil {
			return false // it is replaced just now
		}
		certs, err := identity.ParseCertificates(chain)
		if err != nil {
			m.t.Fatal(err)
		}
		if !wanted(common(m.t, body, certs[0])) {
			return false
		}
	}
	return true
}

// common reads /certs of an Envoy whose files have the leaf.
func common(t *testing.T, body string, leaf *x509.Certificate) contexts {
	t.Helper()
	type cert struct {
		Serial string `json:"serial_number"`
	}
	var list struct {
		Certificates []struct {
			Roots []cert `json:"ca_cert"`
			Chain []cert `json:"cert_chain"`
		}
	}
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Certificates) == 0 {
		return contexts{}
	}
	all := contexts{len(list.Certificates[0].Roots), leaf}
	for _, c := range list.Certificates {
		if len(c.Roots) != all.roots {
			all.roots = 0
		}
		if len(c.Chain) == 0 || strings.TrimLeft(c.Chain[0].Serial, "0") != leaf.SerialNumber.Text(16) {
			all.leaf = nil
		}
	}
	return all
}

// within waits, and fails if it takes longer.
func (m *mesh) within(what string, limit time.Duration, done func() bool) {
	m.t.Helper()
	start := time.Now()
	for ; !done(); time.Sleep(50 * time.Millisecond) {
		if time.Since(start) > limit {
			m.t.Fatalf("%s: not within %s", what, limit)
		}
	}
	m.t.Logf("%s: after %s", what, time.Since(start).Round(100*time.Millisecond))
}
