package meshconfig

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
