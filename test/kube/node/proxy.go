package node

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Virtual addresses lead to endpoints by rules in each pod's own namespace,
// behind those of its capture: packets have no other place to pass.

// etcHosts stands in for cluster DNS.
func (n *Node) etcHosts(ctx context.Context) (string, error) {
	services, err := n.Client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n")
	for _, s := range services.Items {
		if virtual(&s) {
			fmt.Fprintf(&b, "%[1]s %[2]s.%[3]s %[2]s.%[3]s.svc %[2]s.%[3]s.svc.cluster.local\n", s.Spec.ClusterIP, s.Name, s.Namespace)
		}
	}
	return b.String(), nil
}

func virtual(s *corev1.Service) bool {
	return s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone
}

// route brings the pods' rules up to the endpoints in the API.
func (n *Node) route(ctx context.Context, pods ...*Pod) error {
	services, err := n.Client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	endpoints, err := n.Client.DiscoveryV1().EndpointSlices("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range pods {
		errs = append(errs, p.restore(rules(services.Items, endpoints.Items, int(p.number))))
	}
	return errors.Join(errs...)
}

// rules lead each pod to one endpoint of each port, another pod to another.
func rules(services []corev1.Service, endpoints []discoveryv1.EndpointSlice, pod int) string {
	var b strings.Builder
	b.WriteString("*nat\n:KUBE-SERVICES - [0:0]\n")
	for i := range services {
		s := &services[i]
		for _, port := range s.Spec.Ports {
			to := targets(s, port.Name, endpoints)
			if virtual(s) && port.Protocol == corev1.ProtocolTCP && len(to) > 0 {
				fmt.Fprintf(&b, "-A KUBE-SERVICES -d %s/32 -p tcp -m tcp --dport %d -j DNAT --to-destination %s\n", s.Spec.ClusterIP, port.Port, to[pod%len(to)])
			}
		}
	}
	b.WriteString("-A OUTPUT -j KUBE-SERVICES\nCOMMIT\n")
	return b.String()
}

// targets are the ready endpoints of a port, as IP:port, sorted.
func targets(s *corev1.Service, port string, endpoints []discoveryv1.EndpointSlice) []string {
	var found []string
	for _, slice := range endpoints {
		if slice.Namespace != s.Namespace || slice.Labels[discoveryv1.LabelServiceName] != s.Name {
			continue
		}
		for _, p := range slice.Ports {
			if *p.Name != port {
				continue
			}
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready == nil || *e.Conditions.Ready {
					found = append(found, fmt.Sprintf("%s:%d", e.Addresses[0], *p.Port))
				}
			}
		}
	}
	slices.Sort(found)
	return found
}

// restore replaces the pod's rules, which come after all others.
func (p *Pod) restore(rules string) error {
	return p.Space.Do(func() error {
		_ = exec.Command("iptables", "-t", "nat", "-D", "OUTPUT", "-j", "KUBE-SERVICES").Run() // not there at first
		cmd := exec.Command("iptables-restore", "--noflush")
		cmd.Stdin = strings.NewReader(rules)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("iptables-restore: %w: %s", err, out)
		}
		return nil
	})
}
