package meshconfig

import (
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
)

// probed is a pod of the service "app" in shop: containers is YAML.
func probed(name, containers string) string {
	return "{apiVersion: v1, kind: Pod, metadata: {name: " + name + ", namespace: shop, labels: {app: app, security.istio.io/tlsMode: istio}}, spec: {containers: " +
		containers + "}, status: {podIP: 10.1.0." + name[len(name)-1:] + "}}"
}

const appService = "{apiVersion: v1, kind: Service, metadata: {name: app, namespace: shop}, spec: {selector: {app: app}, ports: [{name: http, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}, {name: mysql, port: 3306}, {name: grpc, port: 9000}, {name: tcp-x, port: 7000}]}}"

func strictMesh() string { return mesh("authPolicy: MUTUAL_TLS") }

func TestWorkloadProbes(t *testing.T) {
	http := func(port uint16, path string) model.Probe { return model.Probe{Port: port, Path: path} }
	for _, c := range []struct {
		name, containers string
		want             []model.Probe
	}{
		{"path", "[{name: a, livenessProbe: {httpGet: {port: 8080, path: /healthz}}}]", []model.Probe{http(8080, "/healthz")}},
		{"no path", "[{name: a, livenessProbe: {httpGet: {port: 8080}}}]", []model.Probe{http(8080, "/")}},
		{"query and fragment", "[{name: a, livenessProbe: {httpGet: {port: 8080, path: '/a?b=/c#d'}}}]", []model.Probe{http(8080, "/a")}},
		{"no leading slash", "[{name: a, livenessProbe: {httpGet: {port: 8080, path: healthz}}}]", []model.Probe{http(8080, "/healthz")}},
		{"what the kubelet escapes", "[{name: a, livenessProbe: {httpGet: {port: 8080, path: '/a b/%zz?c'}}}]", []model.Probe{http(8080, "/a%20b/%25zz%3Fc")}},
		{"normalized", "[{name: a, livenessProbe: {httpGet: {port: 8080, path: '/a//b/../%68ealth'}}}]", []model.Probe{http(8080, "/a/health")}},
		{"a URL's path", "[{name: a, livenessProbe: {httpGet: {port: 8080, path: '//host/x'}}}]", []model.Probe{http(8080, "/x")}},
		{"escaped slash", "[{name: a, livenessProbe: {httpGet: {port: 8080, path: '/a%2fb'}}}]", []model.Probe{http(8080, "")}},
		{"https", "[{name: a, livenessProbe: {httpGet: {port: 8080, path: /x, scheme: HTTPS}}}]", []model.Probe{http(8080, "")}},
		{"grpc", "[{name: a, livenessProbe: {grpc: {port: 9000, service: s}}}]", []model.Probe{{Port: 9000, Path: "/grpc.health.v1.Health/Check", GRPC: true}}},
		{"nothing arrives", "[{name: a, livenessProbe: {exec: {command: [ls]}}, readinessProbe: {tcpSocket: {port: 80}}, startupProbe: {httpGet: {port: 1, host: 10.9.9.9}}}]", nil},
		{"the pod's own address", "[{name: a, livenessProbe: {httpGet: {port: 1, host: 10.1.0.1}}}]", []model.Probe{http(1, "/")}},
		{"by name, in the same container", "[{name: a, ports: [{name: web, containerPort: 8080}], startupProbe: {httpGet: {port: web}}}, {name: b, ports: [{name: web, containerPort: 8081}], readinessProbe: {httpGet: {port: web}}, livenessProbe: {httpGet: {port: other}}}]",
			[]model.Probe{http(8080, "/"), http(8081, "/")}},
		{"a number as a string", "[{name: a, livenessProbe: {httpGet: {port: '8080'}}}]", []model.Probe{http(8080, "/")}},
		{"no port", "[{name: a, livenessProbe: {httpGet: {port: 0}}, readinessProbe: {httpGet: {port: 65536}}}]", nil},
		{"hooks are none", "[{name: a, lifecycle: {postStart: {httpGet: {port: 1}}, preStop: {httpGet: {port: 2}}}}]", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			in, _ := compile(t, probed("app-1", c.containers))
			equal(t, in.Workloads[0].Probes, c.want)
		})
	}
	in, _ := compile(t, strings.Replace(probed("app-1", "[]"), "spec: {", "spec: {initContainers: [{name: i, restartPolicy: Always, startupProbe: {httpGet: {port: 5}}}], ", 1))
	equal(t, in.Workloads[0].Probes, []model.Probe{http(5, "/")})
}

// TestProbeProblems is the table of spec probes-https-ingress.md 1.
func TestProbeProblems(t *testing.T) {
	const way = "; use an exec probe, a port that no Service names, or PERMISSIVE"
	probe := func(text string) string { return "[{name: a, livenessProbe: {" + text + "}}]" }
	open := mesh("")
	permissive := policy("p", "{peers: [{mtls: {mode: PERMISSIVE}}]}")
	tlsOnly := policy("p", "{peers: [{mtls: {allowTls: true}}]}")
	const strict = "which is STRICT by mesh config authPolicy: "
	for _, c := range []struct{ name, mode, containers, want string }{
		{"exec", strictMesh(), probe("exec: {command: [ls]}"), ""},
		{"no service names it", strictMesh(), probe("httpGet: {port: 5000}"), ""},
		{"no service names it, https", strictMesh(), probe("httpGet: {port: 5000, scheme: HTTPS}"), ""},
		{"http", strictMesh(), probe("httpGet: {port: 8080}"), ""},
		{"http on a TCP port", strictMesh(), probe("httpGet: {port: 7000}"), ""},
		{"http on a TLS port", strictMesh(), probe("httpGet: {port: 8443}"), ""},
		{"https on an https port", strictMesh(), probe("httpGet: {port: 8443, path: /x, scheme: HTTPS}"),
			"error PROBE_FAILS Pod shop/app-1 [spec.containers[0].livenessProbe] the livenessProbe of container a (https GET /x) fails at port 8443, " + strict + "the kubelet has no certificate of the mesh" + way},
		{"https on an https port, served", permissive, probe("httpGet: {port: 8443, scheme: HTTPS}"), ""},
		{"https on an https port, TLS_ONLY", tlsOnly, probe("httpGet: {port: 8443, scheme: HTTPS}"),
			"error PROBE_FAILS Pod shop/app-1 [spec.containers[0].livenessProbe] the livenessProbe of container a (https GET /) fails at port 8443, which is TLS_ONLY by Policy shop/p: the sidecar ends the TLS, so it works only if the application behind speaks plaintext" + way},
		{"https on an http port", strictMesh(), probe("httpGet: {port: 8080, scheme: https}"),
			"error PROBE_FAILS Pod shop/app-1 [spec.containers[0].livenessProbe] the livenessProbe of container a (https GET /) fails at port 8080, " + strict + "the kubelet has no certificate of the mesh" + way},
		{"https on an http port, TLS_ONLY", tlsOnly, probe("httpGet: {port: 8080, scheme: HTTPS}"), ""},
		{"grpc", strictMesh(), probe("grpc: {port: 9000}"), ""},
		{"grpc on an http port", strictMesh(), probe("grpc: {port: 8080}"), ""},
		{"grpc, no service names it", strictMesh(), probe("grpc: {port: 5000}"), ""},
		{"server-first", strictMesh(), probe("httpGet: {port: 3306}"),
			"error PROBE_FAILS Pod shop/app-1 [spec.containers[0].livenessProbe] the livenessProbe of container a (GET /) fails at port 3306, " + strict + "mysql is server-first, so that nothing can be told apart" + way},
		{"escaped slash", strictMesh(), probe("httpGet: {port: 8080, path: /a%2Fb}"),
			"error PROBE_FAILS Pod shop/app-1 [spec.containers[0].livenessProbe] the livenessProbe of container a (GET /a%2Fb) fails at port 8080, " + strict + "a path with an escaped slash is always rejected" + way},
		{"tcpSocket", open, probe("tcpSocket: {port: 7000}"),
			"warning PROBE_BLIND Pod shop/app-1 [spec.containers[0].livenessProbe] the livenessProbe of container a only connects to port 7000, which the sidecar accepts even if the application is dead: use exec, httpGet or gRPC"},
		{"tcpSocket, no service names it", strictMesh(), probe("tcpSocket: {port: 5000}"),
			"warning PROBE_BLIND Pod shop/app-1 [spec.containers[0].livenessProbe] the livenessProbe of container a only connects to port 5000, which the sidecar accepts even if the application is dead: use exec, httpGet or gRPC"},
		{"missing port", open, probe("httpGet: {port: web}"),
			`warning PROBE_PORT Pod shop/app-1 [spec.containers[0].livenessProbe] missing named port "web": the livenessProbe of container a asks nobody`},
		{"hook", strictMesh(), "[{name: a, lifecycle: {preStop: {httpGet: {port: 8080, path: /quit}}, postStart: {httpGet: {port: 5000}}}}]",
			`warning HOOK_FAILS Pod shop/app-1 [spec.containers[0].lifecycle.postStart] the postStart hook of container a (GET /) is refused at port 5000, which is STRICT by mesh config authPolicy, because such a request may act: use exec, a port that only probes name, or PERMISSIVE
warning HOOK_FAILS Pod shop/app-1 [spec.containers[0].lifecycle.preStop] the preStop hook of container a (GET /quit) is refused at port 8080, which is STRICT by mesh config authPolicy, because such a request may act: use exec, a port that only probes name, or PERMISSIVE`},
		{"hook, served", open, "[{name: a, lifecycle: {preStop: {httpGet: {port: 8080}}}}]", ""},
		{"hook, on a port that a probe opens", strictMesh(), "[{name: a, livenessProbe: {httpGet: {port: 5000}}, lifecycle: {preStop: {httpGet: {port: 5000, path: /quit}}}}]", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, problems := compile(t, appService, c.mode, probed("app-1", c.containers))
			equal(t, withoutCode(problems, codeServerFirst), c.want)
		})
	}
}

func withoutCode(problems []Problem, code string) string {
	var rest []Problem
	for _, p := range problems {
		if p.Code != code {
			rest = append(rest, p)
		}
	}
	return texts(rest)
}

// What capture leaves alone, and pods without a sidecar, have no such problems;
// pods of one group share one.
func TestProbeProblemsConcernSidecars(t *testing.T) {
	const containers = "[{name: a, livenessProbe: {httpGet: {port: 8443, scheme: HTTPS}}, readinessProbe: {tcpSocket: {port: 7000}}}]"
	pod := probed("app-1", containers)
	annotated := func(text string) string {
		return strings.Replace(pod, "{name: app-1,", "{name: app-1, annotations: {"+text+"},", 1)
	}
	for doc, want := range map[string]int{
		pod: 2,
		strings.Replace(pod, ", security.istio.io/tlsMode: istio", "", 1):                                 0,
		annotated("traffic.sidecar.istio.io/excludeInboundPorts: '8443, 7000'"):                           0,
		annotated("traffic.sidecar.istio.io/includeInboundPorts: '8080,7000'"):                            1,
		annotated("traffic.sidecar.istio.io/includeInboundPorts: '*'"):                                    2,
		annotated("traffic.sidecar.istio.io/includeInboundPorts: ''"):                                     0,
		annotated("sidecar.istio.io/interceptionMode: NONE"):                                              2,
		strings.Replace(annotated("sidecar.istio.io/interceptionMode: NONE"), "port: 7000", "port: 1", 1): 1,
	} {
		_, problems := compile(t, appService, strictMesh(), doc)
		if got := strings.Count(withoutCode(problems, codeServerFirst), "PROBE_"); got != want {
			t.Errorf("%d problems, want %d:\n%s\n%s", got, want, doc, texts(problems))
		}
	}
	_, problems := compile(t, appService, strictMesh(), probed("app-3", containers), probed("app-1", containers), probed("app-2", containers))
	got := withoutCode(problems, codeServerFirst)
	if strings.Count(got, "PROBE_") != 2 || strings.Count(got, "Pod shop/app-1 ") != 2 || strings.Count(got, " (the same in app-2, app-3)") != 2 {
		t.Error(got)
	}
}
