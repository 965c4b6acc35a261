package translate

import (
	"net/netip"
	"path"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/meshpilot/pilot/pkg/model"
)

// systemRoots is where a proxy's system keeps the roots that it trusts.
const systemRoots = "/etc/ssl/certs/ca-certificates.crt"

// meshSocket is client TLS MESH to an upstream (spec client-tls.md 3).
func (b *builder) meshSocket(x upstream) *corev3.TransportSocket {
	sans, sni := serverSANs(x.SANs, x.mesh.TrustDomains), outboundSNI(x.port.Number, x.Subset, x.svc.Host)
	if rule := x.Traffic.TLS; rule != nil {
		if len(rule.SubjectAltNames) > 0 {
			sans = namedSANs(rule.SubjectAltNames)
		}
		if rule.SNI != "" {
			sni = rule.SNI
		}
	}
	return b.meshClientTLS(sans, sni, x.port.Protocol.IsHTTP2())
}

// originSocket is client TLS SIMPLE or MUTUAL: as a rule says, by files of the
// proxy.
func (b *builder) originSocket(x upstream) *corev3.TransportSocket {
	rule := x.Traffic.TLS
	common := &tlsv3.CommonTlsContext{}
	if x.port.Protocol.IsHTTP2() {
		common.AlpnProtocols = []string{"h2"}
	}
	if rule.Mode == model.ClientMutual {
		common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{b.fileRef(certName(rule))}
	}
	if !rule.SkipVerify {
		common.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: originSANs(rule, x.svc.Host)},
				ValidationContextSdsSecretConfig: b.fileRef(rootName(rule)),
			},
		}
	}
	sni := rule.SNI
	if sni == "" && !strings.HasPrefix(x.svc.Host, "*") {
		sni = x.svc.Host
	}
	return tlsSocket(b.marshal(&tlsv3.UpstreamTlsContext{CommonTlsContext: common, Sni: sni}))
}

func (b *builder) fileRef(name string) *tlsv3.SdsSecretConfig {
	b.secrets = append(b.secrets, name)
	return secretRef(name)
}

// originSANs are the names that a server outside the mesh may have.
func originSANs(rule *model.TLSSettings, host string) []*tlsv3.SubjectAltNameMatcher {
	switch suffix, wild := strings.CutPrefix(host, "*"); {
	case len(rule.SubjectAltNames) > 0:
		return namedSANs(rule.SubjectAltNames)
	case rule.SNI != "":
		return namedSANs([]string{rule.SNI})
	case wild:
		return []*tlsv3.SubjectAltNameMatcher{{
			SanType: tlsv3.SubjectAltNameMatcher_DNS,
			Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: suffix}},
		}}
	default:
		return namedSANs([]string{host})
	}
}

// namedSANs are exact names, each of the kind that it looks like.
func namedSANs(names []string) []*tlsv3.SubjectAltNameMatcher {
	out := make([]*tlsv3.SubjectAltNameMatcher, len(names))
	for i, name := range names {
		kind := tlsv3.SubjectAltNameMatcher_DNS
		if _, err := netip.ParseAddr(name); err == nil {
			kind = tlsv3.SubjectAltNameMatcher_IP_ADDRESS
		} else if strings.Contains(name, "://") {
			kind = tlsv3.SubjectAltNameMatcher_URI
		} else if strings.Contains(name, "@") {
			kind = tlsv3.SubjectAltNameMatcher_EMAIL
		}
		out[i] = &tlsv3.SubjectAltNameMatcher{
			SanType: kind, Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: name}},
		}
	}
	return out
}

// ruleFile is a secret that names files of a DestinationRule, spelled in two
// ways as those of the mesh are.
type ruleFile struct{ plain, respelled *Resource }

// files are the secrets that the upstream's cluster refers to.
func (x upstream) files() []ruleFile {
	rule := x.Traffic.TLS
	if rule == nil || x.StandIn || rule.Mode != model.ClientSimple && rule.Mode != model.ClientMutual {
		return nil
	}
	var out []ruleFile
	if rule.Mode == model.ClientMutual {
		out = append(out, spelled(func(respelled bool) *tlsv3.Secret {
			return &tlsv3.Secret{Name: certName(rule), Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
				CertificateChain: plainFile(rule.ClientCertificate), PrivateKey: plainFile(rule.PrivateKey),
				WatchedDirectory: watched(rule.ClientCertificate, respelled),
			}}}
		}))
	}
	if !rule.SkipVerify {
		file := rule.CACertificates
		if file == "" {
			file = systemRoots
		}
		out = append(out, spelled(func(respelled bool) *tlsv3.Secret {
			return &tlsv3.Secret{Name: rootName(rule), Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: plainFile(file), WatchedDirectory: watched(file, respelled),
			}}}
		}))
	}
	return out
}

// spelled leaves out who the secret is for: several rules may name one file,
// and what is equal must be one resource.
func spelled(secret func(respelled bool) *tlsv3.Secret) ruleFile {
	var plain, other builder
	first, second := secret(false), secret(true)
	return ruleFile{plain.resource(first.Name, first), other.resource(second.Name, second)}
}

func plainFile(file string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: file}}
}

// watched is the directory of a file; respelled names it by other bytes,
// without which Envoy would not read the file again.
func watched(file string, respelled bool) *corev3.WatchedDirectory {
	dir := path.Dir(file)
	if respelled {
		dir += "/."
	}
	return &corev3.WatchedDirectory{Path: dir}
}
