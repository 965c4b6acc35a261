package lab

import (
	"net"
	"net/netip"
	"strconv"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/meshpilot/pilot/pkg/meshconfig"
)

// Two addresses of the network of --capture that no workload may have.
func controlPlaneAddress() netip.Addr { return netip.AddrFrom4([4]byte{10, 255, 255, 254}) }
func clientAddress() netip.Addr       { return netip.AddrFrom4([4]byte{10, 255, 255, 253}) }

func join(address string, port uint16) string {
	return net.JoinHostPort(address, strconv.Itoa(int(port)))
}

// captured is a loopback address as the network of --capture has it,
// 10.10.0.11 for 127.10.0.11; other addresses stay as they are.
func captured(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil || !a.Is4() || !a.IsLoopback() {
		return address
	}
	b := a.As4()
	b[0] = 10
	return netip.AddrFrom4(b).String()
}

func capturedAll(addresses []string) []string {
	var mapped []string
	for _, a := range addresses {
		mapped = append(mapped, captured(a))
	}
	return mapped
}

// capturedBundle is b with every loopback address replaced: packets to those
// never leave a network namespace. The objects of b are not touched.
func capturedBundle(b meshconfig.Bundle) meshconfig.Bundle {
	b.Pods = mapAll(b.Pods, func(o *corev1.Pod) *corev1.Pod {
		o = o.DeepCopy()
		o.Status.PodIP = captured(o.Status.PodIP)
		for i := range o.Status.PodIPs {
			o.Status.PodIPs[i].IP = captured(o.Status.PodIPs[i].IP)
		}
		return o
	})
	b.Services = mapAll(b.Services, func(o *corev1.Service) *corev1.Service {
		o = o.DeepCopy()
		o.Spec.ClusterIP = captured(o.Spec.ClusterIP)
		o.Spec.ClusterIPs = capturedAll(o.Spec.ClusterIPs)
		return o
	})
	b.EndpointSlices = mapAll(b.EndpointSlices, func(o *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
		o = o.DeepCopy()
		for i := range o.Endpoints {
			o.Endpoints[i].Addresses = capturedAll(o.Endpoints[i].Addresses)
		}
		return o
	})
	b.WorkloadEntries = mapAll(b.WorkloadEntries, func(o *meshconfig.WorkloadEntry) *meshconfig.WorkloadEntry {
		copied := *o
		copied.Spec = proto.CloneOf(o.Spec)
		copied.Spec.Address = captured(copied.Spec.Address)
		return &copied
	})
	b.ServiceEntries = mapAll(b.ServiceEntries, func(o *meshconfig.ServiceEntry) *meshconfig.ServiceEntry {
		copied := *o
		copied.Spec = proto.CloneOf(o.Spec)
		copied.Spec.Addresses = capturedAll(copied.Spec.Addresses)
		for _, e := range copied.Spec.Endpoints {
			e.Address = captured(e.Address)
		}
		return &copied
	})
	return b
}

func mapAll[T any](list []T, f func(T) T) []T {
	mapped := make([]T, len(list))
	for i, o := range list {
		mapped[i] = f(o)
	}
	return mapped
}
