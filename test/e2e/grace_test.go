package e2e

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/lab"
	"github.com/meshpilot/pilot/pkg/lab/app"
	"github.com/meshpilot/pilot/pkg/model"
)

// A connection with TLS of the application's own, opened before the change,
// holds its port in GRACE, lives there, and when it ends the port gets STRICT.
// New ones of callers without a sidecar are taken until then.
func TestGraceKeepsTheApplicationsTLS(t *testing.T) {
	dir := config(t, "testdata/drill")
	mesh := "mtlsRollout: {quietPeriod: 1s, deadline: 1m}\ndefaultConfig: {drainDuration: 1s}\n"
	write(t, filepath.Join(dir, "mesh.yaml"), mesh)
	m := startMeshWith(t, lab.Options{Dir: dir, Capture: true, Quiet: true})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	open := func(id model.WorkloadID, address string) (*app.Long, error) {
		dial := func(ctx context.Context, address string) (net.Conn, error) { return m.Dial(ctx, id, address) }
		target := app.Target{Host: "cart.shop.svc.cluster.local", Port: 443, Protocol: model.HTTPS, Address: address}
		return app.NewClient(id.Name, target, dial, "").Long(ctx)
	}
	before, err := open(model.WorkloadID{Namespace: "shop", Name: "web"}, "10.96.3.2:443")
	if err != nil {
		t.Fatal(err)
	}
	if err := before.Echo(ctx, "before"); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "mesh.yaml"), mesh+"authPolicy: MUTUAL_TLS\n")
	in := func(phase model.Phase, what string) bool {
		for _, r := range m.Rollouts() {
			if r.Wanted.Port == 8443 && r.Wanted.Decision.Phase == phase {
				return what == "" || len(r.Waits) > 0 && strings.Contains(r.Waits[0].String(), what)
			}
		}
		return false
	}
	m.eventually("GRACE, held by the connection", func() bool { return in(model.PhaseGrace, "has open plaintext connections (1)") })
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if err := before.Echo(ctx, "in GRACE"); err != nil {
			t.Fatalf("cut in GRACE: %v", err)
		}
	}
	stranger, address := model.WorkloadID{Name: "client-without-sidecar"}, "10."+strings.TrimPrefix(network(), "127.")+".12:8443"
	late, err := open(stranger, address)
	if err != nil {
		t.Fatalf("the application's TLS is refused in GRACE: %v", err)
	}
	if err := late.Echo(ctx, "new in GRACE"); err != nil {
		t.Errorf("the application's TLS is refused in GRACE: %v", err)
	}
	late.Close()
	if !in(model.PhaseGrace, "") {
		t.Error("not in GRACE any more although the connection is open")
	}
	before.Close()
	m.eventually("STRICT when it ended", func() bool { return in(model.PhaseStrict, "") })
	m.eventually("the application's TLS refused in STRICT", func() bool {
		again, err := open(stranger, address)
		if err == nil { // TLS 1.3: the server's alert comes with the answer
			defer again.Close()
			err = again.Echo(ctx, "in STRICT")
		}
		return err != nil
	})
}
