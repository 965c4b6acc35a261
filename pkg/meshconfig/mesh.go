package meshconfig

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/meshconfig/strict"
	"github.com/meshpilot/pilot/pkg/model"
	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
)

// MeshConfig is the mesh-wide settings, defaults filled in (spec
// mesh-config.md 3).
type MeshConfig struct {
	// Mesh is what the document says, in the terms of the model.
	model.Mesh
	// Key is where it lives: MeshConfig mesh.yaml, or ConfigMap istio.
	Key model.Key

	IngressClass          string
	IngressControllerMode string // OFF, DEFAULT or STRICT
	IngressService        string
}

// DefaultMesh is the built-in defaults.
func DefaultMesh() *MeshConfig {
	return &MeshConfig{
		Mesh: model.Mesh{
			AutoMTLS:           true,
			Excluded:           []string{"kubernetes.default.svc.cluster.local"},
			ConnectTimeout:     10 * time.Second,
			ListenPort:         15001,
			InboundListenPort:  15006,
			RootNamespace:      "istio-system",
			TrustDomain:        "cluster.local",
			TrustDomainAliases: []string{},
			Domain:             "cluster.local",
			AccessLogFile:      "/dev/stdout",
			Rollout:            model.Rollout{QuietPeriod: 10 * time.Second, Deadline: 10 * time.Minute},
			RefreshDelay:       time.Second,
			Capture:            model.CaptureRedirect,
			DiscoveryAddress:   "istio-pilot.istio-system.svc:15012",
			DrainDuration:      45 * time.Second,
			ParentShutdown:     60 * time.Second,
			AdminPort:          15000,
			ServiceCluster:     "istio-proxy",
			ConfigPath:         "/etc/istio/proxy",
			BinaryPath:         "/usr/local/bin/envoy",
		},
		IngressClass:          "istio",
		IngressControllerMode: "STRICT",
	}
}

// meshDocument is the document as users write it, and as it is printed.
type meshDocument struct {
	AuthPolicy            string          `json:"authPolicy"`
	EnableAutoMTLS        bool            `json:"enableAutoMtls"`
	MTLSExcludedServices  []string        `json:"mtlsExcludedServices"`
	PlaintextRefusal      string          `json:"plaintextRefusal"`
	MTLSRollout           rolloutDocument `json:"mtlsRollout"`
	ConnectTimeout        durationText    `json:"connectTimeout"`
	ProxyListenPort       int64           `json:"proxyListenPort"`
	ProxyInboundPort      int64           `json:"proxyInboundListenPort"`
	ProxyHTTPPort         int64           `json:"proxyHttpPort"`
	RootNamespace         string          `json:"rootNamespace"`
	TrustDomain           string          `json:"trustDomain"`
	TrustDomainAliases    []string        `json:"trustDomainAliases"`
	OutboundTrafficPolicy outboundTraffic `json:"outboundTrafficPolicy"`
	AccessLogFile         string          `json:"accessLogFile"`
	IngressClass          string          `json:"ingressClass"`
	IngressControllerMode string          `json:"ingressControllerMode"`
	IngressService        string          `json:"ingressService"`
	DefaultConfig         proxyDocument   `json:"defaultConfig"`
}

// durationText is a duration as users write it, 1m30s.
type durationText string

// UnmarshalJSON says what to write instead of a bare number.
func (d *durationText) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return errors.New(writeDuration)
	}
	*d = durationText(s)
	return nil
}

type rolloutDocument struct {
	Mode        string       `json:"mode"`
	QuietPeriod durationText `json:"quietPeriod"`
	Deadline    durationText `json:"deadline"`
	OnDeadline  string       `json:"onDeadline"`
}

type outboundTraffic struct {
	Mode string `json:"mode"`
}

type proxyDocument struct {
	DiscoveryRefreshDelay  durationText `json:"discoveryRefreshDelay"`
	InterceptionMode       string       `json:"interceptionMode"`
	DiscoveryAddress       string       `json:"discoveryAddress"`
	DrainDuration          durationText `json:"drainDuration"`
	ParentShutdownDuration durationText `json:"parentShutdownDuration"`
	ProxyAdminPort         int64        `json:"proxyAdminPort"`
	Concurrency            int64        `json:"concurrency"`
	ServiceCluster         string       `json:"serviceCluster"`
	ConfigPath             string       `json:"configPath"`
	BinaryPath             string       `json:"binaryPath"`
}

// Effective is the whole document with defaults filled in, under the names
// that users write; it marshals to JSON and YAML.
func (m *MeshConfig) Effective() any { return m.document() }

func (m *MeshConfig) document() meshDocument {
	choose := func(b bool, yes, no string) string {
		if b {
			return yes
		}
		return no
	}
	return meshDocument{
		AuthPolicy:           choose(m.MutualTLS, "MUTUAL_TLS", "NONE"),
		EnableAutoMTLS:       m.AutoMTLS,
		MTLSExcludedServices: append([]string{}, m.Excluded...),
		PlaintextRefusal:     choose(m.RefusalReset, "RESET", "EXPLAIN"),
		MTLSRollout: rolloutDocument{
			Mode:        choose(m.Rollout.Immediate, "IMMEDIATE", "GATED"),
			QuietPeriod: durationText(m.Rollout.QuietPeriod.String()),
			Deadline:    durationText(m.Rollout.Deadline.String()),
			OnDeadline:  m.Rollout.OnDeadline.String(),
		},
		ConnectTimeout:        durationText(m.ConnectTimeout.String()),
		ProxyListenPort:       int64(m.ListenPort),
		ProxyInboundPort:      int64(m.InboundListenPort),
		ProxyHTTPPort:         int64(m.HTTPPort),
		RootNamespace:         m.RootNamespace,
		TrustDomain:           m.TrustDomain,
		TrustDomainAliases:    append([]string{}, m.TrustDomainAliases...),
		OutboundTrafficPolicy: outboundTraffic{choose(m.RegistryOnly, "REGISTRY_ONLY", "ALLOW_ANY")},
		AccessLogFile:         m.AccessLogFile,
		IngressClass:          m.IngressClass,
		IngressControllerMode: m.IngressControllerMode,
		IngressService:        m.IngressService,
		DefaultConfig: proxyDocument{
			DiscoveryRefreshDelay:  durationText(m.RefreshDelay.String()),
			InterceptionMode:       m.Capture.String(),
			DiscoveryAddress:       m.DiscoveryAddress,
			DrainDuration:          durationText(m.DrainDuration.String()),
			ParentShutdownDuration: durationText(m.ParentShutdown.String()),
			ProxyAdminPort:         int64(m.AdminPort),
			Concurrency:            int64(m.Concurrency),
			ServiceCluster:         m.ServiceCluster,
			ConfigPath:             m.ConfigPath,
			BinaryPath:             m.BinaryPath,
		},
	}
}

func meshFileKey() model.Key { return model.Key{Kind: "MeshConfig", Name: meshFile} }

// configMap takes the mesh configuration out of the ConfigMap istio; others
// are of no interest.
func (d *decoder) configMap(n *yaml.Node) {
	if meta := strict.Get(n, "metadata"); meta != nil {
		if name := strict.Get(meta, "name"); name != nil && name.Value != "" && name.Value != "istio" {
			on := model.Key{Kind: "ConfigMap", Name: name.Value}
			d.report(finding{codeUnknownKind, Info, "", `only the ConfigMap "istio" is read, this one is skipped`}, on, n.Line)
			return
		}
	}
	o := &corev1.ConfigMap{}
	c := &check{faults: d.strict.Decode(n, o)}
	c.metadata("ConfigMap", &o.ObjectMeta)
	var text *yaml.Node
	if data := strict.Get(n, "data"); data != nil {
		text = strict.Get(data, "mesh")
	}
	if text == nil {
		c.errorf("data", `missing configuration map key "mesh"`)
	}
	key := model.Key{Kind: "ConfigMap", Namespace: o.Namespace, Name: o.Name}
	if !d.finish(n, key, c) {
		d.out.Invalid = append(d.out.Invalid, Invalid{On: key})
		return
	}
	doc, fault := strict.Embedded(text)
	if fault != nil {
		d.report(finding{codeInvalid, Error, "data.mesh", fault.Text}, key, fault.Line)
		d.out.Invalid = append(d.out.Invalid, Invalid{On: key})
		return
	}
	if doc == nil {
		doc = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: text.Line}
	}
	d.mesh(doc, key, n.Line)
}

// mesh decodes the settings over the built-in defaults. The object that holds
// them starts at line.
func (d *decoder) mesh(n *yaml.Node, key model.Key, line int) {
	doc := DefaultMesh().document()
	if mode := strict.Get(n, "ingressControllerMode"); mode != nil && mode.Value == "OFF" {
		mode.Style = yaml.DoubleQuotedStyle // in YAML it is a boolean otherwise
	}
	d.strict.Unused = unusedMeshField
	c := &check{faults: d.strict.Decode(n, &doc)}
	d.strict.Unused = nil
	m := c.mesh(doc)
	m.Key = key
	if !d.finish(n, key, c) {
		d.out.Invalid = append(d.out.Invalid, Invalid{On: key})
		return
	}
	if d.out.Mesh != nil && d.out.Mesh.Key != key {
		at := Position{File: d.file, Line: line}
		d.problems = append(d.problems, secondMesh(m, d.out.Mesh, at, d.out.Positions[d.out.Mesh.Key]))
		return
	}
	if d.claim(key, line) {
		d.out.Mesh = m
	}
}

// secondMesh is the Problem of mesh settings in two places.
func secondMesh(second, first *MeshConfig, at, firstAt Position) Problem {
	return Problem{
		Code: codeDuplicate, Severity: Error, On: second.Key, At: at,
		Message: "mesh settings are given twice, here and as " + first.Key.String() + " at " + firstAt.String() + "; remove one",
	}
}

// Transition finds what an edit of the settings may not change, or does not
// change, while proxies run (spec mesh-config.md 3 and 4). An error refuses
// the edit.
func (m *MeshConfig) Transition(last *MeshConfig) []Problem {
	var problems []Problem
	if m.TrustDomain != last.TrustDomain && !contains(m.TrustDomainAliases, last.TrustDomain) {
		problems = append(problems, Problem{
			Code: codeInvalid, Severity: Error, On: m.Key, Field: "trustDomain",
			Message: "trust domain change needs the old value in trustDomainAliases: " + last.TrustDomain,
		})
	}
	now, before := m.document().DefaultConfig, last.document().DefaultConfig
	for _, f := range []struct {
		name    string
		changed bool
	}{
		{"discoveryAddress", now.DiscoveryAddress != before.DiscoveryAddress},
		{"drainDuration", now.DrainDuration != before.DrainDuration},
		{"parentShutdownDuration", now.ParentShutdownDuration != before.ParentShutdownDuration},
		{"proxyAdminPort", now.ProxyAdminPort != before.ProxyAdminPort},
		{"concurrency", now.Concurrency != before.Concurrency},
		{"serviceCluster", now.ServiceCluster != before.ServiceCluster},
		{"configPath", now.ConfigPath != before.ConfigPath},
		{"binaryPath", now.BinaryPath != before.BinaryPath},
	} {
		if f.changed {
			problems = append(problems, Problem{
				Code: codeRestartNeeded, Severity: Info, On: m.Key, Field: "defaultConfig." + f.name,
				Message: "reaches a proxy at its next start",
			})
		}
	}
	return problems
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// splitAddress wants host:port.
func splitAddress(s string) (host string, port uint16, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", 0, false
	}
	host = s[:i]
	n, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil || n == 0 {
		return "", 0, false
	}
	if bare, isV6 := strings.CutPrefix(host, "["); isV6 {
		_, err := netip.ParseAddr(strings.TrimSuffix(bare, "]"))
		return host, uint16(n), err == nil && strings.HasSuffix(bare, "]")
	}
	return host, uint16(n), isHost(host)
}
