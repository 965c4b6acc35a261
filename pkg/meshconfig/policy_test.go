package meshconfig

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/meshpilot/pilot/pkg/model"
)

const policyHead = "apiVersion: authentication.istio.io/v1alpha1\nkind: Policy\nmetadata: {name: p, namespace: shop}\n"

// TestPolicyErrors: every row of spec server-policy.md 2.2, and the scope that
// a stand-in has. "*" is the whole namespace.
func TestPolicyErrors(t *testing.T) {
	for _, c := range []struct{ spec, scope, want string }{
		{"targets: [{name: ''}]", "*", `INVALID spec.targets[0].name: target name "" must be a valid label`},
		{"targets: [{ports: [{number: 1}]}]", "*", `INVALID spec.targets[0].name: target name "" must be a valid label`},
		{"targets: [{name: a.b}]", "*", `INVALID spec.targets[0].name: target name "a.b" must be a valid label`},
		{"targets: [{name: ok}, {name: Cart}]", "*", `INVALID spec.targets[1].name: target name "Cart" must be a valid label`},
		{"targets: [{name: 1}]", "*", `INVALID spec.targets[0].name: want a string, got the number 1; write "1"`},
		{"targets: cart", "*", `INVALID spec.targets: want a list (lines that start with "- "), got the string "cart"`},
		{"target: [{name: a}]", "*", `INVALID unknown field "spec.target", did you mean "targets"?`},
		{"targets: [{name: a, ports: [{}]}]", "a", "INVALID spec.targets[0].ports[0]: port selector must have exactly one of number and name"},
		{"targets: [{name: a, ports: [{number: 1, name: b}]}]", "a", "INVALID spec.targets[0].ports[0]: port selector must have exactly one of number and name"},
		{"targets: [{name: a, ports: [{number: 0}]}, {name: b, ports: [{number: 7}]}]", "a b:7", "INVALID spec.targets[0].ports[0].number: port number 0 must be in the range 1..65535"},
		{"targets: [{name: a, ports: [{number: 65536}]}]", "a", "INVALID spec.targets[0].ports[0].number: port number 65536 must be in the range 1..65535"},
		{"targets: [{name: a, ports: [{number: '80'}]}]", "a", `INVALID spec.targets[0].ports[0].number: want a number, got the string "80"; write 80 without quotes`},
		{"targets: [{name: a, ports: [{name: A_B}]}]", "a", `INVALID spec.targets[0].ports[0].name: port name "A_B" must be a valid label`},
		{"targets: [{name: a, ports: [80]}]", "a", "INVALID spec.targets[0].ports[0]: want a mapping, got the number 80"},
		{"peers: [{}]", "*", "INVALID spec.peers[0]: peer method must be set"},
		{"peers: [null]", "*", "INVALID spec.peers[0]: peer method must be set"},
		{"peers: [{mtls: {}}, {mtls: }]", "*", "INVALID spec.peers[1]: at most one mtls entry is allowed"},
		{"peers: [{mtls: {mode: strict}}]", "*", `INVALID spec.peers[0].mtls.mode: unknown mTLS mode "strict", did you mean "STRICT"?`},
		{"peers: [{mtls: {mode: ''}}]", "*", `INVALID spec.peers[0].mtls.mode: unknown mTLS mode "", want one of STRICT, PERMISSIVE`},
		{"peers: [{mtls: {mode: TLS_PERMISSIVE}}]", "*", `INVALID spec.peers[0].mtls.mode: unknown mTLS mode "TLS_PERMISSIVE", want one of STRICT, PERMISSIVE`},
		{"peers: [{mtls: {mode: DISABLE}}]", "*", `INVALID spec.peers[0].mtls.mode: unknown mTLS mode "DISABLE"; to switch mTLS off, leave peers empty`},
		{"peers: [{mtls: {allowTls: true, mode: PERMISSIVE}}]", "*", "INVALID spec.peers[0].mtls.allowTls: allowTls cannot be combined with mode PERMISSIVE"},
		{"peers: [{mtls: {allowTLS: true}}]", "*", `INVALID unknown field "spec.peers[0].mtls.allowTLS", did you mean "allowTls"?`},
		{"peers: [{mTLS: {}}]", "*", `INVALID unknown field "spec.peers[0].mTLS", did you mean "mtls"?`},
		{"peers: [{mtls: STRICT}]", "*", `INVALID spec.peers[0].mtls: want a mapping, got the string "STRICT"`},
		{"peers: {mtls: {}}", "*", `INVALID spec.peers: want a list (lines that start with "- "), got a mapping`},
		{"targets: [{name: a}]\n  peers: [{jwt: {issuer: x}}]", "a", "UNSUPPORTED spec.peers[0].jwt: JWT is not supported yet"},
		{"origins: [{jwt: {}}]", "*", "UNSUPPORTED spec.origins: JWT is not supported yet"},
		{"originIsOptional: true", "*", "UNSUPPORTED spec.originIsOptional: JWT is not supported yet"},
		{"principalBinding: USE_ORIGIN", "*", "UNSUPPORTED spec.principalBinding: JWT is not supported yet"},
		{"principalBinding: use_peer", "*", `INVALID spec.principalBinding: unknown principal binding "use_peer", did you mean "USE_PEER"?`},
		{"targets: [{name: a, subset: v1, ports: [{number: 1}]}]", "a:1", "UNSUPPORTED spec.targets[0].subset: target subsets are not supported"},
		{"targets: [{name: a, labels: {v: a}}]", "a", "UNSUPPORTED spec.targets[0].labels: target subsets are not supported"},
		{"targets: [{name: A, ports: [{number: 0}]}]\n  peers: [{}, {mtls: {mode: x}}]", "*", `INVALID spec.targets[0].name: target name "A" must be a valid label
INVALID spec.targets[0].ports[0].number: port number 0 must be in the range 1..65535
INVALID spec.peers[0]: peer method must be set
INVALID spec.peers[1].mtls.mode: unknown mTLS mode "x", want one of STRICT, PERMISSIVE`},
	} {
		b, problems := Decode(strings.NewReader(policyHead+"spec:\n  "+c.spec+"\n"), "p.yaml")
		var got []string
		for _, p := range problems {
			if p.Severity != Error || p.On.String() != "Policy shop/p" || p.At.Line < 5 {
				t.Errorf("%q: got %+v", c.spec, p)
			}
			got = append(got, p.Code+" "+Problem{Field: p.Field, Message: p.Message}.String())
		}
		if text := strings.Join(got, "\n"); text != c.want {
			t.Errorf("%q\n got %s\nwant %s", c.spec, text, c.want)
		}
		if len(b.Policies) > 0 || len(b.Invalid) != 1 || scopeText(b.Invalid[0].Targets) != c.scope {
			t.Errorf("%q: got %+v", c.spec, b.Invalid)
		}
	}
}

func scopeText(targets []PolicyTarget) string {
	var out []string
	for _, t := range targets {
		text := t.Name
		for _, p := range t.Ports {
			text += ":" + p.Name
			if p.Number != 0 {
				text += string(rune('0' + p.Number))
			}
		}
		out = append(out, text)
	}
	if len(out) == 0 {
		return "*"
	}
	return strings.Join(out, " ")
}

// TestPolicyModes: spec server-policy.md 2.1.
func TestPolicyModes(t *testing.T) {
	for spec, want := range map[string]model.Mode{
		"spec: {}":                                                model.Disable,
		"spec:":                                                   model.Disable,
		"spec: {peers: []}":                                       model.Disable,
		"spec: {peers: null}":                                     model.Disable,
		"spec: {peers: [{mtls: }]}":                               model.Strict,
		"spec: {peers: [{mtls: {}}]}":                             model.Strict,
		"spec: {peers: [{mtls: {mode: null}}]}":                   model.Strict,
		"spec: {peers: [{mtls: {mode: STRICT}}]}":                 model.Strict,
		"spec: {peers: [{mtls: {allowTls: false}}]}":              model.Strict,
		"spec: {peers: [{mtls: {allowTls: true}}]}":               model.TLSOnly,
		"spec: {peers: [{mtls: {allowTls: true, mode: STRICT}}]}": model.TLSOnly,
		"spec: {peers: [{mtls: {mode: PERMISSIVE}}]}":             model.Permissive,
		"spec: {originIsOptional: false, principalBinding: USE_PEER, origins: []}": model.Disable,
	} {
		b, got := decodeText("p.yaml", policyHead+spec+"\n")
		if len(got) > 0 || len(b.Policies) != 1 || b.Policies[0].Mode != want {
			t.Errorf("%s: got %v, %+v", spec, got, b.Policies)
		}
	}
}

func TestPolicy(t *testing.T) {
	b, got := decodeText("p.yaml", policyHead+`spec:
  targets:
  - name: cart
    ports: [{number: 7000}, {name: http-main}]
  - name: stock
  peers: [{mtls: {}}]
  peerIsOptional: true
`)
	if diff := cmp.Diff([]string{"info UNUSED_FIELD p.yaml:10: Policy shop/p: spec.peerIsOptional: has no effect here"}, got); diff != "" {
		t.Error(diff)
	}
	want := []PolicyTarget{
		{Name: "cart", Ports: []PortSelector{{Number: 7000}, {Name: "http-main"}}},
		{Name: "stock"},
	}
	if diff := cmp.Diff(want, b.Policies[0].Targets); diff != "" {
		t.Error(diff)
	}
	if _, got := decodeText("p.yaml", policyHead); len(got) != 1 || got[0] != "error INVALID p.yaml:1: Policy shop/p: spec: spec must be set; spec: {} switches mTLS off in the namespace" {
		t.Errorf("got %q", got)
	}
}
