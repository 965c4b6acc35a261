package meshconfig

import (
	"fmt"
	"strings"
	"testing"
)

// files is a source's content, file after file: name, text, name, text, …
func merge(last Bundle, files ...string) (Bundle, []Problem) {
	var parts []Bundle
	var problems []Problem
	for i := 0; i < len(files); i += 2 {
		b, found := Decode(strings.NewReader(files[i+1]), files[i])
		parts = append(parts, b)
		problems = append(problems, found...)
	}
	merged, found := Merge(parts, last)
	return merged.Accept(last, append(problems, found...))
}

func inForce(b Bundle) string {
	var out []string
	for key, object := range b.objects() {
		text := key.String()
		if p, ok := object.(*Policy); ok {
			text += "=" + p.Mode.String()
		}
		out = append(out, text+"@"+b.Positions[key].String())
	}
	if b.Mesh != nil {
		out = append(out, fmt.Sprintf("mesh=%v@%s", b.Mesh.MutualTLS, b.Positions[b.Mesh.Key]))
	}
	for _, i := range b.Invalid {
		out = append(out, "invalid "+i.On.String())
	}
	return strings.Join(out, " ")
}

func policyText(name, peers string) string {
	return fmt.Sprintf("apiVersion: authentication.istio.io/v1alpha1\nkind: Policy\nmetadata: {name: %s}\nspec: {peers: [%s]}\n---\n", name, peers)
}

// TestAccept: what is in force after an edit, and what is said about it.
func TestAccept(t *testing.T) {
	a, b := policyText("a", "{mtls: }"), policyText("b", "{mtls: {mode: PERMISSIVE}}")
	const mesh = "mesh.yaml"
	for _, c := range []edit{
		{"unchanged", []string{mesh, "#", "p", a}, []string{mesh, "#", "p", a},
			"Policy default/a=STRICT@p:1 mesh=false@mesh.yaml:1", ""},
		{"valid edit", []string{mesh, "#", "p", a}, []string{mesh, "authPolicy: MUTUAL_TLS", "p", policyText("a", "")},
			"Policy default/a=DISABLE@p:1 mesh=true@mesh.yaml:1", ""},
		{"deleted", []string{mesh, "#", "p", a + b}, []string{mesh, "#", "p", b},
			"Policy default/b=PERMISSIVE@p:1 mesh=false@mesh.yaml:1", ""},
		{"file deleted", []string{mesh, "#", "p", a + b}, []string{mesh, "#"}, "mesh=false@mesh.yaml:1", ""},
		{"moved", []string{mesh, "#", "p", a}, []string{mesh, "#", "q", a}, "Policy default/a=STRICT@q:1 mesh=false@mesh.yaml:1", ""},
		{"invalid edit", []string{mesh, "#", "p", a + b}, []string{mesh, "#", "p", policyText("a", "{}, {mtls: {mode: x}}") + b},
			"Policy default/b=PERMISSIVE@p:6 Policy default/a=STRICT@p:1 mesh=false@mesh.yaml:1",
			`error INVALID p:4: Policy default/a: spec.peers[0]: peer method must be set; spec.peers[1].mtls.mode: unknown mTLS mode "x", want one of STRICT, PERMISSIVE; the last accepted version stays in force`},
		{"refused edit", []string{mesh, "#", "p", a}, []string{mesh, "#", "p", policyText("a", "{jwt: {}}")},
			"Policy default/a=STRICT@p:1 mesh=false@mesh.yaml:1",
			`error UNSUPPORTED p:4: Policy default/a: spec.peers[0].jwt: JWT is not supported yet; the last accepted version stays in force`},
		{"new and invalid", []string{mesh, "#", "p", a}, []string{mesh, "#", "p", a + policyText("n", "{}")},
			"Policy default/a=STRICT@p:1 mesh=false@mesh.yaml:1 invalid Policy default/n",
			`error INVALID p:9: Policy default/n: spec.peers[0]: peer method must be set`},
		{"torn", []string{mesh, "#", "p", a + b}, []string{mesh, "#", "p", policyText("a", "") + "kind: [\n"},
			"Policy default/a=DISABLE@p:1 Policy default/b=PERMISSIVE@p:6 mesh=false@mesh.yaml:1",
			`error INVALID p:6: not valid YAML: did not find expected node content; the file ends here, is it written only in half?; the last accepted version of what the file held stays in force`},
		{"name lost", []string{mesh, "#", "p", a}, []string{mesh, "#", "p", strings.Replace(a, "name: a", "", 1)},
			"Policy default/a=STRICT@p:1 mesh=false@mesh.yaml:1 invalid Policy default/",
			`error INVALID p:3: Policy default/: metadata.name: metadata.name must be set; the last accepted version of what the file held stays in force`},
		{"torn mesh", []string{mesh, "authPolicy: MUTUAL_TLS"}, []string{mesh, "authPolicy: [\n"}, "mesh=true@mesh.yaml:1",
			`error INVALID mesh.yaml:1: not valid YAML: did not find expected node content; the file ends here, is it written only in half?; the last accepted version of what the file held stays in force`},
		{"invalid mesh", []string{mesh, "authPolicy: MUTUAL_TLS"}, []string{mesh, "authPolicy: none\nproxyListenPort: 0"}, "mesh=true@mesh.yaml:1",
			`error INVALID mesh.yaml:1: MeshConfig mesh.yaml: authPolicy: unrecognized auth policy "none", did you mean "NONE"?; proxyListenPort: invalid proxy listen port 0: port number 0 must be in the range 1..65535; the last accepted version stays in force`},
		{"mesh deleted", []string{mesh, "authPolicy: MUTUAL_TLS"}, nil, "mesh=true@mesh.yaml:1",
			`error NO_MESH_CONFIG mesh.yaml: MeshConfig mesh.yaml: the mesh configuration is gone or empty; the last accepted version stays in force`},
		{"never a mesh", nil, nil, "",
			`info NO_MESH_CONFIG MeshConfig mesh.yaml: no mesh configuration; the built-in defaults are in force`},
		{"mesh appears", nil, []string{mesh, "authPolicy: MUTUAL_TLS"}, "mesh=true@mesh.yaml:1", ""},
		{"mesh moves", []string{mesh, "authPolicy: MUTUAL_TLS"},
			[]string{"c", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata: {mesh: ''}\n"}, "mesh=false@c:1", ""},
		{"trust domain", []string{mesh, "authPolicy: MUTUAL_TLS"}, []string{mesh, "trustDomain: new\ndefaultConfig: {concurrency: 3}"}, "mesh=true@mesh.yaml:1",
			`error INVALID mesh.yaml:1: MeshConfig mesh.yaml: trustDomain: trust domain change needs the old value in trustDomainAliases: cluster.local; the last accepted version stays in force`},
		{"restart needed", []string{mesh, "#"}, []string{mesh, "defaultConfig: {concurrency: 3}"}, "mesh=false@mesh.yaml:1",
			`info RESTART_NEEDED mesh.yaml:1: MeshConfig mesh.yaml: defaultConfig.concurrency: reaches a proxy at its next start`},
		{"second place after", []string{mesh, "#", "p", a}, []string{mesh, "#", "p", a, "q", policyText("a", "")},
			"Policy default/a=STRICT@p:1 mesh=false@mesh.yaml:1",
			`error DUPLICATE q:1: Policy default/a: is given twice, at p:1 and at q:1; remove one`},
		{"second place before", []string{mesh, "#", "p", a}, []string{mesh, "#", "b", policyText("a", ""), "p", a},
			"Policy default/a=STRICT@p:1 mesh=false@mesh.yaml:1",
			`error DUPLICATE b:1: Policy default/a: is given twice, at p:1 and at b:1; remove one`},
		{"second mesh before", []string{mesh, "authPolicy: MUTUAL_TLS"},
			[]string{"c", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata: {mesh: ''}\n", mesh, "authPolicy: MUTUAL_TLS"}, "mesh=true@mesh.yaml:1",
			`error DUPLICATE c:1: ConfigMap default/istio: mesh settings are given twice, here and as MeshConfig mesh.yaml at mesh.yaml:1; remove one`},
		{"invalid in a second place", []string{mesh, "#", "p", a}, []string{mesh, "#", "p", a, "q", policyText("a", "{}")},
			"Policy default/a=STRICT@p:1 mesh=false@mesh.yaml:1",
			`error INVALID q:4: Policy default/a: spec.peers[0]: peer method must be set`},
	} {
		c.check(t)
	}
}

// TestAcceptNotDeleted: what only seems to be gone stays.
func TestAcceptNotDeleted(t *testing.T) {
	a := policyText("a", "{mtls: }")
	const mesh = "mesh.yaml"
	for _, c := range []edit{
		{"namespace with a slip", []string{mesh, "#", "p", a}, []string{mesh, "#", "p", strings.Replace(a, "{name: a}", "{name: a, namespace: Shop}", 1)},
			"Policy default/a=STRICT@p:1 mesh=false@mesh.yaml:1 invalid Policy Shop/a",
			`error INVALID p:3: Policy Shop/a: metadata.namespace: namespace "Shop" must be a valid label (lower-case letters, digits and '-'); the last accepted version of what the file held stays in force`},
		{"field of the namespace with a slip", []string{mesh, "#", "p", strings.Replace(a, "{name: a}", "{name: a, namespace: shop}", 1)},
			[]string{mesh, "#", "p", strings.Replace(a, "{name: a}", "{name: a, namespce: shop}", 1)},
			"Policy shop/a=STRICT@p:1 mesh=false@mesh.yaml:1 invalid Policy default/a",
			`error INVALID p:3: Policy default/a: unknown field "metadata.namespce", did you mean "namespace"?; the last accepted version of what the file held stays in force`},
		{"mesh emptied", []string{mesh, "authPolicy: MUTUAL_TLS"}, []string{mesh, " \n"}, "mesh=true@mesh.yaml:1",
			`error NO_MESH_CONFIG mesh.yaml: MeshConfig mesh.yaml: the mesh configuration is gone or empty; the last accepted version stays in force`},
		{"mesh commented out", []string{mesh, "authPolicy: MUTUAL_TLS"}, []string{mesh, "# authPolicy: MUTUAL_TLS"}, "mesh=false@mesh.yaml:1", ""},
	} {
		c.check(t)
	}
}

// edit is a step from one content of files to another, what is in force after
// it, and what is said.
type edit struct {
	name         string
	first, then  []string
	want, reason string
}

func (c edit) check(t *testing.T) {
	t.Helper()
	last, _ := merge(Bundle{}, c.first...)
	next, problems := merge(last, c.then...)
	var got []string
	for _, p := range problems {
		got = append(got, fmt.Sprintf("%s %s %s", p.Severity, p.Code, p))
	}
	wantProblems(t, c.name, got, c.reason)
	if inForce(next) != c.want {
		t.Errorf("%s: in force\n got %s\nwant %s", c.name, inForce(next), c.want)
	}
	// The same again changes nothing, and a source without positions works.
	again, _ := merge(next, c.then...)
	if inForce(again) != c.want {
		t.Errorf("%s: the second time\n got %s\nwant %s", c.name, inForce(again), c.want)
	}
}

// TestAcceptWithoutPositions is a source without files.
func TestAcceptWithoutPositions(t *testing.T) {
	last, _ := Decode(strings.NewReader(policyText("a", "{mtls: }")), "x")
	last.Positions = nil
	bad, problems := Decode(strings.NewReader(policyText("a", "{}")), "x")
	bad.Positions = nil
	next, _ := bad.Accept(last, problems)
	if got := inForce(next); got != "Policy default/a=STRICT@" {
		t.Errorf("got %s", got)
	}
}

// TestApply: an edit replaces what has its keys, and nothing else.
func TestApply(t *testing.T) {
	last, _ := merge(Bundle{}, "mesh.yaml", "authPolicy: NONE\n", "a", policyText("one", ""), "b", policyText("two", ""),
		"c", policyText("three", "{mtls: {mode: ODD}}"))
	edit, _ := merge(Bundle{}, "e", policyText("one", "{mtls: }")+policyText("three", "")+
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'authPolicy: MUTUAL_TLS'}\n")
	next, problems := last.Apply(edit)
	if got, want := inForce(next), "Policy default/one=STRICT@e:1 Policy default/three=DISABLE@e:6 Policy default/two=DISABLE@b:1 mesh=true@e:11"; got != want || len(problems) > 0 {
		t.Errorf("%s\nwant %s, problems %v", got, want, problems)
	}
	if got, want := inForce(last), "Policy default/one=DISABLE@a:1 Policy default/two=DISABLE@b:1 mesh=false@mesh.yaml:1 invalid Policy default/three"; got != want {
		t.Errorf("the bundle itself is now %s\nwant %s", got, want)
	}
}
