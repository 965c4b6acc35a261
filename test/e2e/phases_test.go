package e2e

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/lab"
	"github.com/meshpilot/pilot/pkg/model"
)

// The phases of a whole way, as reports tell them.
func phasesOn() []string {
	return []string{"PERMISSIVE plaintext", "PERMISSIVE mTLS", "GRACE mTLS", "STRICT mTLS"}
}

func phasesOff() []string {
	return []string{"PERMISSIVE mTLS", "PERMISSIVE plaintext", "NONE plaintext"}
}

// TestSafeToggle: an edit of the whole mesh goes through all phases under
// load, and back, and loses nothing between sidecars.
func TestSafeToggle(t *testing.T) {
	for name, capture := range map[string]bool{"proxy": false, "capture": true} {
		t.Run(name, func(t *testing.T) {
			dir := bookinfo(t)
			setRollout(t, dir, "{quietPeriod: 1s}")
			m := safeMesh{startMeshWith(t, lab.Options{Dir: dir, Capture: capture, OnlySidecars: true})}
			m.until("plaintext at the start", 5*time.Second, func(r lab.Row) bool { return plaintext(r) && r.Requests >= 5 })

			m.goes("on", phasesOn(), func() { setMutualTLS(t, dir, true) })
			m.until("mutual TLS", 3*time.Second, allMutual)
			m.assertDumps("when all is strict")
			m.goes("off", phasesOff(), func() { setMutualTLS(t, dir, false) })
			m.until("plaintext", 3*time.Second, plaintext)
			m.changesItsMind(dir)
			if capture {
				m.keepsLongConnections(dir)
			}
			m.isHeld(dir, capture)
			if failed, of := m.sidecarFailures(); failed != 0 || of == 0 {
				t.Errorf("%d of %d calls between sidecars were lost", failed, of)
			} else {
				t.Logf("0 of %d calls between sidecars were lost", of)
			}
			if n := m.Report(t.Context()).NACKs; n != 0 {
				t.Errorf("the Envoys refused %d updates", n)
			}
		})
	}
}

// safeMesh is a mesh that changes in phases.
type safeMesh struct{ *mesh }

// setRollout replaces the mesh's mtlsRollout.
func setRollout(t *testing.T, dir, value string) {
	t.Helper()
	path := filepath.Join(dir, "mesh.yaml")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := strings.Cut(string(content), "mtlsRollout: ")
	if !found {
		t.Fatalf("no mtlsRollout in\n%s", content)
	}
	write(t, path, before+"mtlsRollout: "+value+"\n")
}

// goes makes an edit after which every target goes through the phases.
func (m safeMesh) goes(what string, phases []string, edit func()) {
	m.t.Helper()
	begun, start := len(m.Report(m.t.Context()).Phases), time.Now()
	edit()
	m.eventually(what+" has begun", func() bool { return len(m.Report(m.t.Context()).Phases) > begun })
	m.settle(what)
	m.t.Logf("%s: after %.1f s", what, time.Since(start).Seconds())
	steps := m.steps(begun)
	for _, r := range m.rollouts("") {
		if got := steps[r.Target]; !slices.Equal(got, phases) {
			m.t.Errorf("%s: %s went through %q, want %q", what, r.Target, got, phases)
		}
	}
}

// steps are those after some, by target.
func (m safeMesh) steps(after int) map[string][]string {
	m.t.Helper()
	out := map[string][]string{}
	for _, s := range m.Report(m.t.Context()).Phases[after:] {
		out[s.Target] = append(out[s.Target], s.Phase+" "+s.Clients)
		if s.SidecarFailed > 0 {
			m.t.Errorf("%d of %d calls were lost in phase %s of %s", s.SidecarFailed, s.SidecarRequests, s.Phase, s.Target)
		}
	}
	return out
}

func (m safeMesh) settle(what string) {
	m.t.Helper()
	m.eventually(what+": every target is where its mode ends", func() bool { return len(m.rollouts("?open=true")) == 0 })
}

// rolloutPage is a target as /debug/rollouts has it.
type rolloutPage struct {
	Target, Phase, Clients string
	Held                   bool
	WaitsFor               []struct{ Who, What string }
}

func (m safeMesh) rollouts(query string) []rolloutPage {
	m.t.Helper()
	var out []rolloutPage
	text := fetch(m.t, "http://"+controlAddress()+":8080/debug/rollouts"+query)
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		m.t.Fatalf("%v: %s", err, text)
	}
	return out
}

func (m safeMesh) rollout(target string) rolloutPage {
	m.t.Helper()
	all := m.rollouts("")
	i := slices.IndexFunc(all, func(r rolloutPage) bool { return r.Target == target })
	if i < 0 {
		m.t.Fatalf("no target %s in %+v", target, all)
	}
	return all[i]
}

const ratingsHTTP = "bookinfo/ratings-v1:9080"

// changesItsMind turns back when the clients have moved.
func (m safeMesh) changesItsMind(dir string) {
	m.t.Helper()
	setRollout(m.t, dir, "{quietPeriod: 10s}") // time to turn back in
	begun := len(m.Report(m.t.Context()).Phases)
	setMutualTLS(m.t, dir, true)
	m.eventually("clients have moved", func() bool { return m.rollout(ratingsHTTP).Clients == "mTLS" })
	setMutualTLS(m.t, dir, false)
	m.eventually("the way back has begun", func() bool { return m.rollout(ratingsHTTP).Clients == "plaintext" })
	m.settle("another mind")
	want := []string{"PERMISSIVE plaintext", "PERMISSIVE mTLS", "PERMISSIVE plaintext", "NONE plaintext"}
	if got := m.steps(begun)[ratingsHTTP]; !slices.Equal(got, want) {
		m.t.Errorf("a change of mind went through %q, want %q", got, want)
	}
	m.until("plaintext again", 3*time.Second, plaintext)
	setRollout(m.t, dir, "{quietPeriod: 1s}")
}

// keepsLongConnections: one that is older than the edit lives in GRACE, which
// waits for it by name, and on the whole way back.
func (m safeMesh) keepsLongConnections(dir string) {
	t := m.t
	conn, err := m.Dial(t.Context(), model.WorkloadID{Namespace: "bookinfo", Name: "details-v1"}, "10.96.0.15:9100")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	speak := func(when string) {
		t.Helper()
		if _, err := conn.Write([]byte("hello\n")); err != nil {
			t.Fatal(when, err)
		}
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(when, err)
		}
	}
	speak("before")
	const target = "bookinfo/ratings-v1:9100"
	begun := len(m.Report(t.Context()).Phases)
	setMutualTLS(t, dir, true)
	m.eventually("it is waited for, alone", func() bool {
		r := m.rollout(target)
		return r.Phase == "GRACE" && len(r.WaitsFor) == 1 && r.WaitsFor[0].Who == "bookinfo/ratings-v1" &&
			r.WaitsFor[0].What == "has open plaintext connections" && len(m.rollouts("?open=true")) == 1
	})
	speak("in GRACE")
	setMutualTLS(t, dir, false)
	m.eventually("the way back has begun", func() bool { return m.rollout(target).Phase != "GRACE" })
	m.settle("back from GRACE")
	speak("after the way back")
	want := append(phasesOn()[:3], phasesOff()...)
	if got := m.steps(begun)[target]; !slices.Equal(got, want) {
		t.Errorf("with a long connection it went through %q, want %q", got, want)
	}
}

// outsider is a caller without a sidecar that does not stop.
type outsider struct{ served, refused atomic.Int64 }

func (m safeMesh) outsider(t *testing.T, pod string) *outsider {
	o := &outsider{}
	k := kubelet{m.mesh, pod}
	call := func() {
		conn, err := k.Dial(t.Context(), model.WorkloadID{Namespace: "bookinfo", Name: "client"}, net.JoinHostPort(k.address, "9080"))
		if err != nil {
			return
		}
		defer conn.Close()
		answer := make([]byte, 64)
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write([]byte(get("/"))); err != nil {
			return
		}
		switch n, _ := conn.Read(answer); status(string(answer[:n])) {
		case "200":
			o.served.Add(1)
		case "403":
			o.refused.Add(1)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for t.Context().Err() == nil {
			call()
			time.Sleep(100 * time.Millisecond)
		}
	}()
	t.Cleanup(func() { <-done })
	return o
}

// isHeld: a caller without a sidecar holds what would refuse it, and nothing
// else; what follows is the setting's.
func (m safeMesh) isHeld(dir string, capture bool) {
	const deadline = "quietPeriod: 1s, deadline: 3s, onDeadline: "
	t := m.t
	setRollout(t, dir, "{"+deadline+"HOLD}")
	first := time.Now()
	addresses := network()
	if capture {
		addresses = "10." + strings.TrimPrefix(addresses, "127.")
	}
	calls := m.outsider(t, addresses+".15")
	setMutualTLS(t, dir, true)
	name := "bookinfo/client at " + addresses + ".99"
	m.eventually("it is named", func() bool {
		for _, b := range m.rollout(ratingsHTTP).WaitsFor {
			if b.Who == name && b.What == "sends plaintext" {
				return true
			}
		}
		return false
	})
	if took := time.Since(first); took > 5*time.Second {
		t.Errorf("it is named %s after its first request", took)
	} else {
		t.Logf("it is named %d ms after its first request", took.Milliseconds())
	}
	m.eventually("HOLD holds", func() bool { return m.rollout(ratingsHTTP).Held })
	m.eventually("others go on", func() bool { return len(m.rollouts("?open=true")) == 1 })
	if r := m.rollout(ratingsHTTP); r.Phase != "PERMISSIVE" || r.Clients != "mTLS" || calls.refused.Load() > 0 || calls.served.Load() == 0 {
		t.Errorf("HOLD: %+v, %d calls served, %d refused", r, calls.served.Load(), calls.refused.Load())
	}
	problem := strings.Join(m.problems("ROLLOUT_HELD"), "\n")
	if !strings.Contains(problem, ratingsHTTP+" stays PERMISSIVE on the way to STRICT, set by mesh config authPolicy: "+name+" sends plaintext") {
		t.Errorf("the problem of HOLD: %q", problem)
	}

	setRollout(t, dir, "{"+deadline+"PROCEED}")
	m.settle("PROCEED")
	m.eventually("PROCEED refuses the caller", func() bool { return calls.refused.Load() > 0 })
	m.goes("off again", phasesOff(), func() { setMutualTLS(t, dir, false) })

	setRollout(t, dir, "{"+deadline+"ROLLBACK}")
	setMutualTLS(t, dir, true)
	m.eventually("ROLLBACK rolls back", func() bool {
		w := m.rollout(ratingsHTTP).WaitsFor
		return len(w) == 1 && strings.HasPrefix(w[0].What, "rolled back: the deadline of 3s passed, waiting for ")
	})
	m.eventually("the problem says so", func() bool {
		return strings.Contains(strings.Join(m.problems("ROLLOUT_HELD"), "\n"), ratingsHTTP+" stays PERMISSIVE on the way to STRICT, set by mesh config authPolicy: rollout rolled back")
	})
	refused, served := calls.refused.Load(), calls.served.Load()
	m.eventually("the caller is served", func() bool { return calls.served.Load() >= served+5 })
	if r := m.rollout(ratingsHTTP); r.Phase != "PERMISSIVE" || calls.refused.Load() != refused {
		t.Errorf("ROLLBACK: %+v, %d calls refused since", r, calls.refused.Load()-refused)
	}
}

// problems are the messages of a kind.
func (m safeMesh) problems(code string) (messages []string) {
	var page []struct{ Code, Message string }
	_ = json.Unmarshal([]byte(fetch(m.t, "http://"+controlAddress()+":8080/debug/problems")), &page)
	for _, p := range page {
		if p.Code == code {
			messages = append(messages, p.Message)
		}
	}
	return messages
}
