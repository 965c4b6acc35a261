package strict

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	networkingv1 "istio.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

type inner struct {
	Number int32    `json:"number"`
	Names  []string `json:"names"`
}

type Head struct {
	APIVersion string `json:"apiVersion"`
}

type outer struct {
	Head   `json:",inline"`
	Text   string             `json:"text"`
	Flag   *bool              `json:"flag"`
	Port   uint16             `json:"port"`
	Share  float64            `json:"share"`
	Inner  *inner             `json:"inner"`
	List   []inner            `json:"list"`
	Labels map[string]string  `json:"labels"`
	Target intstr.IntOrString `json:"target"`
	CPU    resource.Quantity  `json:"cpu"`
	Raw    *yaml.Node         `json:"raw"`
	Maybe  Given[inner]       `json:"maybe"`
	Bytes  []byte             `json:"bytes"`
	Free   any                `json:"free"`
	//lint:ignore U1000 the decoder must pass over it
	hidden string
}

func decode(t *testing.T, text string, into any) []string {
	t.Helper()
	docs, fault := Documents([]byte(text))
	if fault != nil {
		return []string{fmt.Sprintf("%d: %s", fault.Line, fault.Text)}
	}
	var d Decoder
	var out []string
	for _, doc := range docs {
		for _, f := range d.Decode(doc, into) {
			out = append(out, fmt.Sprintf("%d: %s: %s", f.Line, f.Path, f.Text))
		}
	}
	return out
}

func TestFaults(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"text: hello", ""},
		{"text: 1", `1: text: want a string, got the number 1; write "1"`},
		{"text: 1.5", `1: text: want a string, got the number 1.5; write "1.5"`},
		{"text: true", `1: text: want a string, got the boolean true; write "true"`},
		{"text: off", `1: text: want a string, got the boolean off; write "off"`},
		{"text: 'off'", ""},
		{"text: 2024-01-02", ""},
		{"text: [a]", "1: text: want a string, got a list"},
		{"text: {a: b}", "1: text: want a string, got a mapping"},
		{"text: null", ""},
		{"text: !custom a", "1: text: want a string, got the YAML tag !custom"},
		{"flag: yes", ""},
		{"flag: 'true'", `1: flag: want true or false, got the string "true"; write true without quotes`},
		{"flag: 1", "1: flag: want true or false, got the number 1"},
		{"port: 80", ""},
		{"port: 0x50", ""},
		{`port: "80"`, `1: port: want a number, got the string "80"; write 80 without quotes`},
		{"port: eighty", `1: port: want a number, got the string "eighty"`},
		{"port: 80.5", "1: port: want a whole number, got the number 80.5"},
		{"port: -1", "1: port: want a number from 0 to 65535, got -1"},
		{"port: 65536", "1: port: want a number from 0 to 65535, got 65536"},
		{"port: 99999999999999999999999", "1: port: want a whole number, got the number 99999999999999999999999"},
		{"port: {}", "1: port: want a number, got a mapping"},
		{"share: 0.5", ""},
		{"share: half", `1: share: want a number, got the string "half"`},
		{"inner: 3", "1: inner: want a mapping, got the number 3"},
		{"list: {number: 1}", `1: list: want a list (lines that start with "- "), got a mapping`},
		{"list:\n- number: 1\n- number: x", `3: list[1].number: want a number, got the string "x"`},
		{"list:\n- nunber: 1", `2: list[0].nunber: unknown field "list[0].nunber", did you mean "number"?`},
		{"labels:\n  a.b/c: 1", `2: labels[a.b/c]: want a string, got the number 1; write "1"`},
		{"labels:\n  a: x\n  a: y", `3: labels.a: duplicate field "labels.a"`},
		{"labels: {1: x}", ""},
		{"labels: {true: x}", `1: labels.true: a key must be a string, got the boolean true; write "true"`},
		{"labels: {[a]: x}", `1: labels.?: a key must be a string, got a list; write ""`},
		{"target: 80", ""},
		{"target: http", ""},
		{"target: true", "1: target: want a number or a name, got the boolean true"},
		{"cpu: 100m", ""},
		{"cpu: 1.5", ""},
		{"cpu: many", `1: cpu: got the string "many": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'`},
		{"bytes: aGk=", ""},
		{"bytes: '?'", `1: bytes: want base64, got the string "?"`},
		{"free: [anything, {at: all}]", ""},
		{"texd: a", `1: texd: unknown field "texd", did you mean "text"?`},
		{"TEXT: a", `1: TEXT: unknown field "TEXT", did you mean "text"?`},
		{"other: a", `1: other: unknown field "other"`},
		{"hidden: a", `1: hidden: unknown field "hidden"`},
		{"? [a]\n: b", "1: ?: a field's name must be a string, got a list"},
		{"text: a\ntext: b", `2: text: duplicate field "text"`},
		{"apiVersion: v1", ""},
		{"- a", "1: : want a mapping, got a list"},
		{"inner: &x {number: 1}\nlist: [*x, *x]", ""},
		{"inner:\n  <<: {number: 1, names: [a]}\n  number: 2", ""},
		{"inner:\n  <<: 3", "2: inner: << wants a mapping, got the number 3"},
		{"raw: &a [*a, *a, *a]\nlist: *a", "2: list: aliases repeat too much; write the text out"},
	} {
		var o outer
		if got := strings.Join(decode(t, c.text, &o), "; "); got != c.want {
			t.Errorf("%q\n got %s\nwant %s", c.text, got, c.want)
		}
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	got := decode(t, "text: 1\nport: x\nfoo: 2\nlist:\n- number: 1\n  number: 2", &outer{})
	want := []string{
		`1: text: want a string, got the number 1; write "1"`,
		`2: port: want a number, got the string "x"`,
		`3: foo: unknown field "foo"`,
		`6: list[0].number: duplicate field "list[0].number"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestValues(t *testing.T) {
	o := outer{Text: "default", List: []inner{{Number: 7}}, Labels: map[string]string{"a": "b"}}
	faults := decode(t, `
apiVersion: v1
text: null
flag: yes
port: 0b101
inner: &base {number: 1, names: [a]}
list: []
maybe:
  <<: *base
  number: 2
raw: {b: c}
target: web
cpu: 100m
bytes: aGk=
`, &o)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if o.APIVersion != "v1" || o.Text != "default" || !*o.Flag || o.Port != 5 || o.Inner.Number != 1 {
		t.Errorf("got %+v", o)
	}
	if o.List == nil || len(o.List) != 0 || o.Labels["a"] != "b" {
		t.Errorf("a list replaces, an absent map stays: got %+v %+v", o.List, o.Labels)
	}
	if !o.Maybe.Set || o.Maybe.Value.Number != 2 || !slices.Equal(o.Maybe.Value.Names, []string{"a"}) {
		t.Errorf("merge: got %+v", o.Maybe)
	}
	if o.Raw == nil || o.Target.StrVal != "web" || o.CPU.MilliValue() != 100 || string(o.Bytes) != "hi" {
		t.Errorf("got %+v", o)
	}
	var null outer
	if decode(t, "maybe:", &null); !null.Maybe.Set {
		t.Error("null counts as given")
	}
}

func TestMessages(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"hosts: [a]", ""},
		{"hosts: a", `1: hosts: want a list (lines that start with "- "), got the string "a"`},
		{"hosts: [1]", `1: hosts[0]: want a string, got the number 1; write "1"`},
		{"host: [a]", `1: host: unknown field "host", did you mean "hosts"?`},
		{"export_to: [a]", `1: export_to: unknown field "export_to", did you mean "exportTo"?`},
		{"hosts: [a]\nhosts: [b]", `2: hosts: duplicate field "hosts"`},
		{"location: mesh_external", `1: location: unknown value "mesh_external", did you mean "MESH_EXTERNAL"?`},
		{"location: elsewhere", `1: location: unknown value "elsewhere", want one of MESH_EXTERNAL, MESH_INTERNAL`},
		{"location: 1", `1: location: want one of MESH_EXTERNAL, MESH_INTERNAL, got the number 1`},
		{"ports: [{number: -1}]", "1: ports[0].number: want a number from 0 to 4294967295, got -1"},
		{"ports: [80]", "1: ports[0]: want a mapping, got the number 80"},
		{"ports: [null, {nmae: a}]", `1: ports[1].nmae: unknown field "ports[1].nmae", did you mean "name"?`},
		{"endpoints: [{ports: {http: x}}]", `1: endpoints[0].ports.http: want a number, got the string "x"`},
		{"endpoints: [{ports: [x]}]", `1: endpoints[0].ports: want a mapping, got a list`},
		{"endpoints: [{ports: {a: 1, a: 2}}]", `1: endpoints[0].ports.a: duplicate field "endpoints[0].ports.a"`},
		{"workloadSelector: {labels: {a: b}}", ""},
		{"- a", "1: : want a mapping, got a list"},
	} {
		if got := strings.Join(decode(t, c.text, &networkingv1.ServiceEntry{}), "; "); got != c.want {
			t.Errorf("%q\n got %s\nwant %s", c.text, got, c.want)
		}
	}
	var s networkingv1.ServiceEntry
	decode(t, "ports: [null, {number: 80}]\nlocation: MESH_INTERNAL\nresolution: null", &s)
	if len(s.Ports) != 2 || s.Ports[1].Number != 80 || s.Location != networkingv1.ServiceEntry_MESH_INTERNAL {
		t.Errorf("got %v", &s)
	}
}

// TestWellKnown: durations, wrappers and the scalars that ServiceEntry lacks.
func TestWellKnown(t *testing.T) {
	var rule networkingv1.DestinationRule
	faults := decode(t, `
host: a
trafficPolicy:
  connectionPool:
    tcp: {connectTimeout: 1.5s, maxConnections: 7}
    http: {useClientProtocol: true}
  outlierDetection: {consecutive5xxErrors: 3}
  loadBalancer: {warmup: {duration: 1s, aggression: 1.5}}
`, &rule)
	p := rule.TrafficPolicy
	if len(faults) > 0 || p.ConnectionPool.Tcp.ConnectTimeout.AsDuration().Milliseconds() != 1500 || p.ConnectionPool.Tcp.MaxConnections != 7 ||
		!p.ConnectionPool.Http.UseClientProtocol || p.OutlierDetection.Consecutive_5XxErrors.GetValue() != 3 ||
		p.LoadBalancer.Warmup.Aggression.GetValue() != 1.5 {
		t.Errorf("got %v, %v", faults, &rule)
	}
	for text, want := range map[string]string{
		"trafficPolicy: {connectionPool: {tcp: {connectTimeout: soon}}}":                         `1: trafficPolicy.connectionPool.tcp.connectTimeout: got the string "soon", which is no google.protobuf.Duration`,
		"trafficPolicy: {connectionPool: {tcp: {connectTimeout: {seconds: 1}}}}":                 "1: trafficPolicy.connectionPool.tcp.connectTimeout: got a mapping, which is no google.protobuf.Duration",
		"trafficPolicy: {connectionPool: {http: {useClientProtocol: 'yes'}}}":                    `1: trafficPolicy.connectionPool.http.useClientProtocol: want true or false, got the string "yes"; write true without quotes`,
		"trafficPolicy: {outlierDetection: {minHealthPercent: 50.5}}":                            "1: trafficPolicy.outlierDetection.minHealthPercent: want a whole number, got the number 50.5",
		"trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: a, ttl: [1, {}]}}}}": "1: trafficPolicy.loadBalancer.consistentHash.httpCookie.ttl: got a list, which is no google.protobuf.Duration",
	} {
		if got := strings.Join(decode(t, text, &networkingv1.DestinationRule{}), "; "); got != want {
			t.Errorf("%q\n got %s\nwant %s", text, got, want)
		}
	}
}

func TestSyntax(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"tab", "a:\n\tb: 1\n", "2: a tab indents this line; YAML takes spaces only, write spaces instead"},
		{"tab after spaces", "a:\n  b: 1\n  \tc: 2\n", "3: a tab indents this line; YAML takes spaces only, write spaces instead"},
		{"tab deep in a file", strings.Repeat("# x\n", 20) + "a:\n  b:\n\t- c\n", "23: a tab indents this line; YAML takes spaces only, write spaces instead"},
		{"half a string", "a: \"b\nc: d\n", "2: not valid YAML: found unexpected end of stream; the file ends here, is it written only in half?"},
		{"half a list", "a: [b,\n", "1: not valid YAML: did not find expected node content; the file ends here, is it written only in half?"},
		{"half a key", "a: b\nc", "2: not valid YAML: could not find expected ':'; the file ends here, is it written only in half?"},
		{"indent", "a:\n   b: 1\n  c: 2\nd: 1\ne: 1\n", "2: not valid YAML: did not find expected key"},
		{"anchor", "a: *b\nc: 1\n", "1: not valid YAML: unknown anchor 'b' referenced"},
		{"bytes", "a: \xff\n", "1: not valid YAML: invalid leading UTF-8 octet; the file ends here, is it written only in half?"},
		{"binary", "a\x00b", "1: not valid YAML: control characters are not allowed; the file ends here, is it written only in half?"},
	} {
		if got := strings.Join(decode(t, c.text, &outer{}), "; "); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestDocuments(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "# only a comment\n": 0, "---\n---\n": 0, "a: 1\n---\n---\nb: 1\n...\n": 2, `{"a": 1}`: 1, "\ufeffa: 1\n": 1, "a: 1\r\n---\r\nb: 1\r\n": 2,
	} {
		docs, fault := Documents([]byte(text))
		if fault != nil || len(docs) != want {
			t.Errorf("%q: got %d documents, %v", text, len(docs), fault)
		}
	}
}

func TestLine(t *testing.T) {
	docs, _ := Documents([]byte("a:\n  b:\n  - c: 1\n  - d:\n      x.y/z: 2\n"))
	for path, want := range map[string]int{
		"": 1, "a": 1, "a.b": 2, "a.b[0].c": 3, "a.b[1].d": 4, "a.b[1].d[x.y/z]": 5, "a.b[1].nothing": 4, "a.nothing.c": 1, "a.b[7]": 2, "a.b[x": 2,
	} {
		if got := Line(docs[0], path); got != want {
			t.Errorf("%q: got line %d, want %d", path, got, want)
		}
	}
}

func TestEmbedded(t *testing.T) {
	docs, _ := Documents([]byte("data:\n  mesh: |\n    a: 1\n    b: 2\n  broken: |\n    a: 1\n    b: [\n  two: |\n    a: 1\n    ---\n    b: 1\n  none: |\n    # a\n  short: 'a: 1'\n"))
	data := Get(docs[0], "data")
	doc, fault := Embedded(Get(data, "mesh"))
	if fault != nil || Line(doc, "b") != 4 {
		t.Errorf("got line %d, %v", Line(doc, "b"), fault)
	}
	if _, fault := Embedded(Get(data, "broken")); fault == nil || fault.Line != 7 {
		t.Errorf("got %+v", fault)
	}
	if _, fault := Embedded(Get(data, "two")); fault == nil || fault.Line != 11 {
		t.Errorf("got %+v", fault)
	}
	if doc, fault := Embedded(Get(data, "none")); doc != nil || fault != nil {
		t.Errorf("got %+v, %v", doc, fault)
	}
	if doc, _ := Embedded(Get(data, "short")); Line(doc, "a") != 14 {
		t.Errorf("got line %d", Line(doc, "a"))
	}
}

func TestNearest(t *testing.T) {
	names := []string{"mtls", "jwt", "targets", "targetPort", "MUTUAL_TLS", "NONE"}
	for name, want := range map[string]string{
		"mTLS": "mtls", "tragets": "targets", "target": "targets", "targetport": "targetPort", "mutual_tls": "MUTUAL_TLS", "foo": "", "": "", "jtw": "jwt", "x": "",
		"none": "NONE",
	} {
		if got := Nearest(name, names); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

// TestDeep: neither depth nor repetition may exhaust the machine.
func TestDeep(t *testing.T) {
	for name, text := range map[string]string{
		"depth":  "free: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"bomb":   "raw:\n- &a [x,x,x,x,x,x,x,x,x]\n- &b [*a,*a,*a,*a,*a,*a,*a,*a]\n- &c [*b,*b,*b,*b,*b,*b,*b,*b]\n- &d [*c,*c,*c,*c,*c,*c,*c,*c]\n- &e [*d,*d,*d,*d,*d,*d,*d,*d]\n- &f [*e,*e,*e,*e,*e,*e,*e,*e]\n- &g [*f,*f,*f,*f,*f,*f,*f,*f]\nlist: [*g, *g, *g, *g]\n",
		"merges": "raw:\n- &a {x: 1, <<: [{y: 1}]}\n- &b {<<: [*a, *a, *a]}\nlist: [{<<: *b}]\n",
		"self":   "inner: &a {<<: *a}\n",
	} {
		faults := decode(t, text, &outer{})
		if len(faults) > 1000 {
			t.Errorf("%s: got %d faults", name, len(faults))
		}
	}
}
