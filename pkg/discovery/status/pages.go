package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/replica"
	"github.com/meshpilot/pilot/pkg/identity/inspect"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/readiness"
	"github.com/meshpilot/pilot/pkg/translate"
)

// State is what the pages show, at one moment. It is not changed after it was
// handed out.
type State struct {
	Now      time.Time
	Snapshot *model.Snapshot // nil before the first complete configuration
	// Bundle and Inputs are what the snapshot was built of; nil with it.
	Bundle   *meshconfig.Bundle
	Inputs   model.Inputs
	Mesh     Mesh
	Findings []Finding
	Proxies  []Proxy
	Edits    []Edit
	Rollouts []Rollout         // of all targets, sorted; none without phases
	Replicas []replica.Member  // by name, with this one; none if there can be no other
	Refusals []replica.Refusal // of connected proxies, in no order
	// Pending says that a newer bundle is about to take the place of Bundle.
	Pending bool
}

// Mesh says where the mesh configuration in force comes from.
type Mesh struct {
	Source string    `json:"source"` // the object, or "built-in defaults"
	Hash   string    `json:"hash"`
	Since  time.Time `json:"since"`
	Config any       `json:"-"` // as one would write it, defaults filled in
}

// Proxy is one stream of one proxy as /debug/proxies shows it.
type Proxy struct {
	Node      string    `json:"node"`
	Workload  string    `json:"workload"`
	Identity  string    `json:"identity,omitempty"` // empty over plaintext
	Protocol  string    `json:"protocol"`
	Connected time.Time `json:"connected"`
	// Known says that a source knows the workload and its configuration is there.
	Known bool `json:"known"`
	// Certificates says that the proxy has proven to hold its certificates.
	Certificates bool                `json:"certificates"`
	Types        map[string]Exchange `json:"types"`
	// Behind is the first thing that it should have now and did not
	// acknowledge; nil: there is none, or nothing that it should have.
	Behind *Lag `json:"behind,omitempty"`
	// Reached is the last generation of the configuration that it acknowledged.
	Reached uint64 `json:"-"`
}

// Exchange is what was said about one type of resources; times are zero if
// it has not happened.
type Exchange struct {
	Sent       string    `json:"sent,omitempty"`
	SentAt     time.Time `json:"sentAt,omitzero"`
	Acked      string    `json:"acknowledged,omitempty"`
	AckedAt    time.Time `json:"acknowledgedAt,omitzero"`
	RefusedAt  time.Time `json:"refusedAt,omitzero"`   // the last time
	RefusedFor string    `json:"refusedFor,omitempty"` // Envoy's text
	// Withheld are the resources that are not sent in their present version,
	// because the proxy refused it.
	Withheld []string `json:"withheld,omitempty"`
}

// Edit is one change of the configuration and how far it has come.
type Edit struct {
	// Revision is the configuration that it led to, with all edits that were
	// applied with it; empty until then. Change is in what it differs from the
	// one before, as in model.Revision.ChangeSince.
	Revision string `json:"revision,omitempty"`
	Change   string `json:"change,omitempty"`
	// Generation is the first of the store that has it.
	Generation uint64 `json:"-"`

	At      time.Time `json:"at"`               // the source published it
	Applied time.Time `json:"applied,omitzero"` // its configuration was ready to send
	LastACK time.Time `json:"lastAck,omitzero"` // the last acknowledgement so far
	Pushes  int       `json:"pushes"`           // responses that were acknowledged
	Refused int       `json:"refused"`          // responses that were refused
	// Done says that every connected proxy has answered; with no push the
	// edit changed nothing for anybody.
	Done bool `json:"done"`
}

// Pages serves /livez, /readyz and /debug/.
type Pages struct {
	// Ready lists why the control plane is not ready; it may not block.
	Ready func() []string
	State func(context.Context) (State, error)
	// Config is the configuration of a connected proxy, in the order of types;
	// false if there is none of that node id.
	Config func(ctx context.Context, node string) ([]Resources, bool, error)
	// Traffic is what sidecars told, sorted; it may not block.
	Traffic func() []Traffic
	// Certificates are those of the control plane, then those of connected
	// proxies; it may not block.
	Certificates func() []inspect.Public
	// Readiness is what is known of targets; it may not block.
	Readiness func(State, []Rollout) []readiness.Facts
	// Remote lets callers read /debug/ that are not on this machine.
	Remote bool
	// Calls bounds how many calls one request simulates, of the whole mesh;
	// 0 is 10,000, some 0.2 s of a core.
	Calls int
}

// Resources are the resources of one type that a proxy gets.
type Resources struct {
	TypeURL   string
	Resources []*translate.Resource
}

// Handler is the HTTP side of the pages.
func (p Pages) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", p.readyz)
	mux.Handle("GET /debug/{$}", p.debug(p.index))
	mux.Handle("GET /debug/problems", p.debug(p.problems))
	mux.Handle("GET /debug/proxies", p.debug(p.proxies))
	mux.Handle("GET /debug/edits", p.debug(p.edits))
	mux.Handle("GET /debug/replicas", p.debug(p.replicas))
	mux.Handle("GET /debug/status", p.debug(p.status))
	mux.Handle("GET /debug/revision", p.debug(p.revision))
	mux.Handle("GET /debug/config", p.debug(p.config))
	mux.Handle("GET /debug/mtls", p.debug(p.mtls))
	mux.Handle("GET /debug/rollouts", p.debug(p.rollouts))
	mux.Handle("GET /debug/readiness", p.debug(p.readiness))
	mux.Handle("GET /debug/explain", p.debug(p.explain))
	mux.Handle("GET /debug/check", p.debug(p.check))
	mux.Handle("GET /debug/traffic", p.debug(p.traffic))
	mux.Handle("GET /debug/certificates", p.debug(p.certificates))
	mux.Handle("GET /debug/endpoints", p.debug(p.endpoints))
	mux.Handle("GET /debug/inputs", p.debug(p.inputs))
	mux.Handle("POST /debug/inputs", p.debug(p.preview))
	mux.Handle("GET /debug/mesh", p.debug(p.mesh))
	return mux
}

// refusal is an answer that is not 200.
type refusal struct {
	code int
	text string
}

func (r refusal) Error() string { return r.text }

func (p Pages) readyz(w http.ResponseWriter, _ *http.Request) {
	type answer struct {
		Ready   bool     `json:"ready"`
		Reasons []string `json:"reasons,omitempty"`
	}
	reasons := p.Ready()
	code := http.StatusOK
	if len(reasons) > 0 {
		code = http.StatusServiceUnavailable
	}
	write(w, code, answer{len(reasons) == 0, reasons})
}

// debug guards a page and gives it the state.
func (p Pages) debug(page func(*http.Request, State) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		type failure struct {
			Error string `json:"error"`
		}
		if !p.Remote && !fromLoopback(r.RemoteAddr) {
			write(w, http.StatusForbidden, failure{"only callers on this machine; start with --debug-remote to allow others"})
			return
		}
		state, err := p.State(r.Context())
		if err != nil {
			write(w, http.StatusServiceUnavailable, failure{err.Error()})
			return
		}
		answer, err := page(r, state)
		var refused refusal
		switch {
		case errors.As(err, &refused):
			write(w, refused.code, failure{refused.text})
		case err != nil:
			write(w, http.StatusInternalServerError, failure{err.Error()})
		default:
			write(w, http.StatusOK, answer)
		}
	})
}

func fromLoopback(remote string) bool {
	addr, err := netip.ParseAddrPort(remote)
	return err == nil && addr.Addr().Unmap().IsLoopback()
}

func write(w http.ResponseWriter, code int, answer any) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(answer); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(buf.Bytes()) // the caller is gone; nobody is left to tell
}

func (p Pages) index(*http.Request, State) (any, error) {
	type page struct {
		Path  string `json:"path"`
		About string `json:"about"`
	}
	return []page{
		{"/livez", "that the process answers"},
		{"/readyz", "whether proxies are served, and if not, why"},
		{"/debug/problems?severity=&namespace=", "problems in force, the gravest first"},
		{"/debug/proxies?proxy=", "connected proxies: versions sent, acknowledged, refused"},
		{"/debug/status?namespace=", "the mesh at a glance: revision, proxies, targets under way, problems"},
		{"/debug/revision?revision=", "which proxies did not acknowledge a revision yet; the newest if none is named"},
		{"/debug/replicas", "control planes that serve this mesh: who leads, how old its report is, how many proxies it has"},
		{"/debug/edits", "the last edits, and when the last proxy had accepted them"},
		{"/debug/config?proxy=", "all resources of one proxy, by its node id"},
		{"/debug/mtls?service=&namespace=", "per service port and client namespace: who accepts and who sends what"},
		{"/debug/readiness?target=&namespace=&within=&evidence=", "per target that is not strict: who would break if it were, and who could not follow"},
		{"/debug/rollouts?namespace=&open=true", "how far the targets are on the way to their modes, and what they wait for"},
		{"/debug/explain?from=&to=", "what becomes of a call, why, and what to change; all=true or plaintext=true for all of the mesh, page by page with skip="},
		{"/debug/check", "problems in force, and what is valid but hardly meant"},
		{"/debug/traffic?workload=&namespace=", "who sends what is not mutual TLS, and which connections are open, by port"},
		{"/debug/certificates", "certificates of the control plane and of connected proxies, with the roots"},
		{"/debug/endpoints?service=", "endpoints of a service with sidecar and mode"},
		{"/debug/inputs", "what the mesh in force is built of, and, for an edit that is posted, what it would be; for pilot plan and diff"},
		{"/debug/mesh", "the mesh configuration in force"},
	}, nil
}

func (p Pages) problems(r *http.Request, s State) (any, error) {
	type problem struct {
		Code      string    `json:"code"`
		Severity  string    `json:"severity"`
		Object    string    `json:"object"`
		Namespace string    `json:"namespace,omitempty"`
		Field     string    `json:"field,omitempty"`
		Message   string    `json:"message"`
		File      string    `json:"file,omitempty"`
		Line      int       `json:"line,omitempty"`
		Since     time.Time `json:"since"`
	}
	severity := strings.ToLower(r.FormValue("severity"))
	switch severity {
	case "", meshconfig.Error.String(), meshconfig.Warning.String(), meshconfig.Info.String():
	default:
		return nil, refusal{http.StatusBadRequest, "severity is error, warning or info"}
	}
	namespace := r.FormValue("namespace")
	out := []problem{}
	for _, f := range s.Findings {
		if severity != "" && f.Severity.String() != severity || namespace != "" && f.On.Namespace != namespace {
			continue
		}
		out = append(out, problem{f.Code, f.Severity.String(), f.On.String(), f.On.Namespace,
			f.Field, f.Message, f.At.File, f.At.Line, f.Since})
	}
	return out, nil
}

func (p Pages) proxies(r *http.Request, s State) (any, error) {
	node := r.FormValue("proxy")
	if node == "" {
		return append([]Proxy{}, s.Proxies...), nil
	}
	out := []Proxy{}
	for _, proxy := range s.Proxies {
		if proxy.Node == node {
			out = append(out, proxy)
		}
	}
	if len(out) == 0 {
		return nil, refusal{http.StatusNotFound, "no connected proxy has this node id"}
	}
	return out, nil
}

func (p Pages) certificates(*http.Request, State) (any, error) {
	return append([]inspect.Public{}, p.Certificates()...), nil
}

func (p Pages) edits(_ *http.Request, s State) (any, error) {
	return append([]Edit{}, s.Edits...), nil
}

// replicas shows all control planes that serve the mesh.
func (p Pages) replicas(_ *http.Request, s State) (any, error) {
	return append([]replica.Member{}, s.Replicas...), nil
}
