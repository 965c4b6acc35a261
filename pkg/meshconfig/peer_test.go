package meshconfig

import (
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
)

const (
	peerHead       = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: shop}\n"
	meshPolicyHead = "apiVersion: authentication.istio.io/v1alpha1\nkind: MeshPolicy\nmetadata: {name: default}\n"
)

// refusedTexts decodes an object that must be refused: its errors, and what
// the stand-in for it says.
func refusedTexts(t *testing.T, doc string) (errors, standIn string) {
	t.Helper()
	b, problems := Decode(strings.NewReader(doc), "p.yaml")
	var lines []string
	for _, p := range problems {
		if p.Severity != Error || p.At.Line == 0 {
			t.Errorf("got %+v", p)
		}
		lines = append(lines, p.Code+" "+Problem{Field: p.Field, Message: p.Message}.String())
	}
	in, problems := Compile(b, "cluster.local")
	if len(in.Policies) != 1 || !in.Policies[0].StandIn || len(problems) != 1 || problems[0].Code != codeFailClosed {
		t.Fatalf("%s\ngot %+v, %s", doc, in.Policies, texts(problems))
	}
	_, scope, _ := strings.Cut(problems[0].Message, "applies to ")
	scope, _, _ = strings.Cut(scope, " where no valid")
	var rules []string
	for _, r := range in.Policies[0].Rules {
		if r.Mode != model.Strict {
			t.Errorf("stand-in says %s", r.Mode)
		}
		rules = append(rules, strings.TrimSpace(string('0'+rune(r.Rank))+" "+labelText(r.Selector)+portText(r.ContainerPort)))
	}
	return strings.Join(lines, "\n"), scope + ": " + strings.Join(rules, ", ")
}

func portText(port uint16) string {
	if port == 0 {
		return ""
	}
	return placeName("", port)
}

// TestPeerAuthenticationErrors: every row of spec server-policy.md 3, and what
// stands in.
func TestPeerAuthenticationErrors(t *testing.T) {
	const app = "selector: {matchLabels: {app: cart}}, "
	const all, selected = "all of namespace shop: 3", "what it selects: 2 app=cart"
	for _, c := range []struct{ spec, want, standIn string }{
		{"{portLevelMtls: {80: {mode: STRICT}}}", "INVALID spec.portLevelMtls: mesh/namespace peer authentication cannot have port level mTLS", all},
		{"{selector: {}, portLevelMtls: {80: {mode: STRICT}}}", "INVALID spec.portLevelMtls: mesh/namespace peer authentication cannot have port level mTLS", all},
		{"{" + app + "portLevelMtls: {}}", "INVALID spec.portLevelMtls: port level mTLS, if defined, must have at least one element", selected},
		{"{" + app + "portLevelMtls: {0: {mode: STRICT}}}", "INVALID spec.portLevelMtls.0: port must be in range 1..65535", selected},
		{"{" + app + "portLevelMtls: {65536: {mode: STRICT}}}", "INVALID spec.portLevelMtls.65536: port must be in range 1..65535", selected},
		{"{" + app + "portLevelMtls: {-1: {}}}", "INVALID spec.portLevelMtls.-1: port must be in range 1..65535", selected},
		{"{" + app + "portLevelMtls: {http: {mode: STRICT}}}", "INVALID spec.portLevelMtls.http: port must be in range 1..65535", selected},
		{"{" + app + "portLevelMtls: {'080': {mode: STRICT}}}", "INVALID spec.portLevelMtls.080: port must be in range 1..65535", selected},
		{"{" + app + "portLevelMtls: {80: {mode: STRIKT}, 81: {mode: DISABLE}, 82: {mode: UNSET}}}",
			`INVALID spec.portLevelMtls.80.mode: unknown mTLS mode "STRIKT", did you mean "STRICT"?`, "what it selects: 1 app=cart:80, 1 app=cart:81"},
		{"{" + app + "mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: x}}}",
			`INVALID spec.portLevelMtls.80.mode: unknown mTLS mode "x", want one of UNSET, DISABLE, PERMISSIVE, STRICT`, selected + ", 1 app=cart:80"},
		{"{" + app + "portLevelMtls: {80: STRICT}}", `INVALID spec.portLevelMtls.80: want a mapping, got the string "STRICT"`, "what it selects: 1 app=cart:80"},
		{"{" + app + "portLevelMtls: [80]}", "INVALID spec.portLevelMtls: want a mapping, got a list", selected},
		{"{" + app + "portLevelMtls: {80: {mode: STRICT}}, mtsl: {mode: STRICT}}", `INVALID unknown field "spec.mtsl", did you mean "mtls"?`, selected + ", 1 app=cart:80"},
		{"{mtls: {mode: TLS_ONLY}}", `INVALID spec.mtls.mode: unknown mTLS mode "TLS_ONLY", want one of UNSET, DISABLE, PERMISSIVE, STRICT`, all},
		{"{mtls: {mode: strict}}", `INVALID spec.mtls.mode: unknown mTLS mode "strict", did you mean "STRICT"?`, all},
		{"{mtls: {mode: ''}}", `INVALID spec.mtls.mode: unknown mTLS mode "", want one of UNSET, DISABLE, PERMISSIVE, STRICT`, all},
		{"{" + app + "mtls: {mod: DISABLE}}", `INVALID unknown field "spec.mtls.mod", did you mean "mode"?`, selected},
		{"{" + app + "mtls: STRICT}", `INVALID spec.mtls: want a mapping, got the string "STRICT"`, selected},
		{"{selector: {matchlabels: {app: cart}}, mtls: {mode: DISABLE}}", `INVALID unknown field "spec.selector.matchlabels", did you mean "matchLabels"?`, all},
		{"{selector: {matchLabels: {app: 1}}, mtls: {mode: DISABLE}}", `INVALID spec.selector.matchLabels.app: want a string, got the number 1; write "1"`, all},
	} {
		errors, standIn := refusedTexts(t, peerHead+"spec: "+c.spec+"\n")
		equal(t, errors, c.want)
		if standIn != c.standIn {
			t.Errorf("%s\nstand-in %s, want %s", c.spec, standIn, c.standIn)
		}
	}
	errors, standIn := refusedTexts(t, peerHead)
	equal(t, errors, "INVALID spec: spec must be set; spec: {} decides nothing")
	equal(t, standIn, all)
	_, standIn = refusedTexts(t, strings.Replace(peerHead, "shop", "istio-system", 1)+"spec: {mtls: {mode: x}}\n")
	equal(t, standIn, "the whole mesh: 4")
	_, standIn = refusedTexts(t, strings.Replace(peerHead, "shop", "istio-system", 1)+"spec: {"+app+"mtls: {mode: x}}\n")
	equal(t, standIn, selected)
}

func TestPeerAuthentication(t *testing.T) {
	strict, disable := model.Strict, model.Disable
	const app = "selector: {matchLabels: {app: cart}}"
	for spec, want := range map[string]PeerAuthentication{
		"{}":                                   {},
		"{mtls: {}}":                           {},
		"{mtls: null}":                         {},
		"{mtls: {mode: UNSET}}":                {},
		"{mtls: {mode: null}}":                 {},
		"{selector: {}, mtls: {mode: STRICT}}": {Mode: &strict},
		"{" + app + ", portLevelMtls: null, mtls: {mode: DISABLE}}": {Selector: map[string]string{"app": "cart"}, Mode: &disable},
		"{" + app + ", portLevelMtls: {80: {mode: STRICT}, '81': {mode: UNSET}, 82: {}, 65535: {mode: DISABLE}}}": {
			Selector: map[string]string{"app": "cart"}, Ports: map[uint16]model.Mode{80: model.Strict, 65535: model.Disable}},
	} {
		for _, version := range []string{"v1", "v1beta1"} {
			b, got := decodeText("p.yaml", strings.Replace(peerHead, "/v1", "/"+version, 1)+"spec: "+spec+"\n")
			if len(got) > 0 || len(b.PeerAuthentications) != 1 || b.PeerAuthentications[0].Name != "p" {
				t.Fatalf("%s: got %v, %+v", spec, got, b.PeerAuthentications)
			}
			b.PeerAuthentications[0].ObjectMeta = want.ObjectMeta
			equal(t, *b.PeerAuthentications[0], want)
		}
	}
}

func TestPeerRules(t *testing.T) {
	app := map[string]string{"app": "cart"}
	in, problems := compile(t, workedMesh,
		peers("a", "{selector: {matchLabels: {app: cart}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {9000: {mode: STRICT}, 80: {mode: DISABLE}}}"),
		peers("ns", "{mtls: {mode: STRICT}}"), peers("unset", "{selector: {matchLabels: {none: here}}}"),
		strings.Replace(peers("root", "{mtls: {mode: DISABLE}}"), "shop", "istio-system", 1),
		strings.Replace(peers("some", "{selector: {matchLabels: {app: cart}}, mtls: {mode: STRICT}}"), "shop", "istio-system", 1))
	key := func(ns, name string) model.Key {
		return model.Key{Kind: "PeerAuthentication", Namespace: ns, Name: name}
	}
	equal(t, in.Policies, []model.ServerPolicy{
		{Key: key("shop", "a"), Rules: []model.PolicyRule{
			{Rank: model.RankWorkload, Mode: model.Permissive, Selector: app},
			{Rank: model.RankPort, Mode: model.Disable, Selector: app, ContainerPort: 80},
			{Rank: model.RankPort, Mode: model.Strict, Selector: app, ContainerPort: 9000}}},
		{Key: key("shop", "ns"), Rules: []model.PolicyRule{{Rank: model.RankNamespace, Mode: model.Strict}}},
		{Key: key("shop", "unset")},
		{Key: key("istio-system", "root"), Rules: []model.PolicyRule{{Rank: model.RankMesh, Mode: model.Disable}}},
		{Key: key("istio-system", "some"), Rules: []model.PolicyRule{{Rank: model.RankWorkload, Mode: model.Strict, Selector: app}}},
	})
	equal(t, texts(problems), `warning NO_MATCH PeerAuthentication istio-system/some [spec.selector.matchLabels] no workload in namespace istio-system has the labels app=cart, so this object has no effect
warning NO_MATCH PeerAuthentication shop/unset [spec.selector.matchLabels] no workload in namespace shop has the labels none=here, so this object has no effect
info ROOT_SELECTOR PeerAuthentication istio-system/some [spec.selector] with a selector the object is about workloads of namespace istio-system only, although that is the root namespace; without one it is about the mesh`)
}

// TestMeshPolicyErrors: what of spec server-policy.md 2.2 is about MeshPolicy.
func TestMeshPolicyErrors(t *testing.T) {
	for _, c := range []struct{ doc, want string }{
		{strings.Replace(meshPolicyHead, "default", "other", 1) + "spec: {}\n", `INVALID metadata.name: cluster-scoped authentication policy name must be "default"`},
		{strings.Replace(meshPolicyHead, "default", "''", 1) + "spec: {}\n", "INVALID metadata.name: metadata.name must be set"},
		{meshPolicyHead + "spec: {targets: [{name: cart}]}\n", "INVALID spec.targets: cluster-scoped authentication policy must not have targets"},
		{meshPolicyHead + "spec: {peers: [{mtls: {mode: TLS_PERMISSIVE}}]}\n", `INVALID spec.peers[0].mtls.mode: unknown mTLS mode "TLS_PERMISSIVE", want one of STRICT, PERMISSIVE`},
		{meshPolicyHead + "spec: {peers: [{}]}\n", "INVALID spec.peers[0]: peer method must be set"},
		{meshPolicyHead + "spec: {peers: [{mtls: {}}, {mtls: {}}]}\n", "INVALID spec.peers[1]: at most one mtls entry is allowed"},
		{meshPolicyHead + "spec: {peers: [{mtls: {allowTls: true, mode: PERMISSIVE}}]}\n", "INVALID spec.peers[0].mtls.allowTls: allowTls cannot be combined with mode PERMISSIVE"},
		{meshPolicyHead + "spec: {peers: [{mTLS: {}}]}\n", `INVALID unknown field "spec.peers[0].mTLS", did you mean "mtls"?`},
		{meshPolicyHead + "spec: {origins: [{jwt: {}}]}\n", "UNSUPPORTED spec.origins: JWT is not supported yet"},
		{meshPolicyHead, "INVALID spec: spec must be set; spec: {} switches mTLS off in the mesh"},
	} {
		errors, standIn := refusedTexts(t, c.doc)
		equal(t, errors, c.want)
		equal(t, standIn, "the whole mesh: 4")
	}
}

func TestMeshPolicy(t *testing.T) {
	b, got := decodeText("p.yaml", strings.Replace(meshPolicyHead, "name:", "namespace: ignored, name:", 1)+"spec: {peers: [{mtls: {mode: PERMISSIVE}}]}\n")
	if len(got) > 0 || len(b.MeshPolicies) != 1 || b.MeshPolicies[0].Mode != model.Permissive {
		t.Fatalf("got %v, %+v", got, b.MeshPolicies)
	}
	in, _ := Compile(b, "cluster.local")
	equal(t, in.Policies, []model.ServerPolicy{{Key: model.Key{Kind: "MeshPolicy", Name: "default"},
		Rules: []model.PolicyRule{{Rank: model.RankMesh, Mode: model.Permissive}}}})
}

// TestAcceptPeers: an invalid edit of a MeshPolicy or PeerAuthentication keeps
// the accepted version, whatever the API version; nothing stands in for it.
func TestAcceptPeers(t *testing.T) {
	const mesh, good = "mesh.yaml", "spec: {selector: {matchLabels: {app: cart}}, mtls: {mode: PERMISSIVE}}\n---\n"
	v1beta1 := strings.Replace(peerHead, "/v1", "/v1beta1", 1)
	last, problems := merge(Bundle{}, mesh, "# defaults\n", "p", peerHead+good+meshPolicyHead+"spec: {}\n")
	if len(problems) > 0 {
		t.Fatal(texts(problems))
	}
	next, problems := merge(last, mesh, "# defaults\n", "p", v1beta1+"spec: {mtls: {mode: x}}\n---\n"+meshPolicyHead+"spec: {targets: [{name: a}]}\n")
	equal(t, texts(problems), `error INVALID PeerAuthentication shop/p [] spec.mtls.mode: unknown mTLS mode "x", want one of UNSET, DISABLE, PERMISSIVE, STRICT; the last accepted version stays in force
error INVALID MeshPolicy default [] spec.targets: cluster-scoped authentication policy must not have targets; the last accepted version stays in force`)
	equal(t, inForce(next), "MeshPolicy default@p:6 PeerAuthentication shop/p@p:1 mesh=false@mesh.yaml:1")
	was, _ := Inputs(last, "cluster.local")
	is, problems := Inputs(next, "cluster.local")
	equal(t, is.Policies, was.Policies)
	equal(t, texts(problems), "")

	next, _ = merge(next, mesh, "# defaults\n", "p", v1beta1+good+meshPolicyHead+"spec: {peers: [{mtls: {}}]}\n")
	if next.MeshPolicies[0].Mode != model.Strict || len(next.PeerAuthentications) != 1 {
		t.Error("a valid edit is not in force")
	}
	_, problems = Decode(strings.NewReader(peerHead+good+v1beta1+good), "p")
	equal(t, texts(problems), "error DUPLICATE PeerAuthentication shop/p [] is given twice, at p:1 and at p:6; remove one")
}
