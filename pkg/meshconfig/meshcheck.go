package meshconfig

import (
	"fmt"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/meshconfig/strict"
	"github.com/meshpilot/pilot/pkg/model"
)

// mesh validates the merged document and puts it into the model's terms.
func (c *check) mesh(doc meshDocument) *MeshConfig {
	m := DefaultMesh()
	m.MutualTLS = c.choice("authPolicy", "auth policy", doc.AuthPolicy, "NONE", "MUTUAL_TLS") == 1
	m.AutoMTLS = doc.EnableAutoMTLS
	m.Excluded = doc.MTLSExcludedServices
	for i, host := range doc.MTLSExcludedServices {
		if !isHost(strings.TrimPrefix(host, "*.")) {
			c.errorf(fmt.Sprintf("mtlsExcludedServices[%d]", i), `invalid excluded service %q; write a lower-case DNS name, or "*." and one`, host)
		}
	}
	m.RefusalReset = c.choice("plaintextRefusal", "plaintext refusal", doc.PlaintextRefusal, "EXPLAIN", "RESET") == 1
	m.ConnectTimeout = c.duration("connectTimeout", "invalid connect timeout", doc.ConnectTimeout, time.Millisecond, 30*time.Second, time.Millisecond)
	m.ListenPort = c.port("proxyListenPort", "invalid proxy listen port", doc.ProxyListenPort, 1)
	m.InboundListenPort = c.port("proxyInboundListenPort", "invalid proxy inbound listen port", doc.ProxyInboundPort, 1)
	m.HTTPPort = c.port("proxyHttpPort", "invalid proxy HTTP port", doc.ProxyHTTPPort, 0)
	m.RootNamespace = doc.RootNamespace
	if !isLabel(m.RootNamespace) {
		c.errorf("rootNamespace", "invalid root namespace %q; write a DNS label", m.RootNamespace)
	}
	m.TrustDomain, m.TrustDomainAliases = doc.TrustDomain, doc.TrustDomainAliases
	if !isHost(m.TrustDomain) {
		c.errorf("trustDomain", "invalid trust domain %q; write a lower-case DNS name", m.TrustDomain)
	}
	for i, alias := range m.TrustDomainAliases {
		if !isHost(alias) {
			c.errorf(fmt.Sprintf("trustDomainAliases[%d]", i), "invalid trust domain alias %q; write a lower-case DNS name", alias)
		}
	}
	m.RegistryOnly = c.choice("outboundTrafficPolicy.mode", "outbound traffic policy", doc.OutboundTrafficPolicy.Mode, "ALLOW_ANY", "REGISTRY_ONLY") == 1
	if m.AccessLogFile = doc.AccessLogFile; m.AccessLogFile != "" && !strings.HasPrefix(m.AccessLogFile, "/") {
		c.errorf("accessLogFile", "invalid access log file %q; write an absolute path, or nothing for none", m.AccessLogFile)
	}
	m.Rollout = c.rollout("mtlsRollout", doc.MTLSRollout)
	c.ingress(doc, m)
	c.proxy(doc.DefaultConfig, m)
	c.proxyPorts(m)
	return m
}

// rollout reads the settings at path, of the mesh or of a policy.
func (c *check) rollout(path string, doc rolloutDocument) model.Rollout {
	return model.Rollout{
		Immediate:   c.choice(path+".mode", "mtls rollout mode", doc.Mode, "GATED", "IMMEDIATE") == 1,
		QuietPeriod: c.duration(path+".quietPeriod", "invalid mtls rollout quiet period", doc.QuietPeriod, time.Second, time.Hour, 0),
		Deadline:    c.duration(path+".deadline", "invalid mtls rollout deadline", doc.Deadline, time.Second, 24*time.Hour, 0),
		OnDeadline:  model.DeadlineAction(c.choice(path+".onDeadline", "mtls rollout deadline action", doc.OnDeadline, "HOLD", "PROCEED", "ROLLBACK")),
	}
}

func (c *check) ingress(doc meshDocument, m *MeshConfig) {
	m.IngressClass, m.IngressControllerMode, m.IngressService = doc.IngressClass, doc.IngressControllerMode, doc.IngressService
	c.set("ingressClass", "ingress class must be set", doc.IngressClass)
	c.choice("ingressControllerMode", "ingress controller mode", doc.IngressControllerMode, "OFF", "DEFAULT", "STRICT")
}

// proxy is defaultConfig.
func (c *check) proxy(doc proxyDocument, m *MeshConfig) {
	const at = "defaultConfig."
	m.RefreshDelay = c.duration(at+"discoveryRefreshDelay", "invalid refresh delay", doc.DiscoveryRefreshDelay, time.Second, 10*time.Minute, time.Millisecond)
	m.Capture = model.Capture(c.choice(at+"interceptionMode", "interception mode", doc.InterceptionMode,
		model.CaptureRedirect.String(), model.CaptureTProxy.String(), model.CaptureNone.String()))
	m.DiscoveryAddress = c.discoveryAddress(at+"discoveryAddress", doc.DiscoveryAddress)
	before := len(c.findings)
	m.DrainDuration = c.duration(at+"drainDuration", "invalid drain duration", doc.DrainDuration, time.Second, time.Hour, time.Second)
	m.ParentShutdown = c.duration(at+"parentShutdownDuration", "invalid parent shutdown duration", doc.ParentShutdownDuration, time.Second, time.Hour, time.Second)
	if len(c.findings) == before && m.ParentShutdown <= m.DrainDuration {
		c.errorf(at+"parentShutdownDuration", "parent shutdown time %s must be greater than drain time %s", m.ParentShutdown, m.DrainDuration)
	}
	m.AdminPort = c.port(at+"proxyAdminPort", "invalid proxy admin port", doc.ProxyAdminPort, 1)
	if doc.Concurrency < 0 || doc.Concurrency > 1<<20 {
		c.errorf(at+"concurrency", "invalid concurrency %d; write a number of threads, or 0 for all cores", doc.Concurrency)
	}
	m.Concurrency = int(doc.Concurrency)
	m.ServiceCluster, m.ConfigPath, m.BinaryPath = doc.ServiceCluster, doc.ConfigPath, doc.BinaryPath
	c.set(at+"serviceCluster", "service cluster must be set", doc.ServiceCluster)
	c.set(at+"configPath", "config path must be set", doc.ConfigPath)
	c.set(at+"binaryPath", "binary path must be set", doc.BinaryPath)
}

func (c *check) set(path, text, value string) {
	if value == "" {
		c.errorf(path, "%s", text)
	}
}

// choice is the place of value among the allowed ones; 0 if it is none.
func (c *check) choice(path, what, value string, allowed ...string) int {
	for i, a := range allowed {
		if a == value {
			return i
		}
	}
	c.errorf(path, "unrecognized %s %q%s", what, value, strict.OneOf(value, allowed))
	return 0
}

const writeDuration = "write a duration with its unit, like 500ms, 45s or 1m0s"

// duration wants low..high in whole units of precision; 0 is any precision.
func (c *check) duration(path, text string, value durationText, low, high, precision time.Duration) time.Duration {
	got, err := time.ParseDuration(string(value))
	switch {
	case err != nil:
		c.errorf(path, "%s %q: %s", text, value, writeDuration)
	case got < low && low == time.Millisecond:
		c.errorf(path, "%s %q: duration must be greater than 1ms", text, value)
	case got < low || got > high:
		c.errorf(path, "%s %q: duration must be in the range %s..%s", text, value, short(low), short(high))
	case precision > 0 && got%precision != 0:
		c.errorf(path, "%s %q: only durations to %s precision are supported", text, value, short(precision)[1:])
	}
	return got
}

// short is a duration without its zero parts: 1h, and not 1h0m0s.
func short(d time.Duration) string {
	s := strings.TrimSuffix(d.String(), "m0s")
	if len(s) < len(d.String()) {
		s += "m"
	}
	if t := strings.TrimSuffix(s, "h0m"); len(t) < len(s) {
		s = t + "h"
	}
	return s
}

func (c *check) port(path, text string, n, low int64) uint16 {
	if n < low || n > 65535 {
		c.errorf(path, "%s %d: port number %d must be in the range %d..65535", text, n, n, low)
		return 0
	}
	return uint16(n)
}

// proxyPorts: all listen on the same machine.
func (c *check) proxyPorts(m *MeshConfig) {
	taken := map[uint16]string{}
	for _, p := range []struct {
		path string
		port uint16
	}{
		{"proxyListenPort", m.ListenPort},
		{"proxyInboundListenPort", m.InboundListenPort},
		{"proxyHttpPort", m.HTTPPort},
		{"defaultConfig.proxyAdminPort", m.AdminPort},
	} {
		if p.port == 0 {
			continue
		}
		if first := taken[p.port]; first != "" {
			c.errorf(p.path, "proxy ports must differ: %d is also %s", p.port, first)
		}
		taken[p.port] = p.path
	}
}

// discoveryAddress reads the ports of old Istio as the one of today.
func (c *check) discoveryAddress(path, value string) string {
	if value == "" {
		c.errorf(path, "discovery address must be set to the proxy discovery service")
		return value
	}
	host, port, ok := splitAddress(value)
	if !ok {
		c.errorf(path, "invalid discovery address %q; write host:port", value)
		return value
	}
	switch port {
	case 15003, 15005, 15007, 15011:
		c.findings = append(c.findings, finding{codeOldPort, Warning, path,
			fmt.Sprintf("port %d is one of old Istio and read as 15012; write %s:15012", port, host)})
		return host + ":15012"
	}
	return value
}

// unusedMeshField says whether Istio knows a field of the mesh configuration
// that has no effect here (spec mesh-config.md 5): all of MeshConfig and
// ProxyConfig from 0.8 to 1.31. Append what Istio adds.
func unusedMeshField(path string) bool {
	switch path {
	case "accessLogEncoding", "accessLogFormat", "ca", "caCertificates", "certificates", "configSources",
		"defaultDestinationRuleExportTo", "defaultHttpRetryPolicy", "defaultProviders", "defaultServiceExportTo",
		"defaultTrafficPolicy", "defaultVirtualServiceExportTo", "disableEnvoyListenerLog", "disableMixerHttpReports",
		"disablePolicyChecks", "disableReportBatch", "discoverySelectors", "dnsRefreshRate",
		"enableClientSidePolicyCheck", "enableEnvoyAccessLogService", "enablePrometheusMerge", "enableSdsTokenMount",
		"enableTracing", "extensionProviders", "h2UpgradePolicy", "hboneIdleTimeout", "inboundClusterStatName",
		"inboundTrafficPolicy", "ingressSelector", "localityLbSetting", "meshMTLS", "mixerAddress",
		"mixerCheckServer", "mixerReportServer", "outboundClusterStatName", "pathNormalization",
		"policyCheckFailOpen", "protocolDetectionTimeout", "rdsRefreshDelay", "reportBatchMaxEntries",
		"reportBatchMaxTime", "sdsRefreshDelay", "sdsUdsPath", "sdsUseK8sSaJwt", "serviceEntryVisibility",
		"serviceScopeConfigs", "serviceSettings", "sidecarToTelemetrySessionAffinity", "tcpKeepalive", "thriftConfig",
		"tlsDefaults", "verifyCertificateAtClient", "zoneAwareLbSetting":
		return true
	case "defaultConfig.availabilityZone", "defaultConfig.caCertificatesPem", "defaultConfig.connectTimeout",
		"defaultConfig.connectionSettings", "defaultConfig.controlPlaneAuthPolicy", "defaultConfig.customConfigFile",
		"defaultConfig.envoyAccessLogService", "defaultConfig.envoyMetricsService",
		"defaultConfig.envoyMetricsServiceAddress", "defaultConfig.extraStatTags", "defaultConfig.fileFlushInterval",
		"defaultConfig.fileFlushMinSizeKb", "defaultConfig.gatewayTopology",
		"defaultConfig.holdApplicationUntilProxyStarts", "defaultConfig.image", "defaultConfig.meshId",
		"defaultConfig.privateKeyProvider", "defaultConfig.proxyBootstrapTemplatePath", "defaultConfig.proxyHeaders",
		"defaultConfig.proxyMetadata", "defaultConfig.proxyStatsMatcher", "defaultConfig.readinessProbe",
		"defaultConfig.runtimeValues", "defaultConfig.sds", "defaultConfig.statNameLength",
		"defaultConfig.statsCompression", "defaultConfig.statsdUdpAddress", "defaultConfig.statusPort",
		"defaultConfig.terminationDrainDuration", "defaultConfig.tracing", "defaultConfig.tracingServiceName",
		"defaultConfig.zipkinAddress":
		return true
	}
	return false
}
