package translate

import (
	"path"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// secretFetchTimeout ends warming without a certificate; 0 would never open
// the listeners of a proxy that starts while its files are missing.
const secretFetchTimeout = 15 * time.Second

func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

func secretRef(name string) *tlsv3.SdsSecretConfig {
	source := adsSource()
	source.InitialFetchTimeout = durationpb.New(secretFetchTimeout)
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: source}
}

// meshTLS is what both sides of mesh mTLS share: the workload's certificate,
// the mesh's roots, and which URI SANs a peer may have.
func meshTLS(sans []*tlsv3.SubjectAltNameMatcher, alpn []string) *tlsv3.CommonTlsContext {
	return &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
			TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			CipherSuites: []string{
				"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
				"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
			},
		},
		AlpnProtocols:                  alpn,
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{secretRef(certSecret)},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: sans},
				ValidationContextSdsSecretConfig: secretRef(rootSecret),
			},
		},
	}
}

// serverSANs are the identities that a client accepts: the service's accounts
// or, if none is known, anyone of the mesh.
func serverSANs(accounts, trustDomains []string) []*tlsv3.SubjectAltNameMatcher {
	if len(accounts) == 0 {
		return meshSANs(trustDomains)
	}
	out := make([]*tlsv3.SubjectAltNameMatcher, len(accounts))
	for i, uri := range accounts {
		out[i] = uriSAN(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: uri}})
	}
	return out
}

func meshSANs(trustDomains []string) []*tlsv3.SubjectAltNameMatcher {
	out := make([]*tlsv3.SubjectAltNameMatcher, len(trustDomains))
	for i, domain := range trustDomains {
		out[i] = uriSAN(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://" + domain + "/"}})
	}
	return out
}

func uriSAN(m *matcherv3.StringMatcher) *tlsv3.SubjectAltNameMatcher {
	return &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: m}
}

// meshClientTLS is mesh mTLS to servers with one of the names.
func (b *builder) meshClientTLS(sans []*tlsv3.SubjectAltNameMatcher, sni string, http2 bool) *corev3.TransportSocket {
	alpn := meshALPN()[:1]
	if http2 {
		alpn = append(alpn, "h2")
	}
	return tlsSocket(b.marshal(&tlsv3.UpstreamTlsContext{
		CommonTlsContext: meshTLS(sans, alpn),
		Sni:              sni,
	}))
}

// meshServerTLS wants a client certificate of the mesh. The mesh's ALPN token
// is not offered: a server that negotiates it breaks HTTP/2.
func (b *builder) meshServerTLS(trustDomains []string, http bool) *corev3.TransportSocket {
	return tlsSocket(b.marshal(&tlsv3.DownstreamTlsContext{
		CommonTlsContext:         meshTLS(meshSANs(trustDomains), serverALPN(http)),
		RequireClientCertificate: wrapperspb.Bool(true),
	}))
}

// openServerTLS takes callers without a certificate too. It has no SAN
// matcher: Envoy refuses callers without a certificate as soon as one is set.
func (b *builder) openServerTLS(http bool) *corev3.TransportSocket {
	return tlsSocket(b.marshal(&tlsv3.DownstreamTlsContext{
		CommonTlsContext:         meshTLS(nil, serverALPN(http)),
		RequireClientCertificate: wrapperspb.Bool(false),
	}))
}

func serverALPN(http bool) []string {
	if !http {
		return nil
	}
	return []string{"h2", "http/1.1"}
}

func tlsSocket(context *anypb.Any) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: context},
	}
}

func rawSocket(context *anypb.Any) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.raw_buffer",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: context},
	}
}

// secrets name files at the proxy; respelled names the same directory by
// other bytes, without which Envoy would not read the files again.
func secrets(local model.Local, respelled bool) []*Resource {
	chain, key, root := local.Files()
	var cert, trust builder
	return []*Resource{
		cert.resource(certSecret, &tlsv3.Secret{Name: certSecret, Type: &tlsv3.Secret_TlsCertificate{
			TlsCertificate: &tlsv3.TlsCertificate{
				CertificateChain: dataFile(chain), PrivateKey: dataFile(key), WatchedDirectory: watched(chain, respelled),
			},
		}}),
		trust.resource(rootSecret, &tlsv3.Secret{Name: rootSecret, Type: &tlsv3.Secret_ValidationContext{
			ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: dataFile(root), WatchedDirectory: watched(root, respelled)},
		}}),
	}
}

// dataFile goes through the link that a Secret volume swaps.
func dataFile(file string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{
		Filename: path.Join(path.Dir(file), "..data", path.Base(file)),
	}}
}
