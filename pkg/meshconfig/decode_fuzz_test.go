package meshconfig

import (
	"bytes"
	"testing"
)

// FuzzDecode: no bytes may make decoding panic or hang, and what it accepts
// must compile.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"",
		"authPolicy: MUTUAL_TLS\ndefaultConfig: {drainDuration: 5s}\n",
		"a: &a [*a, *a]\n<<: *a\n",
		"? {a: b}\n: [c]\n",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata: {mesh: 'authPolicy: NONE'}\n",
		"apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List, items: []}, null, 3]\n",
		policyHead + "spec: {targets: [{name: a, ports: [{number: 80}]}], peers: [{mtls: {mode: STRICT}}]}\n",
		meshPolicyHead + "spec: {targets: [{name: a}], peers: [{mtls: {mode: PERMISSIVE}}]}\n",
		peerHead + "spec: {selector: {matchLabels: {a: b}}, mtls: {mode: UNSET}, portLevelMtls: {80: {mode: STRICT}, '0': null, a.b: {mod: x}}}\n",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, livenessProbe: {httpGet: {port: x, path: /a%2f/..//b?c}}, readinessProbe: {grpc: {port: 1}}, lifecycle: {preStop: {httpGet: {port: 1}}}}]}\nstatus: {podIP: 1.2.3.4}\n",
		"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec: {hosts: [a.b], ports: [{number: 80, name: http}], endpoints: [{address: 1.2.3.4}], resolution: STATIC}\n",
		"apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: a}\nspec: {address: 1.2.3.4, labels: {a: b}}\n",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {a: b}}\nspec: {containers: [{name: a, ports: [{containerPort: 80}]}]}\nstatus: {podIP: 1.2.3.4}\n",
		"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\naddressType: IPv4\nendpoints: [{addresses: [1.2.3.4]}]\nports: [{port: 80}]\n",
		"apiVersion: v1\nkind: Service\nmetadata: {name: a, annotations: {auth.istio.io/80: NONE}}\nspec: {selector: {a: b}, ports: [{port: 80, targetPort: x}]}\n",
		"apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: a, exportTo: [.], trafficPolicy: {tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 1}, loadBalancer: {}}]}, subsets: [{name: b, labels: {c: d}}]}\n",
		"apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: '*', trafficPolicy: {tls: &x [*x]}}\n",
	} {
		f.Add([]byte(seed))
	}
	f.Add(services(2))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, file := range []string{"a.yaml", meshFile} {
			b, problems := Decode(bytes.NewReader(data), file)
			merged, more := Merge([]Bundle{b, b}, Bundle{})
			next, problems := merged.Accept(b, append(problems, more...))
			SortProblems(problems)
			for _, p := range problems {
				_ = p.String()
			}
			Compile(next, "cluster.local")
		}
	})
}
