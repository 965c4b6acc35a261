package meshconfig

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
	"go.yaml.in/yaml/v3"
)

// trafficDoc is the four blocks of settings of a DestinationRule.
type trafficDoc struct {
	TLS          *tlsDoc      `json:"tls"`
	LoadBalancer *balancerDoc `json:"loadBalancer"`
	Pool         *poolDoc     `json:"connectionPool"`
	Outliers     *outliersDoc `json:"outlierDetection"`
}

type tlsDoc struct {
	Mode               *string    `json:"mode"`
	ClientCertificate  string     `json:"clientCertificate"`
	PrivateKey         string     `json:"privateKey"`
	CACertificates     string     `json:"caCertificates"`
	SubjectAltNames    []string   `json:"subjectAltNames"`
	SNI                string     `json:"sni"`
	InsecureSkipVerify bool       `json:"insecureSkipVerify"`
	CredentialName     *yaml.Node `json:"credentialName"`
	CACRL              *yaml.Node `json:"caCrl"`
}

type balancerDoc struct {
	Simple string `json:"simple"`
}

type poolDoc struct {
	TCP  *tcpPoolDoc  `json:"tcp"`
	HTTP *httpPoolDoc `json:"http"`
}

type tcpPoolDoc struct {
	MaxConnections int32        `json:"maxConnections"`
	ConnectTimeout durationText `json:"connectTimeout"`
}

type httpPoolDoc struct {
	HTTP1MaxPendingRequests  int32 `json:"http1MaxPendingRequests"`
	HTTP2MaxRequests         int32 `json:"http2MaxRequests"`
	MaxRequestsPerConnection int32 `json:"maxRequestsPerConnection"`
	MaxRetries               int32 `json:"maxRetries"`
}

type outliersDoc struct {
	ejectionDoc `json:",inline"`
	HTTP        *ejectionDoc `json:"http"` // where Istio 0.8 has them
}

type ejectionDoc struct {
	ConsecutiveErrors    *int32       `json:"consecutiveErrors"`
	Consecutive5xxErrors *int32       `json:"consecutive5xxErrors"`
	Interval             durationText `json:"interval"`
	BaseEjectionTime     durationText `json:"baseEjectionTime"`
	MaxEjectionPercent   *int32       `json:"maxEjectionPercent"`
}

func (c *check) traffic(at string, doc trafficDoc) model.Traffic {
	t := model.Traffic{TLS: c.clientTLS(at+".tls", doc.TLS)}
	if doc.LoadBalancer != nil {
		t.LoadBalancer = c.loadBalancer(at+".loadBalancer.simple", doc.LoadBalancer.Simple)
	}
	if doc.Pool != nil {
		t.Pool = c.connectionPool(at+".connectionPool", doc.Pool)
	}
	if doc.Outliers != nil {
		t.Outliers = c.outliers(at+".outlierDetection", doc.Outliers)
	}
	return t
}

func (c *check) clientTLS(at string, doc *tlsDoc) *model.TLSSettings {
	if doc == nil {
		return nil
	}
	t := &model.TLSSettings{
		ClientCertificate: doc.ClientCertificate, PrivateKey: doc.PrivateKey, CACertificates: doc.CACertificates,
		SubjectAltNames: doc.SubjectAltNames, SNI: doc.SNI, SkipVerify: doc.InsecureSkipVerify,
	}
	if isSet(doc.CredentialName) {
		c.unsupported(at+".credentialName", "credentialName is not supported: name files at the proxy instead")
	}
	if isSet(doc.CACRL) {
		c.unsupported(at+".caCrl", "caCrl is not supported: revoked certificates would be accepted")
	}
	if len(doc.SNI) > 255 {
		c.errorf(at+".sni", "sni must have at most 255 characters, got %d", len(doc.SNI))
	}
	for i, name := range doc.SubjectAltNames {
		if name == "" {
			c.errorf(fmt.Sprintf("%s.subjectAltNames[%d]", at, i), "subject alternative name must not be empty")
		}
	}
	t.Mode = c.clientMode(at, doc)
	if t.Mode == model.ClientSimple || t.Mode == model.ClientMutual {
		c.tlsFile(at+".clientCertificate", doc.ClientCertificate)
		c.tlsFile(at+".privateKey", doc.PrivateKey)
		c.tlsFile(at+".caCertificates", doc.CACertificates)
		if doc.InsecureSkipVerify {
			c.findings = append(c.findings, finding{codeNoVerify, Warning, at + ".insecureSkipVerify",
				"clients take any server for the right one: name its root in caCertificates and its name in subjectAltNames instead"})
		}
	}
	return t
}

// clientMode is the mode of a tls block; without one it is DISABLE.
func (c *check) clientMode(at string, doc *tlsDoc) model.ClientTLS {
	if doc.Mode == nil {
		if !c.explained(at + ".mode") {
			c.findings = append(c.findings, finding{codeTLSWithoutMode, Warning, at,
				"tls without mode means DISABLE: clients send plaintext; write mode: ISTIO_MUTUAL for mesh mTLS, or mode: DISABLE"})
		}
		return model.ClientPlain
	}
	switch *doc.Mode {
	case "DISABLE":
		return model.ClientPlain
	case "ISTIO_MUTUAL":
		c.unusedTLS(at, doc, "clientCertificate", "privateKey", "caCertificates", "insecureSkipVerify")
		return model.ClientMesh
	case "SIMPLE":
		c.unusedTLS(at, doc, "clientCertificate", "privateKey")
		return model.ClientSimple
	case "MUTUAL":
		if doc.ClientCertificate == "" {
			c.errorf(at+".clientCertificate", "client certificate required for mutual tls")
		}
		if doc.PrivateKey == "" {
			c.errorf(at+".privateKey", "private key required for mutual tls")
		}
		return model.ClientMutual
	}
	c.oneOf(at+".mode", "tls mode", *doc.Mode, "DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL")
	return model.ClientPlain
}

// unusedTLS finds which of the fields are given, although the mode has no use
// for them.
func (c *check) unusedTLS(at string, doc *tlsDoc, fields ...string) {
	given := map[string]bool{
		"clientCertificate": doc.ClientCertificate != "", "privateKey": doc.PrivateKey != "",
		"caCertificates": doc.CACertificates != "", "insecureSkipVerify": doc.InsecureSkipVerify,
	}
	for _, f := range fields {
		if given[f] {
			c.findings = append(c.findings, finding{codeUnusedField, Info, at + "." + f, "has no effect with mode " + *doc.Mode})
		}
	}
}

// tlsFile wants an absolute path; "~" is what separates two in a secret's name.
func (c *check) tlsFile(path, file string) {
	if file != "" && (file[0] != '/' || file[len(file)-1] == '/' || strings.Contains(file, "~") || slices.Contains(strings.Split(file, "/"), "..")) {
		c.errorf(path, `file %q must be an absolute path at the proxy, without ".." and "~"`, file)
	}
}

func (c *check) loadBalancer(path, simple string) model.LoadBalancer {
	switch simple {
	case "", "UNSPECIFIED", "ROUND_ROBIN":
		return model.RoundRobin
	case "LEAST_CONN", "LEAST_REQUEST":
		return model.LeastRequest
	case "RANDOM":
		return model.Random
	case "PASSTHROUGH":
		return model.Passthrough
	}
	c.oneOf(path, "load balancer", simple, "ROUND_ROBIN", "LEAST_REQUEST", "LEAST_CONN", "RANDOM", "PASSTHROUGH")
	return model.RoundRobin
}

func (c *check) connectionPool(at string, doc *poolDoc) *model.ConnectionPool {
	p := &model.ConnectionPool{}
	if doc.TCP == nil && doc.HTTP == nil && !c.mentioned(at, "") {
		c.errorf(at, "connection pool must have tcp or http settings")
	}
	if t := doc.TCP; t != nil {
		p.MaxConnections = c.count(at+".tcp.maxConnections", t.MaxConnections)
		p.ConnectTimeout = c.optionalDuration(at+".tcp.connectTimeout", "invalid connect timeout", t.ConnectTimeout)
	}
	if h := doc.HTTP; h != nil {
		p.MaxPendingRequests = c.count(at+".http.http1MaxPendingRequests", h.HTTP1MaxPendingRequests)
		p.MaxRequests = c.count(at+".http.http2MaxRequests", h.HTTP2MaxRequests)
		p.MaxRequestsPerConnection = c.count(at+".http.maxRequestsPerConnection", h.MaxRequestsPerConnection)
		p.MaxRetries = c.count(at+".http.maxRetries", h.MaxRetries)
	}
	return p
}

func (c *check) count(path string, n int32) uint32 {
	if n < 0 {
		c.errorf(path, "%d must not be negative", n)
		return 0
	}
	return uint32(n)
}

// optionalDuration takes 0 and nothing for Envoy's default.
func (c *check) optionalDuration(path, text string, value durationText) time.Duration {
	if value == "" || value == "0" || value == "0s" {
		return 0
	}
	return c.duration(path, text, value, time.Millisecond, 24*time.Hour, time.Millisecond)
}

func (c *check) outliers(at string, doc *outliersDoc) *model.OutlierDetection {
	e := doc.ejectionDoc
	switch {
	case doc.HTTP != nil && e != (ejectionDoc{}):
		c.errorf(at+".http", "outlier detection must not be given twice, here and in http")
	case doc.HTTP != nil:
		e, at = *doc.HTTP, at+".http"
	}
	if e == (ejectionDoc{}) && !c.mentioned(at, "") {
		c.errorf(at, "outlier detection must have at least one field")
	}
	o := &model.OutlierDetection{
		Interval:         c.optionalDuration(at+".interval", "invalid interval", e.Interval),
		BaseEjectionTime: c.optionalDuration(at+".baseEjectionTime", "invalid base ejection time", e.BaseEjectionTime),
	}
	switch {
	case e.Consecutive5xxErrors != nil:
		o.ConsecutiveErrors = c.count(at+".consecutive5xxErrors", *e.Consecutive5xxErrors)
		o.ErrorsOff = *e.Consecutive5xxErrors == 0
	case e.ConsecutiveErrors != nil:
		o.ConsecutiveErrors = c.count(at+".consecutiveErrors", *e.ConsecutiveErrors)
	}
	if percent := e.MaxEjectionPercent; percent != nil && (*percent < 0 || *percent > 100) {
		c.errorf(at+".maxEjectionPercent", "%d must be in the range 0..100", *percent)
	} else if percent != nil {
		o.MaxEjectionPercent = uint32(*percent)
	}
	return o
}
