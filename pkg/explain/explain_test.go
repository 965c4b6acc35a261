package explain

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
)

type sentence struct {
	name, from, to string
	change         func(*model.Inputs)
	verdict        Verdict
	want           []string // in the text
}

func strictAll(in *model.Inputs) { in.Policies[2].Rules[0].Mode = model.Strict }

func ruled(mode model.ClientTLS) func(*model.Inputs) {
	return func(in *model.Inputs) {
		in.Rules = []model.DestinationRule{{
			Key: model.Key{Kind: "DestinationRule", Namespace: "shop", Name: "secure"}, Host: "secure.shop.svc.cluster.local",
			Policy: &model.TrafficPolicy{Traffic: model.Traffic{TLS: &model.TLSSettings{Mode: mode}}},
		}}
	}
}

func inPhase(p model.Phase) func(*model.Inputs) {
	return func(in *model.Inputs) {
		in.Phases = map[model.Target]model.Phase{{Namespace: "shop", Group: "cart-1-deployment", Port: 8081}: p}
	}
}

// underWay: while a change of mode is carried out in phases.
func underWay() []sentence {
	return []sentence{
		{"under way", "shop/web", "secure:80", inPhase(model.PhaseOpened), VerdictPlaintext, []string{
			"STRICT, set by Policy shop/secure for this port (shop.yaml:7)\n          in phase PERMISSIVE on the way there; pilot status says what it waits for\n",
			"client  plaintext: AUTO: a change to STRICT is under way, in which clients do not send mTLS now"}},
		{"under way, refused", "shop/old", "secure:80", inPhase(model.PhaseGrace), VerdictRefused, []string{
			"in phase GRACE on the way there", "accepts only mutual TLS (STRICT, set by Policy shop/secure)"}},
	}
}

// sentences: each kind of destination has one, and each call that fails or is
// plaintext its remedy.
func sentences() []sentence {
	return []sentence{
		{"mixed service", "shop/web", "cart:80", nil, VerdictMixed, []string{
			"A call would work (200) at each of 2 endpoints, in mesh mTLS at 1 and in plaintext at 1.",
			"PERMISSIVE, set by Policy shop/all for the namespace\n", "client  plaintext: AUTO: it has no sidecar",
			"SNI   outbound_.80_._.cart.shop.svc.cluster.local",
			"To have no plaintext:\n  Pod shop/cart-2: metadata.labels: a sidecar"}},
		{"without a sidecar, partly", "shop/old", "cart:80", strictAll, VerdictPartly, []string{
			"A call would work at 1 of 2 endpoints, in plaintext; at shop/cart-1 it would fail: 403, plaintext refused: cart.shop",
			"a new Policy in namespace shop: spec: {targets: [{name: cart, ports: [{number: 80}]}], peers: [{mtls: {mode: PERMISSIVE}}]} - "}},
		{"refused, with a tie", "shop/old", "secure.shop:80", nil, VerdictRefused, []string{
			"A call would be refused: 403, plaintext refused: secure.shop.svc.cluster.local:80 accepts only mutual TLS (STRICT, set by Policy shop/secure).",
			"STRICT, set by Policy shop/secure for this port (shop.yaml:7)\n          over Policy shop/secure-too for this port too: a tie, which the oldest valid one wins\n          over Policy shop/all for the namespace, PERMISSIVE\n          over mesh config authPolicy, DISABLE\n",
			"Policy shop/secure (shop.yaml:7): spec.peers: [{mtls: {mode: PERMISSIVE}}] - "}},
		{"TCP is closed", "shop/old", "tcp:7000", nil, VerdictRefused, []string{"A call would be refused: closed, shop/cart-1 refuses plaintext."}},
		{"excluded", "shop/web", "secure:80", func(in *model.Inputs) { in.Mesh.Excluded = []string{"*.shop.svc.cluster.local"} }, VerdictRefused, []string{
			"client  plaintext: mtlsExcludedServices names the host (*.shop.svc.cluster.local)",
			"mesh config: mtlsExcludedServices: without *.shop.svc.cluster.local - "}},
		{"auto off, mTLS to nobody", "shop/web", "cart:80", func(in *model.Inputs) { in.Mesh.AutoMTLS, in.Mesh.MutualTLS = false, true }, VerdictPartly, []string{
			"503, mesh mTLS to shop/cart-2, which has no sidecar", "enableAutoMtls is false and authPolicy is MUTUAL_TLS",
			"mesh config: enableAutoMtls: true - ", "mesh config: mtlsExcludedServices: with cart.shop.svc.cluster.local - "}},
		{"auto off, plaintext", "shop/web", "secure:80", func(in *model.Inputs) { in.Mesh.AutoMTLS = false }, VerdictRefused, []string{
			"enableAutoMtls is false and authPolicy is NONE"}},
		{"stand-in", "shop/old", "secure:80", func(in *model.Inputs) { in.Policies[0].StandIn = true; in.Policies = in.Policies[:1] }, VerdictRefused, []string{
			"set by Policy shop/secure which is invalid", "Policy shop/secure (shop.yaml:7): correct it - "}},
		{"server first", "shop/web", "mysql:3306", nil, VerdictPlaintext, []string{
			"AUTO: mysql servers speak first, and such a port takes plaintext only in PERMISSIVE",
			"mysql servers speak first: nothing inspects the port", "spec.ports[mysql].name: tcp-mysql - "}},
		{"server first, strict", "shop/old", "mysql:3306", strictAll, VerdictRefused, []string{"peers: []} - the port then takes plaintext, and no mesh mTLS any more"}},
		{"inspected", "shop/web", "tcp:7000", func(in *model.Inputs) { in.Policies = in.Policies[2:] }, VerdictMTLS, []string{"is served after 0.5 s"}},
		{"a rule says DISABLE", "shop/web", "secure:80", ruled(model.ClientPlain), VerdictRefused, []string{
			"client  plaintext: DestinationRule shop/secure says DISABLE\n", "DestinationRule shop/secure: tls for port 80: none - clients then follow each endpoint's mode"}},
		{"a rule says DISABLE, auto off", "shop/web", "secure:80", func(in *model.Inputs) { ruled(model.ClientPlain)(in); in.Mesh.AutoMTLS = false }, VerdictRefused, []string{
			"DestinationRule shop/secure: tls for port 80: mode ISTIO_MUTUAL - "}},
		{"a rule says ISTIO_MUTUAL", "shop/web", "secure:80", ruled(model.ClientMesh), VerdictMTLS, []string{"mesh mTLS: DestinationRule shop/secure says ISTIO_MUTUAL"}},
		{"a rule says SIMPLE", "shop/web", "secure:80", ruled(model.ClientSimple), VerdictFails, []string{"client  TLS: DestinationRule shop/secure says SIMPLE"}},
		{"a rule says SIMPLE to the outside", "shop/web", "outside:80", func(in *model.Inputs) {
			in.Rules = []model.DestinationRule{{Key: model.Key{Kind: "DestinationRule", Namespace: "shop", Name: "r"}, Host: "outside.shop.svc.cluster.local",
				Policy: &model.TrafficPolicy{Traffic: model.Traffic{TLS: &model.TLSSettings{Mode: model.ClientSimple}}}}}
		}, VerdictRuleTLS, []string{"A call would leave the mesh in TLS;", "SNI   outside.shop.svc.cluster.local\n"}},
		{"an invalid rule", "shop/web", "cart:80", func(in *model.Inputs) {
			in.Rules = []model.DestinationRule{{Key: model.Key{Kind: "DestinationRule", Namespace: "shop", Name: "r"}, Host: "cart.shop.svc.cluster.local", StandIn: true}}
		}, VerdictMTLS, []string{"DestinationRule shop/r which is invalid, so mesh mTLS goes to those who accept it, and nothing to anybody else"}},
		{"TLS_ONLY ends TLS", "shop/old", "https:443", func(in *model.Inputs) {
			in.Services = append(in.Services, service("https", "10.96.0.9", model.HTTPS, 443, 8443, "cart-1"))
			in.Policies[2].Rules[0].Mode = model.TLSOnly
		}, VerdictAppTLS, []string{"the call works only if the application behind it speaks plaintext."}},
		{"nobody", "shop/web", "empty:80", nil, VerdictNobody, []string{
			"A call would fail (503): nobody is ready behind empty.shop.svc.cluster.local:80.", "Service shop/empty: spec.selector: "}},
		{"nobody, without a sidecar", "shop/old", "empty:80", nil, VerdictNobody, []string{"A call would fail (closed): nobody is ready"}},
		{"headless", "shop/web", "db:5432", nil, VerdictMixed, []string{
			"10.0.0.21:5432 shop/db-0\n", "10.0.0.22:5432 shop/db-1\n", "is headless: the caller chooses a pod by DNS"}},
		{"a pod of a headless service", "shop/web", "db-0.db:5432", nil, VerdictMTLS, []string{"db-0.db.shop.svc.cluster.local:5432 (tcp, headless service)"}},
		{"a pod of a headless service by address", "shop/web", "10.0.0.21:5432", nil, VerdictMTLS, []string{"By name it is db.shop.svc.cluster.local:5432."}},
		{"a pod's address", "shop/web", "10.0.0.11:8081", nil, VerdictRefused, []string{
			"calls to a pod's own address are passed on untouched", "the caller: host: secure.shop.svc.cluster.local:80 instead of 10.0.0.11:8081 - "}},
		{"a port that no service names", "shop/old", "10.0.0.11:9999", strictAll, VerdictRefused, []string{
			"no service leads to port 9999 of it", "a new PeerAuthentication in namespace shop: spec: {selector: {matchLabels: {app: cart-1}}, portLevelMtls: {9999: {mode: PERMISSIVE}}} - "}},
		{"a port that only a probe names", "shop/old", "10.0.0.11:9999", func(in *model.Inputs) {
			strictAll(in)
			in.Workloads[2].Probes = []model.Probe{{Port: 9999, Path: "/ready"}}
		}, VerdictPlaintext, []string{"Only a health probe names the port, so it is open to any bytes in every mode."}},
		{"cluster IP", "shop/web", "10.96.0.2:80", nil, VerdictMTLS, []string{"secure.shop.svc.cluster.local:80 (http)\nA call would work (200), in mesh mTLS."}},
		{"ExternalName", "shop/web", "outside:80", nil, VerdictPlaintext, []string{
			"A call would leave the mesh in plaintext; whether it works is up to outside.shop.svc.cluster.local.", "Service shop/outside is outside the mesh"}},
		{"ExternalName, without a sidecar", "shop/old", "outside:80", nil, VerdictPlaintext, []string{"A call would leave the mesh in plaintext"}},
		{"wildcard host", "shop/web", "api.partner.example.com:443", nil, VerdictAppTLS, []string{
			"A call would leave the mesh in the application's own TLS; whether it works is up to api.partner.example.com."}},
		{"unknown host", "shop/web", "www.example.com:80", nil, VerdictPlaintext, []string{
			"A call would leave the mesh in plaintext; whether it works is up to www.example.com.", "outboundTrafficPolicy is ALLOW_ANY"}},
		{"unknown host, refused", "shop/web", "www.example.com:80", func(in *model.Inputs) { in.Mesh.RegistryOnly = true }, VerdictFails, []string{
			"A call would fail: 502, no service www.example.com is known.", "outboundTrafficPolicy is REGISTRY_ONLY"}},
		{"not exported", "shop/web", "secure:80", func(in *model.Inputs) { in.Services[1].ExportTo = []string{"pay"} }, VerdictRefused, []string{
			"Service shop/secure is not exported to namespace shop", "Service shop/secure: exportTo: with shop - "}},
		{"a Deployment", "shop/web-deployment", "secure:80", nil, VerdictMTLS, []string{"shop/web -> secure"}},
		{"a namespace", "shop", "SECURE.shop.svc.cluster.local.:http", nil, VerdictMTLS, []string{"-> secure.shop.svc.cluster.local:80"}},
	}
}

func TestSentences(t *testing.T) {
	for _, c := range append(append(sentences(), underWay()...), rulesThatLose()) {
		t.Run(c.name, func(t *testing.T) {
			answer, err := shop(c.change).Ask(c.from, c.to)
			if err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			if err := answer.Print(&text); err != nil {
				t.Fatal(err)
			}
			if answer.Verdict != c.verdict {
				t.Errorf("verdict %s, want %s", answer.Verdict, c.verdict)
			}
			for _, want := range c.want {
				if !strings.Contains(text.String(), want) {
					t.Errorf("no %q in\n%s", want, &text)
				}
			}
		})
	}
}

func TestNamesThatNobodyHas(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"shop/wep", "cart:80", "there is no workload shop/wep; did you mean shop/web?"},
		{"stop", "cart:80", `no workload is in namespace "stop"; did you mean shop?`},
		{"", "cart:80", `"" is not NAMESPACE/WORKLOAD, nor NAMESPACE`},
		{"shop/", "cart:80", `"shop/" is not NAMESPACE/WORKLOAD, nor NAMESPACE`},
		{"shop/web", "cart", `"cart" is not HOST:PORT`},
		{"shop/web", "card:80", "no service has the host card; did you mean cart?"},
		{"shop/web", "card.shop:80", "no service has the host card.shop; did you mean cart.shop?"},
		{"shop/web", "zzzzzz:80", "no service has the host zzzzzz; there are *, cart, db and others"},
		{"shop/web", "cart:8080", "Service shop/cart (cart.shop.svc.cluster.local) has no port 8080: it has 80 http"},
		{"shop/web", "db-2.db:5432", "Service shop/db has no ready pod db-2; did you mean db-0 or db-1?"},
		{"shop/web", "www.example.com:http", `port "http" is not a number in 1..65535`},
		{"shop/web", "10.0.0.11:0", `port "0" is not a number in 1..65535`},
	} {
		if _, err := shop(nil).Ask(c.from, c.to); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s -> %s: %v, want %s", c.from, c.to, err, c.want)
		}
	}
}

func TestMatrix(t *testing.T) {
	var text strings.Builder
	if err := shop(nil).All(Window{}).Print(&text); err != nil {
		t.Fatal(err)
	}
	want := `to \ from                          shop          no sidecar
*.partner.example.com:443          app TLS       app TLS
cart.shop.svc.cluster.local:80     mixed         plaintext
db.shop.svc.cluster.local:5432     mixed         plaintext
empty.shop.svc.cluster.local:80    no endpoints  no endpoints
mysql.shop.svc.cluster.local:3306  plaintext     plaintext
outside.shop.svc.cluster.local:80  plaintext     plaintext
secure.shop.svc.cluster.local:80   mTLS          refused
tcp.shop.svc.cluster.local:7000    mTLS          refused
`
	if text.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &text, want)
	}
}

// Windows put together are the whole, and none is larger than it may be.
func TestWindows(t *testing.T) {
	whole := shop(nil).All(Window{})
	if len(whole.Rows) < 5 || whole.Left != 0 {
		t.Fatalf("%d rows, %d left", len(whole.Rows), whole.Left)
	}
	for _, calls := range []int{1, 2, 5, 1000} { // of 2 classes
		var rows []Row
		var pairs []Pair
		for len(rows) < len(whole.Rows) {
			e := shop(nil)
			page, plain := e.All(Window{len(rows), calls}), e.Plaintext(Window{len(rows), calls})
			if n := len(page.Rows); n == 0 || n > max(1, calls/2) || page.Left != len(whole.Rows)-len(rows)-n || plain.Ports != n || plain.Left != page.Left {
				t.Fatalf("%d calls after %d ports: %d rows, %d left; %d ports, %d left", calls, len(rows), n, page.Left, plain.Ports, plain.Left)
			}
			rows, pairs = append(rows, page.Rows...), append(pairs, plain.Pairs...)
		}
		if !reflect.DeepEqual(rows, whole.Rows) || len(pairs) != len(shop(nil).Plaintext(Window{}).Pairs) {
			t.Errorf("%d calls at a time: %d rows and %d pairs are not the whole", calls, len(rows), len(pairs))
		}
	}
	if beyond := shop(nil).All(Window{100, 10}); len(beyond.Rows) != 0 || beyond.Left != 0 {
		t.Errorf("after the end: %+v", beyond)
	}
}

func TestPlaintext(t *testing.T) {
	var lines []string
	for _, p := range shop(nil).Plaintext(Window{}).Pairs {
		lines = append(lines, p.String())
	}
	got := strings.Join(lines, "\n")
	for _, want := range []string{
		"shop -> cart.shop.svc.cluster.local:80: mixed: AUTO: it has no sidecar\n",
		"no sidecar -> secure.shop.svc.cluster.local:80: refused: the caller has no sidecar, so its own bytes go out, and shop/cart-1 is STRICT, set by Policy shop/secure\n",
		"shop -> mysql.shop.svc.cluster.local:3306: plaintext: AUTO: mysql servers speak first",
		"no sidecar -> empty.shop.svc.cluster.local:80: no endpoints: ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for _, not := range []string{"partner", "shop -> secure", "shop -> tcp", "shop -> empty"} {
		if strings.Contains(got, not) {
			t.Errorf("%q in\n%s", not, got)
		}
	}
}

// TestColumns: classes to which the same happens share a column.
func TestColumns(t *testing.T) {
	e := shop(func(in *model.Inputs) {
		for namespace, address := range map[string]string{"pay": "10.1.1.1", "ops": "10.1.2.1"} {
			w := pod("app", address, true)
			w.ID.Namespace = namespace
			in.Workloads = append(in.Workloads, w)
		}
	})
	var text strings.Builder
	if err := e.All(Window{}).Print(&text); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "ops +2        no sidecar\n") || !strings.HasSuffix(text.String(), "\nops +2: ops, pay, shop\n") {
		t.Errorf("%s", &text)
	}
}

func TestConflicts(t *testing.T) {
	if got := shop(nil).Conflicts(); len(got) != 0 {
		t.Errorf("conflicts without a cause: %v", got)
	}
	got := shop(func(in *model.Inputs) { in.Mesh.Excluded = []string{"secure.shop.svc.cluster.local"} }).Conflicts()
	if len(got) != 1 || got[0].Host != "secure.shop.svc.cluster.local" || len(got[0].Change) != 2 || got[0].Verdict != VerdictRefused {
		t.Errorf("%+v", got)
	}
}

// FuzzExplainArgs: whatever is asked, there is an answer or an error, the same
// each time, and it can be written as text and as JSON.
func FuzzExplainArgs(f *testing.F) {
	for _, seed := range [][2]string{
		{"shop/web", "cart:80"}, {"shop", "10.0.0.11:8081"}, {"shop/old", "db-0.db:5432"}, {"/", ":"}, {"shop/web", "[::1]:80"},
		{"shop/web-deployment", "a.partner.example.com:https"}, {"shop/old", "outside.shop.svc:80"}, {"shop/web", "*.partner.example.com:443"},
		{"shop/web", "..:1"}, {"shop/web", ".db:5432"}, {"shop", "[fe80::1%eth0]:80"}, {"shop", "*:80"}, {"shop", "shop:tcp"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, from, to string) {
		first, err := shop(nil).Ask(from, to)
		second, again := shop(nil).Ask(from, to)
		if (err == nil) != (again == nil) || err != nil && err.Error() != again.Error() {
			t.Fatalf("%v, then %v", err, again)
		}
		if err != nil {
			return
		}
		if first.Now == "" || first.Verdict == "" || first.Now != second.Now {
			t.Errorf("%+v, then %+v", first, second)
		}
		var text strings.Builder
		if err := first.Print(&text); err != nil {
			t.Error(err)
		}
		if _, err := json.Marshal(first); err != nil {
			t.Error(err)
		}
	})
}
