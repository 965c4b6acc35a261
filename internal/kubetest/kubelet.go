package kubetest

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/httpstream/spdy"
)

// Kubelet makes a node on which ports of pods can be forwarded, as a kubelet
// does; dial says where a pod's port really is.
func (c *Cluster) Kubelet(t testing.TB, node string, dial func(pod string, port int) (net.Conn, error)) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/portForward/{namespace}/{pod}", func(w http.ResponseWriter, r *http.Request) {
		forwardPorts(w, r, func(port int) (net.Conn, error) { return dial(r.PathValue("pod"), port) })
	})
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	address := server.Listener.Addr().(*net.TCPAddr)
	nodes := c.Client.CoreV1().Nodes()
	n, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address.IP.String()}}
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(address.Port)
	if _, err := nodes.UpdateStatus(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// forwardPorts is the kubelet's side of the protocol: for each connection an
// error stream and a data stream, both with its port.
func forwardPorts(w http.ResponseWriter, r *http.Request, dial func(int) (net.Conn, error)) {
	if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
		return // it has answered
	}
	errors := map[string]httpstream.Stream{} // by request; this handler's calls are one after another
	streams := make(chan httpstream.Stream)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	for {
		select {
		case <-conn.CloseChan():
			return
		case s := <-streams:
			id := s.Headers().Get(corev1.PortForwardRequestIDHeader)
			if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
				errors[id] = s
				continue
			}
			port, err := strconv.Atoi(s.Headers().Get(corev1.PortHeader))
			if err == nil {
				go forward(s, errors[id], func() (net.Conn, error) { return dial(port) })
			}
		}
	}
}

func forward(data, failure httpstream.Stream, dial func() (net.Conn, error)) {
	defer data.Close()
	defer failure.Close()
	conn, err := dial()
	if err != nil {
		_, _ = io.WriteString(failure, err.Error())
		return
	}
	defer conn.Close()
	go func() {
		_, _ = io.Copy(conn, data)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(data, conn)
}
