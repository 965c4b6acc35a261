package capture

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestRules(t *testing.T) {
	o := Everything(15001, 15006)
	o.IncludeInbound = Ports{Only: []uint16{80, 443}}
	o.ExcludeInbound = []uint16{15021}
	o.IncludeRanges = Ranges{Only: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}}
	o.ExcludeRanges = []netip.Prefix{netip.MustParsePrefix("10.96.0.1/32")}
	o.ExcludeOutbound = []uint16{5432}
	const want = `*nat
:MESH_INBOUND - [0:0]
:MESH_OUTPUT - [0:0]
:MESH_REDIRECT - [0:0]
:MESH_IN_REDIRECT - [0:0]
-A MESH_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A MESH_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A PREROUTING -p tcp -j MESH_INBOUND
-A MESH_INBOUND -p tcp --dport 15021 -j RETURN
-A MESH_INBOUND -p tcp --dport 80 -j MESH_IN_REDIRECT
-A MESH_INBOUND -p tcp --dport 443 -j MESH_IN_REDIRECT
-A OUTPUT -p tcp -j MESH_OUTPUT
-A MESH_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A MESH_OUTPUT ! -d 127.0.0.1/32 -o lo -m owner --uid-owner 1337 -j MESH_INBOUND
-A MESH_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A MESH_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A MESH_OUTPUT -d 127.0.0.1/32 -j RETURN
-A MESH_OUTPUT -p tcp --dport 5432 -j RETURN
-A MESH_OUTPUT -d 10.96.0.1/32 -j RETURN
-A MESH_OUTPUT -d 10.96.0.0/12 -j MESH_REDIRECT
COMMIT
`
	if got := Rules(o); got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestTProxy(t *testing.T) {
	o := Everything(15001, 15006)
	if Routes(o) != nil {
		t.Error("REDIRECT needs no routes")
	}
	o.TProxy = true
	rules := Rules(o)
	for _, line := range []string{
		"-A PREROUTING -p tcp ! -i lo -j MESH_INBOUND",
		"-A MESH_TPROXY -p tcp -j TPROXY --tproxy-mark 1337/0xffffffff --on-port 15006",
		"-A MESH_OUTPUT -m owner --gid-owner 1337 -j RETURN",
	} {
		if !strings.Contains(rules, line+"\n") {
			t.Errorf("no line %s in\n%s", line, rules)
		}
	}
	if strings.Contains(rules, "--uid-owner") || strings.Contains(rules, "PREROUTING -p tcp -j") {
		t.Errorf("rules of REDIRECT in\n%s", rules)
	}
	if got := strings.Join(Routes(o), "; "); got != "rule add fwmark 1337 lookup 133; route replace local default dev lo table 133" {
		t.Error(got)
	}
}

func TestParse(t *testing.T) {
	if p, err := ParsePorts(" * "); err != nil || !p.All {
		t.Error(p, err)
	}
	if p, err := ParsePorts(""); err != nil || p.All || p.Only != nil {
		t.Error(p, err)
	}
	if p, err := ParsePorts("80, 443,"); err != nil || !slices.Equal(p.Only, []uint16{80, 443}) {
		t.Error(p, err)
	}
	if r, err := ParseRanges("*"); err != nil || !r.All {
		t.Error(r, err)
	}
	if r, err := ParseRanges("10.1.2.3/8,192.0.2.1"); err != nil || r.Only[0].String() != "10.0.0.0/8" || r.Only[1].String() != "192.0.2.1/32" {
		t.Error(r, err)
	}
	for _, text := range []string{"0", "65536", "http", "80;81", "*,80"} {
		if p, err := ParsePorts(text); err == nil {
			t.Errorf("%q is taken for %v", text, p)
		}
	}
	for _, text := range []string{"10.0.0.0/33", "::1", "fd00::/8", "example.org", "*,10.0.0.0/8"} {
		if r, err := ParseRanges(text); err == nil {
			t.Errorf("%q is taken for %v", text, r)
		}
	}
}
