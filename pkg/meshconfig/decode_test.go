package meshconfig

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// services is a file of n services, each with a workload.
func services(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `apiVersion: v1
kind: Service
metadata:
  name: svc-%d
  namespace: ns-%d
  labels: {app: svc-%[1]d}
  annotations:
    auth.istio.io/80: MUTUAL_TLS
spec:
  clusterIP: 10.%d.%d.%d
  selector:
    app: svc-%[1]d
  ports:
  - name: http
    port: 80
    targetPort: 8080
  - name: grpc-admin
    port: 9000
---
`, i, i%50, i>>16, i>>8&255, i&255)
	}
	return b.Bytes()
}

func TestManyServices(t *testing.T) {
	b, problems := Decode(bytes.NewReader(services(10_000)), "many.yaml")
	if len(problems) > 0 {
		t.Fatal(problems[0])
	}
	if len(b.Services) != 10_000 {
		t.Fatalf("got %d services", len(b.Services))
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		data := services(n)
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				bundle, _ := Decode(bytes.NewReader(data), "many.yaml")
				if len(bundle.Services) != n {
					b.Fatalf("got %d services", len(bundle.Services))
				}
			}
		})
	}
}

func decodeText(file, text string) (Bundle, []string) {
	b, problems := Decode(strings.NewReader(text), file)
	var out []string
	for _, p := range problems {
		out = append(out, fmt.Sprintf("%s %s %s", p.Severity, p.Code, p))
	}
	return b, out
}

func BenchmarkDecodePod(b *testing.B) {
	data := []byte(`{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {app: a}}, spec: {containers: [{name: a, image: b, ports: [{containerPort: 80}]}]}, status: {podIP: 10.0.0.1}}`)
	b.ReportAllocs()
	for b.Loop() {
		if bundle, _ := Decode(bytes.NewReader(data), "pod.yaml"); len(bundle.Pods) != 1 {
			b.Fatal("no pod")
		}
	}
}
