package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/meshpilot/pilot/pkg/lab"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/simulate"
)

// matrixRow is one call of the table with what is expected of it.
type matrixRow struct {
	setting, caller, protocol, service, want string
}

// matrixServices are the columns of the table.
func matrixServices() []string {
	return []string{"bare", "disable", "permissive", "strict", "tls-only"}
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
		services := matrixServices()
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
	certs := makeCertificates(t)
	// Quiet: only the test makes calls.
	m := startMeshWith(t, lab.Options{Dir: dir, Capture: true, Quiet: true, AppCert: &certs.application})
	m.writeRules(certs)
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
			m.runMatrix(s.name, rows, certs)
		})
	}
	m.t = t
	if n := m.Report(t.Context()).NACKs; n != 0 {
		t.Errorf("the Envoys refused %d updates", n)
	}
}

// ranRow is a row with what became of its call.
type ranRow struct {
	matrixRow
	call     matrixCall
	foreseen simulate.Outcome
	real     realOutcome
}

// runMatrix makes the calls of a setting and prints what became of them.
func (m *mesh) runMatrix(setting string, rows []matrixRow, certs *certificates) {
	m.t.Helper()
	ran := m.foreseen(setting, rows, certs)
	m.makeCalls(ran)
	var table bytes.Buffer
	out := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "caller\tprotocol\tcallee\texpected\treal\tsimulated\ttook\tsent\tthe application saw\tchain\t")
	for _, row := range ran {
		verdict := ""
		if wrong := row.compare(); len(wrong) > 0 {
			verdict = "WRONG"
			m.t.Errorf("%s %s -> %s: %s\n  real %+v\n  simulated %+v", row.caller, row.protocol, row.service, strings.Join(wrong, "; "), row.real, row.foreseen)
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.caller, row.protocol, row.service, row.want,
			row.real.result, row.foreseen.Result, row.real.took.Round(time.Millisecond), row.foreseen.Sent, row.real.saw(), row.foreseen.Chain, verdict)
	}
	if len(ran) == 0 {
		m.t.Errorf("no rows for %s", setting)
	}
	_ = out.Flush() // to a buffer
	m.t.Logf("%s: %d rows\n%s", setting, len(ran), &table)
}

// foreseen are the rows of a setting with what simulate says of them.
func (m *mesh) foreseen(setting string, rows []matrixRow, certs *certificates) []*ranRow {
	m.t.Helper()
	snapshot := m.Snapshot()
	simulated := m.simulated(snapshot)
	simulated.Roots = certs.roots
	var ran []*ranRow
	for _, row := range rows {
		if row.setting != setting {
			continue
		}
		c := callOf(row, snapshot)
		c.simulated.App.Cert = &simulate.Certificate{Issuer: issuer, Names: certs.hosts}
		outcomes := simulated.Call(c.simulated)
		if len(outcomes) != 1 {
			m.t.Fatalf("%+v: %d outcomes simulated, want 1", row, len(outcomes))
		}
		ran = append(ran, &ranRow{row, c, outcomes[0], realOutcome{}})
	}
	return ran
}

// makeCalls makes some at a time: those that wait for a silent end take long.
// No two share a caller's cluster, whose connections are counted.
func (m *mesh) makeCalls(rows []*ranRow) {
	const atATime = 6
	slots := make(chan struct{}, atATime)
	var all sync.WaitGroup
	for _, row := range rows {
		slots <- struct{}{}
		all.Go(func() {
			for try := 0; try == 0 || try < 3 && row.mistimed() != ""; try++ { // a busy machine may be late
				row.real = m.really(row.call)
			}
			<-slots
		})
	}
	all.Wait()
}

// compare is what does not agree.
func (row *ranRow) compare() []string {
	c, real, foreseen := row.call, row.real, row.foreseen
	var wrong []string
	differ := func(what string, got, want any) {
		if got != want {
			wrong = append(wrong, fmt.Sprintf("%s: %v, want %v", what, got, want))
		}
	}
	differ("real", real.result, row.want)
	differ("simulated", foreseen.Result, row.want)
	differ("broken by", real.broken, nil)
	if why := row.mistimed(); why != "" {
		wrong = append(wrong, why)
	}
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
	ended := row.ended()
	layers := 0
	for _, yes := range []bool{c.simulated.Protocol == simulate.HTTPS, bySidecar} {
		if yes {
			layers++
		}
	}
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

// ended says whether the callee's sidecar ends TLS.
func (row *ranRow) ended() bool {
	_, chain, _ := strings.Cut(row.foreseen.Chain, "|")
	return chain == "mtls" || chain == "mtls-any" || chain == "tls"
}

// mistimed is what is wrong with how long the call took: a silent client is
// waited for where nobody declares that the server speaks first, and nowhere
// else; a declared port that wants TLS ends it after a while.
func (row *ranRow) mistimed() string {
	const inspected, handshake, load = 500 * time.Millisecond, 5 * time.Second, 3 * time.Second
	const early = inspected / 10 // by which Envoy's timers may fire
	silent := row.foreseen.Sent == simulate.Plaintext && row.service != "bare"
	least, most := time.Duration(0), inspected
	switch {
	case row.protocol != "mysql" && !row.call.undeclared:
		return ""
	case silent && row.call.undeclared:
		least, most = inspected-early, inspected+load
	case silent && row.ended():
		least, most = handshake-early, handshake+load
	}
	if took := row.real.took; took < least || took >= most {
		return fmt.Sprintf("took %s, want at least %s and less than %s", took, least, most)
	}
	return ""
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
