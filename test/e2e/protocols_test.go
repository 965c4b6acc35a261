package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/lab"
)

// Every protocol, a service with and without sidecars behind it, a headless
// one and one without sidecars: all calls of callers with a sidecar work in
// every mode, as far in mutual TLS as the endpoints take it.
func TestProtocols(t *testing.T) {
	for name, capture := range map[string]bool{"proxy": false, "capture": true} {
		t.Run(name, func(t *testing.T) {
			dir := config(t, "testdata/protocols")
			m := startMesh(t, dir, capture)
			m.until("plaintext at the start", 5*time.Second, func(r lab.Row) bool { return plaintext(r) && r.Requests >= 10 })
			m.assertDumps("at the start")
			m.change("authPolicy on", func(r lab.Row) bool { return asFarAsPossible(r, capture) }, func() { setMutualTLS(t, dir, true) })
			m.change("authPolicy off", func(r lab.Row) bool { return !r.Sidecar || plaintext(r) }, func() { setMutualTLS(t, dir, false) })
			if n := m.Report(t.Context()).NACKs; n != 0 {
				t.Errorf("the Envoys refused %d updates", n)
			}
		})
	}
}

func asFarAsPossible(r lab.Row, capture bool) bool {
	service, _, _ := strings.Cut(r.Callee, ".")
	switch {
	case !r.Sidecar:
		// A silent caller of a server-first port waits until it is closed.
		return service == "plain" && plaintext(r) || r.FailedNow > 0 || service == "mixed" || r.Protocol == "mysql"
	case r.FailedNow > 0:
		return false
	case service == "mixed":
		return r.Now > 0 && r.Now < 1
	case service == "plain":
		return r.Now == 0
	case service == "headless" && capture && r.Caller == "shop/caller":
		return true // to itself by its own address, which no sidecar sees
	}
	return r.Now == 1
}

// Workloads and services may come and go while the mesh runs.
func TestWorkloadsComeAndGo(t *testing.T) {
	const extra = `apiVersion: v1
kind: Service
metadata: {name: extra, namespace: bookinfo}
spec:
  clusterIP: 10.96.0.40
  selector: {app: extra}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: extra, namespace: bookinfo, labels: {app: extra, security.istio.io/tlsMode: istio}}
spec: {containers: [{name: app}]}
status: {podIP: 127.10.0.40}
`
	for name, capture := range map[string]bool{"proxy": false, "capture": true} {
		t.Run(name, func(t *testing.T) {
			dir := bookinfo(t)
			m := startMesh(t, dir, capture)
			file := filepath.Join(dir, "extra.yaml")
			for range 2 { // the address is free again
				write(t, file, strings.ReplaceAll(extra, "127.10.0.", network()+"."))
				m.eventually("the workload calls and is called", func() bool {
					caller, callee := false, false
					for _, r := range m.Rows() {
						caller = caller || r.Caller == "bookinfo/extra" && r.Requests > 3
						callee = callee || strings.HasPrefix(r.Callee, "extra.") && r.Requests > 3
					}
					return caller && callee
				})
				m.assertDumps("with the workload")
				write(t, file, "# gone\n")
				m.eventually("the workload is gone", func() bool { return len(m.Sidecars()) == 5 && len(m.Rows()) == 36 })
				m.assertDumps("without the workload")
			}
			if failed, of := m.sidecarFailures(); failed != 0 {
				t.Errorf("%d of %d calls failed", failed, of)
			}
		})
	}
}
