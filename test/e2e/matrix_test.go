package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/meshpilot/pilot/pkg/lab"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/simulate"
)

// matrixRow is one call of the table with what is expected of it.
type matrixRow struct {
	setting, caller, protocol, service, want string
}

// matrixTable reads the table: a line holds a row for each service.
func matrixTable(t *testing.T) []matrixRow {
	t.Helper()
	content, err := os.ReadFile("testdata/matrix/table.txt")
	if err != nil {
		t.Fatal(err)
	}
	var rows []matrixRow
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) == 0 || f[0] == "#" {
			continue
		}
		services := []string{"bare", "disable", "permissive", "strict", "tls-only"}
		if len(f) != 3+len(services) {
			t.Fatalf("not a line of the table: %q", lines.Text())
		}
		for i, service := range services {
			if want := f[3+i]; want != "-" {
				rows = append(rows, matrixRow{f[0], f[1], f[2], service, want})
			}
		}
	}
	return rows
}

// The result matrix on real Envoys: what each kind of caller gets from each
// kind of callee in each protocol is what the table says, and what simulate
// says of the same configuration.
func TestResultMatrix(t *testing.T) {
	dir := config(t, "testdata/matrix")
	m := startQuiet(t, dir)
	m.ruleOfMutual()
	original, err := os.ReadFile(filepath.Join(dir, "mesh.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	rows := matrixTable(t)
	for _, s := range []struct{ name, line string }{
		{"refuse", ""},
		{"reset", "plaintextRefusal: RESET"},
		{"excluded", `mtlsExcludedServices: ["*.callee.svc.cluster.local"]`},
	} {
		t.Run(s.name, func(t *testing.T) {
			m.t = t
			write(t, filepath.Join(dir, "mesh.yaml"), strings.Replace(string(original), "# setting", s.line, 1))
			m.eventually("the edit is noticed", func() bool {
				mesh := m.Snapshot().Mesh()
				excluded := slices.ContainsFunc(mesh.Excluded, func(host string) bool { return strings.Contains(host, "callee") })
				return mesh.RefusalReset == (s.name == "reset") && excluded == (s.name == "excluded")
			})
			m.assertDumps("with " + s.name)
			m.runMatrix(s.name, rows)
		})
	}
	m.t = t
	if n := m.Report(t.Context()).NACKs; n != 0 {
		t.Errorf("the Envoys refused %d updates", n)
	}
}

// ruleOfMutual makes the sidecar of that caller present the mesh's
// certificate as a file.
func (m *mesh) ruleOfMutual() {
	m.t.Helper()
	proxy, ok := m.Proxy(callerID("mutual"))
	if !ok {
		m.t.Fatal("the caller mutual has no sidecar")
	}
	write(m.t, filepath.Join(m.dir, "mutual.yaml"), fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: all, namespace: mutual}
spec:
  host: "*.callee.svc.cluster.local"
  trafficPolicy:
    tls: {mode: MUTUAL, clientCertificate: %s, privateKey: %s, insecureSkipVerify: true}
`, proxy.Local.CertChain, proxy.Local.Key))
	m.eventually("the rule of mutual is noticed", func() bool {
		rendered, err := m.Render(callerID("mutual"))
		return err == nil && bytes.Contains(rendered, []byte("file-cert:"))
	})
}

// runMatrix makes the calls of a setting and prints what became of them.
func (m *mesh) runMatrix(setting string, rows []matrixRow) {
	m.t.Helper()
	snapshot := m.Snapshot()
	simulated := m.simulated(snapshot)
	var table bytes.Buffer
	out := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "caller\tprotocol\tcallee\texpected\treal\tsimulated\tsent\tthe application saw\tchain\t")
	ran := 0
	for _, row := range rows {
		if row.setting != setting {
			continue
		}
		ran++
		c := callOf(row, snapshot)
		foreseen := simulated.Call(c.simulated)
		if len(foreseen) != 1 {
			m.t.Errorf("%+v: %d outcomes simulated, want 1", row, len(foreseen))
			continue
		}
		real := m.really(c)
		verdict := ""
		if wrong := compare(row, c, real, foreseen[0]); len(wrong) > 0 {
			verdict = "WRONG"
			m.t.Errorf("%s %s -> %s: %s\n  real %+v\n  simulated %+v", row.caller, row.protocol, row.service, strings.Join(wrong, "; "), real, foreseen[0])
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.caller, row.protocol, row.service, row.want,
			real.result, foreseen[0].Result, foreseen[0].Sent, real.saw(), foreseen[0].Chain, verdict)
	}
	if ran == 0 {
		m.t.Errorf("no rows for %s", setting)
	}
	_ = out.Flush() // to a buffer
	m.t.Logf("%s: %d rows\n%s", setting, ran, &table)
}

// compare is what does not agree.
func compare(row matrixRow, c matrixCall, real realOutcome, foreseen simulate.Outcome) []string {
	var wrong []string
	differ := func(what string, got, want any) {
		if got != want {
			wrong = append(wrong, fmt.Sprintf("%s: %v, want %v", what, got, want))
		}
	}
	differ("real", real.result, row.want)
	differ("simulated", foreseen.Result, row.want)
	if real.result == "403" {
		differ("reason", real.body, foreseen.Body)
	}
	if real.result != "200" && real.result != "works" {
		return wrong
	}
	server := map[bool]string{true: "bare", false: "server"}[row.service == "bare"]
	differ("who answered", real.echo.Name, server)
	bySidecar := foreseen.Sent != simulate.Plaintext && foreseen.Sent != simulate.AppTLS
	if c.sidecar {
		differ("TLS by the caller's sidecar", real.encrypted, bySidecar)
	}
	layers := 0
	for _, yes := range []bool{c.simulated.Protocol == simulate.HTTPS, bySidecar} {
		if yes {
			layers++
		}
	}
	_, chain, _ := strings.Cut(foreseen.Chain, "|")
	ended := chain == "mtls" || chain == "mtls-any" || chain == "tls"
	if ended {
		layers--
	}
	differ("layers of TLS at the application", real.echo.TLS, layers)
	if row.protocol == "http" || row.protocol == "grpc" {
		peer := ""
		if ended && c.presents(foreseen.Sent) {
			peer = c.identity
		}
		differ("caller that the application sees", real.echo.Peer, peer)
	}
	return wrong
}

// simulated is the mesh as it runs: each sidecar with the configuration that
// its Envoy has.
func (m *mesh) simulated(s *model.Snapshot) *simulate.Mesh {
	m.t.Helper()
	sim := simulate.Of(s)
	for _, peer := range sim.Peers {
		peer.Identity = identityOf(s, peer.ID)
		if peer.Config == nil {
			if peer.ID != callerID("legacy-cert") {
				peer.Identity = ""
			}
			continue
		}
		config, err := m.Config(peer.ID)
		if err != nil {
			m.t.Fatal(err)
		}
		peer.Config = &config
	}
	return sim
}

// startQuiet starts a captured mesh in which only the test makes calls.
func startQuiet(t *testing.T, dir string) *mesh {
	t.Helper()
	return startMeshWith(t, lab.Options{Dir: dir, Capture: true, Quiet: true})
}
