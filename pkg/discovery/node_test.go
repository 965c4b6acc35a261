package discovery

import (
	"errors"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshpilot/pilot/pkg/model"
)

func testNode(t *testing.T, id string, metadata map[string]any) *corev3.Node {
	t.Helper()
	fields, err := structpb.NewStruct(metadata)
	if err != nil {
		t.Fatal(err)
	}
	return &corev3.Node{Id: id, Metadata: fields}
}

func TestParseNode(t *testing.T) {
	none := model.CaptureNone
	cart := model.WorkloadID{Namespace: "shop", Name: "cart-1"}
	const cartNode = "sidecar~10.0.0.1~cart-1.shop~shop.svc.cluster.local"
	cases := []struct {
		name, id string
		metadata map[string]any
		want     model.Proxy
	}{
		{"sidecar", cartNode, nil, model.Proxy{ID: cart, Address: "10.0.0.1"}},
		{"name with dots", "sidecar~::1~vm.a.b.shop~shop.svc.cluster.local", nil,
			model.Proxy{ID: model.WorkloadID{Namespace: "shop", Name: "vm.a.b"}, Address: "::1"}},
		{"mapped address", "sidecar~::ffff:10.0.0.1~cart-1.shop~shop.svc.cluster.local", nil,
			model.Proxy{ID: cart, Address: "10.0.0.1"}},
		{"router without address", "router~~gw-1.edge~edge.svc.cluster.local", nil,
			model.Proxy{ID: model.WorkloadID{Namespace: "edge", Name: "gw-1"}, Type: model.Router}},
		{"ingress of another domain", "ingress~10.0.0.1~gw-1.edge~elsewhere", nil,
			model.Proxy{ID: model.WorkloadID{Namespace: "edge", Name: "gw-1"}, Type: model.Router, Address: "10.0.0.1"}},
		{"metadata", cartNode, map[string]any{
			"INTERCEPTION_MODE": "NONE", "APP_ADDRESS": "127.3.0.9", "LABELS": map[string]any{"app": "x"},
			"TLS_SERVER_CERT_CHAIN": "/run//c/chain.pem", "TLS_SERVER_KEY": "/run/c/key.pem", "TLS_SERVER_ROOT_CERT": "/etc/roots.pem",
		}, model.Proxy{ID: cart, Address: "10.0.0.1", Capture: &none, Local: model.Local{
			CertChain: "/run/c/chain.pem", Key: "/run/c/key.pem", RootCert: "/etc/roots.pem", AppAddress: "127.3.0.9",
		}}},
		{"the default paths say nothing", cartNode, map[string]any{
			"TLS_SERVER_CERT_CHAIN": defaultCertChain, "TLS_SERVER_KEY": defaultKey, "TLS_SERVER_ROOT_CERT": defaultRootCert,
		}, model.Proxy{ID: cart, Address: "10.0.0.1"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseNode(testNode(t, c.id, c.metadata), "cluster.local")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseNodeRefuses(t *testing.T) {
	const cartNode = "sidecar~10.0.0.1~cart-1.shop~shop.svc.cluster.local"
	cases := []struct {
		id       string
		metadata map[string]any
		want     string
	}{
		{"", nil, "missing parts in the service node"},
		{"sidecar~10.0.0.1~cart-1.shop", nil, "missing parts in the service node"},
		{cartNode + "~more", nil, "missing parts in the service node"},
		{"proxy~10.0.0.1~cart-1.shop~shop.svc.cluster.local", nil, "invalid node type"},
		{"sidecar~~cart-1.shop~shop.svc.cluster.local", nil, "invalid IP address"},
		{"sidecar~localhost~cart-1.shop~shop.svc.cluster.local", nil, "invalid IP address"},
		{"router~x~cart-1.shop~shop.svc.cluster.local", nil, "invalid IP address"},
		{"sidecar~10.0.0.1~cart-1.shop~pay.svc.cluster.local", nil, "invalid node domain"},
		{"sidecar~10.0.0.1~cart-1.shop~shop.svc.example.org", nil, "invalid node domain"},
		{"sidecar~10.0.0.1~cart-1~shop.svc.cluster.local", nil, "invalid node domain"},
		{"router~~.edge~edge.svc.cluster.local", nil, "invalid node domain"},
		{cartNode, map[string]any{"INTERCEPTION_MODE": "none"}, `unrecognized interception mode "none"`},
		{cartNode, map[string]any{"APP_ADDRESS": "127.0.0.1"}, "APP_ADDRESS needs INTERCEPTION_MODE NONE"},
		{cartNode, map[string]any{"APP_ADDRESS": "10.0.0.1", "INTERCEPTION_MODE": "NONE"}, `APP_ADDRESS must be a loopback address: "10.0.0.1"`},
	}
	for _, c := range cases {
		_, err := parseNode(testNode(t, c.id, c.metadata), "cluster.local")
		if status.Code(err) != codes.InvalidArgument || status.Convert(err).Message() != c.want {
			t.Errorf("%s %v: got %v, want %s", c.id, c.metadata, err, c.want)
		}
	}
}

func TestParseNodeRefusesSecretPaths(t *testing.T) {
	cases := []struct {
		metadata map[string]any
		want     string
	}{
		{map[string]any{"TLS_SERVER_ROOT_CERT": "certs/root.pem"},
			`TLS_SERVER_ROOT_CERT must be the absolute path of a file, without '..': "certs/root.pem"`},
		{map[string]any{"TLS_SERVER_KEY": "/etc/certs/../key.pem"},
			`TLS_SERVER_KEY must be the absolute path of a file, without '..': "/etc/certs/../key.pem"`},
		{map[string]any{"TLS_SERVER_ROOT_CERT": "/etc/certs/"},
			`TLS_SERVER_ROOT_CERT must be the absolute path of a file, without '..': "/etc/certs/"`},
		{map[string]any{"TLS_SERVER_KEY": "/run/key.pem"},
			`TLS_SERVER_CERT_CHAIN and TLS_SERVER_KEY must be in one directory: "/etc/certs/cert-chain.pem", "/run/key.pem"`},
	}
	for _, c := range cases {
		_, err := parseNode(testNode(t, "sidecar~10.0.0.1~cart-1.shop~shop.svc.cluster.local", c.metadata), "cluster.local")
		var refused secretPathError
		if !errors.As(err, &refused) || status.Code(err) != codes.InvalidArgument || err.Error() != c.want {
			t.Errorf("%v: got %v, want %s", c.metadata, err, c.want)
		}
	}
}
