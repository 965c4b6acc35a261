package simulate

import (
	"fmt"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
)

// What the application speaks decides where nobody changes it on the way.
func TestApplicationsThatSpeakOneThingOnly(t *testing.T) {
	for _, c := range []struct {
		name     string
		from     string
		rule     model.ClientTLS
		protocol Protocol
		port     model.Protocol
		only     Protocol
		want     [5]string // without a sidecar, then by mode
	}{
		{"TLS only, AUTO", "web", model.ClientMixed, HTTPS, model.HTTPS, HTTPS, [5]string{"works", "works", "works", "works", "works"}},
		{"TLS only, its own TLS", "legacy", model.ClientMixed, HTTPS, model.HTTPS, HTTPS, [5]string{"works", "works", "works", "closed", "closed"}},
		{"TLS only, plaintext", "legacy", model.ClientMixed, TCP, model.TCP, HTTPS, [5]string{"closed", "closed", "closed", "closed", "closed"}},
		{"TLS only, TLS in TLS", "web", model.ClientSimple, HTTPS, model.HTTPS, HTTPS, [5]string{"closed", "closed", "closed", "closed", "works"}},
		{"TLS only, port named http", "web", model.ClientMixed, HTTPS, model.HTTP, HTTPS, [5]string{"closed", "closed", "closed", "closed", "closed"}},
		{"TLS only, port named http, no sidecar", "legacy", model.ClientMixed, HTTPS, model.HTTP, HTTPS, [5]string{"works", "works", "works", "closed", "503"}},
		{"plaintext only", "legacy", model.ClientMixed, TCP, model.TCP, TCP, [5]string{"works", "works", "works", "closed", "closed"}},
		{"plaintext only, TLS by a rule", "web", model.ClientSimple, HTTP, model.HTTP, HTTP, [5]string{"503", "503", "503", "503", "200"}},
		{"plaintext only, server-first, TLS by a rule", "web", model.ClientSimple, TCP, model.MySQL, TCP, [5]string{"closed", "closed", "closed", "closed", "works"}},
	} {
		for i, want := range c.want {
			t.Run(fmt.Sprintf("%s/%d", c.name, i), func(t *testing.T) {
				m := mesh(model.Mode(max(i-1, 0)), c.port, func(in *model.Inputs) {
					if c.rule == model.ClientSimple {
						byRule(c.rule, func(t *model.TLSSettings) { t.SkipVerify = true })(in)
					}
					in.Workloads[0].Sidecar = i > 0
				})
				if got := m.asked(t, c.from, c.protocol, App{Only: c.only}); got.Result != want {
					t.Errorf("%s, want %s: %+v", got.Result, want, got)
				}
			})
		}
	}
}

// A rule that verifies is a rule about who answers: the sidecar or, where it
// lets TLS pass, the application.
func TestRulesVerifyTheServer(t *testing.T) {
	const roots, account = "/etc/roots.pem", "spiffe://cluster.local/ns/shop/sa/cart"
	for _, c := range []struct {
		name   string
		in     []string // issuers in the roots; nil: nobody knows
		expect []string
		want   [5]string
	}{
		{"the application", []string{"partner"}, nil, [5]string{"200", "200", "200", "503", "503"}},
		{"the application, by another name", []string{"partner"}, []string{"x.example"}, [5]string{"503", "503", "503", "503", "503"}},
		{"another authority", []string{"other"}, nil, [5]string{"503", "503", "503", "503", "503"}},
		{"the sidecar", []string{MeshCA}, []string{account}, [5]string{"503", "503", "503", "503", "200"}},
		{"both", []string{MeshCA, "partner"}, []string{account, host}, [5]string{"200", "200", "200", "503", "200"}},
		{"roots that nobody knows", nil, []string{account, host}, [5]string{"200", "200", "200", "503", "200"}},
	} {
		for i, want := range c.want {
			t.Run(fmt.Sprintf("%s/%d", c.name, i), func(t *testing.T) {
				m := mesh(model.Mode(max(i-1, 0)), model.HTTP, func(in *model.Inputs) {
					byRule(model.ClientSimple, func(t *model.TLSSettings) { t.CACertificates, t.SubjectAltNames = roots, c.expect })(in)
					in.Workloads[0].Sidecar = i > 0
				})
				if c.in != nil {
					m.Roots = map[string][]string{roots: c.in}
				}
				if got := m.asked(t, "web", HTTP, App{Cert: &Certificate{"partner", []string{host}}}); got.Result != want {
					t.Errorf("%s, want %s: %+v", got.Result, want, got)
				}
			})
		}
	}
}
