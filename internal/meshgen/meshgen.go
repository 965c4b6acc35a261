// Package meshgen makes meshes of any size for benchmarks and load tests, as
// a cluster would list them: each service is a Deployment of its own with one
// pod, so there are as many server classes as services.
package meshgen

import (
	"fmt"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Option changes the bundle that is made.
type Option func(*meshconfig.Bundle)

// MutualTLS switches mTLS on for the whole mesh, by authPolicy.
func MutualTLS() Option {
	return func(b *meshconfig.Bundle) {
		mesh := meshconfig.DefaultMesh()
		mesh.MutualTLS = true
		b.Mesh = mesh
	}
}

// NamespacePolicy puts a Policy without targets into namespace 0.
func NamespacePolicy(mode model.Mode) Option {
	return func(b *meshconfig.Bundle) {
		b.Policies = append(b.Policies, &meshconfig.Policy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns-0", Name: "default"}, Mode: mode,
		})
	}
}

// Rule puts a DestinationRule for a host into a namespace, with only mode.
func Rule(namespace, host string, mode model.ClientTLS) Option {
	return func(b *meshconfig.Bundle) {
		b.DestinationRules = append(b.DestinationRules, &meshconfig.DestinationRule{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "rule"}, Host: host,
			Policy: &model.TrafficPolicy{Traffic: model.Traffic{TLS: &model.TLSSettings{Mode: mode}}},
		})
	}
}

// Bundle has so many services, spread evenly over namespaces ns-0, ns-1, ….
// Service i is svc-i in namespace i modulo namespaces, port 80 (http), at a
// pod svc-i-0 with a sidecar.
func Bundle(services, namespaces int, options ...Option) meshconfig.Bundle {
	b := meshconfig.Bundle{Positions: map[model.Key]meshconfig.Position{}}
	for i := range namespaces {
		b.Namespaces = append(b.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("ns-%d", i)}})
	}
	for i := range services {
		namespace, name := fmt.Sprintf("ns-%d", i%namespaces), fmt.Sprintf("svc-%d", i)
		b.ServiceAccounts = append(b.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}})
		b.Services = append(b.Services, service(namespace, name, i))
		b.Pods = append(b.Pods, pod(namespace, name, i))
	}
	for _, option := range options {
		option(&b)
	}
	return b
}

// Inputs is the compiled Bundle.
func Inputs(services, namespaces int, options ...Option) model.Inputs {
	in, _ := meshconfig.Inputs(Bundle(services, namespaces, options...), "cluster.local")
	return in
}

func service(namespace, name string, i int) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.ServiceSpec{
			Type:      corev1.ServiceTypeClusterIP,
			ClusterIP: address(96, i),
			Selector:  map[string]string{"app": name},
			Ports: []corev1.ServicePort{{
				Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("web"),
			}},
		},
	}
}

func pod(namespace, name string, i int) *corev1.Pod {
	const hash = "6d5f8c9b7"
	isController := true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name + "-0",
			Labels: map[string]string{
				"app": name, "version": "v1", "pod-template-hash": hash, "security.istio.io/tlsMode": "istio",
			},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: name + "-" + hash, Controller: &isController}},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: name,
			Containers: []corev1.Container{
				{Name: "app", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}},
				{Name: "istio-proxy"},
			},
		},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			PodIP:      address(128, i),
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
}

// address is the i-th of 10.<net>.0.0/9.
func address(net, i int) string {
	return fmt.Sprintf("10.%d.%d.%d", net+i>>16, i>>8&255, i&255)
}
