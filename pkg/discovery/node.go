package discovery

import (
	"net/netip"
	"path"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Where a workload's certificate lies unless its proxy says otherwise.
const (
	defaultCertChain = "/etc/certs/cert-chain.pem"
	defaultKey       = "/etc/certs/key.pem"
	defaultRootCert  = "/etc/certs/root-cert.pem"
)

// secretPathError is a node whose certificate paths are refused; it is an
// UNKNOWN_SECRET problem besides the end of the stream.
type secretPathError struct{ text string }

func (e secretPathError) Error() string { return e.text }

// GRPCStatus makes the error end a stream with InvalidArgument.
func (e secretPathError) GRPCStatus() *status.Status {
	return status.New(codes.InvalidArgument, e.text)
}

// parseNode reads what an Envoy says about itself: the node id
// <type>~<ip>~<pod>.<ns>~<ns>.svc.<domain> and the few metadata keys that may
// shape its configuration. Errors are gRPC statuses that end the stream.
func parseNode(node *corev3.Node, domain string) (model.Proxy, error) {
	p, err := parseNodeID(node.GetId(), domain)
	if err != nil {
		return p, err
	}
	if p.Capture, err = capture(text(node, "INTERCEPTION_MODE")); err != nil {
		return p, err
	}
	if p.Local, err = certificatePaths(node); err != nil {
		return p, err
	}
	if app := text(node, "APP_ADDRESS"); app != "" {
		ip, err := netip.ParseAddr(app)
		if err != nil || !ip.IsLoopback() {
			return p, invalid("APP_ADDRESS must be a loopback address: " + strconv.Quote(app))
		}
		if p.Capture == nil || *p.Capture != model.CaptureNone {
			return p, invalid("APP_ADDRESS needs INTERCEPTION_MODE NONE")
		}
		p.Local.AppAddress = ip.String()
	}
	return p, nil
}

func parseNodeID(id, domain string) (model.Proxy, error) {
	var p model.Proxy
	parts := strings.Split(id, "~")
	if len(parts) != 4 {
		return p, invalid("missing parts in the service node")
	}
	switch parts[0] {
	case "sidecar":
		p.Type = model.Sidecar
	case "router", "ingress":
		p.Type = model.Router
	default:
		return p, invalid("invalid node type")
	}
	if parts[1] != "" || p.Type == model.Sidecar {
		ip, err := netip.ParseAddr(parts[1])
		if err != nil || ip.Zone() != "" {
			return p, invalid("invalid IP address")
		}
		p.Address = ip.Unmap().String()
	}
	// A pod's name may hold dots, a namespace's may not.
	dot := strings.LastIndexByte(parts[2], '.')
	if dot <= 0 || dot == len(parts[2])-1 {
		return p, invalid("invalid node domain")
	}
	p.ID = model.WorkloadID{Namespace: parts[2][dot+1:], Name: parts[2][:dot]}
	if p.Type == model.Sidecar && parts[3] != p.ID.Namespace+".svc."+domain {
		return p, invalid("invalid node domain")
	}
	return p, nil
}

func invalid(text string) error { return status.Error(codes.InvalidArgument, text) }

// text is a string of the node's metadata; anything else counts as absent.
func text(node *corev3.Node, key string) string {
	return node.GetMetadata().GetFields()[key].GetStringValue()
}

// capture is nil if the node leaves it to the workload's annotation.
func capture(mode string) (*model.Capture, error) {
	if mode == "" {
		return nil, nil
	}
	for _, c := range []model.Capture{model.CaptureRedirect, model.CaptureTProxy, model.CaptureNone} {
		if mode == c.String() {
			return &c, nil
		}
	}
	return nil, invalid("unrecognized interception mode " + strconv.Quote(mode))
}

// certificatePaths leaves a path empty that is the default, so that saying the
// default and saying nothing are the same class.
func certificatePaths(node *corev3.Node) (model.Local, error) {
	var l model.Local
	var err error
	read := func(key, standard string) string {
		value := text(node, key)
		if value == "" {
			return standard
		}
		if !path.IsAbs(value) || strings.HasSuffix(value, "/") || hasDotDot(value) {
			err = secretPathError{key + " must be the absolute path of a file, without '..': " + strconv.Quote(value)}
		}
		return path.Clean(value)
	}
	chain := read("TLS_SERVER_CERT_CHAIN", defaultCertChain)
	key := read("TLS_SERVER_KEY", defaultKey)
	root := read("TLS_SERVER_ROOT_CERT", defaultRootCert)
	if err != nil {
		return l, err
	}
	if path.Dir(chain) != path.Dir(key) {
		return l, secretPathError{"TLS_SERVER_CERT_CHAIN and TLS_SERVER_KEY must be in one directory: " +
			strconv.Quote(chain) + ", " + strconv.Quote(key)}
	}
	if chain != defaultCertChain || key != defaultKey {
		l.CertChain, l.Key = chain, key
	}
	if root != defaultRootCert {
		l.RootCert = root
	}
	return l, nil
}

func hasDotDot(p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}
