{{- define "pilot.selector" -}}
app.kubernetes.io/name: pilot
app.kubernetes.io/component: control-plane
{{- end }}

{{- define "pilot.labels" -}}
{{ include "pilot.selector" . }}
app.kubernetes.io/part-of: pilot
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "pilot.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "pilot.proxyImage" -}}
{{ .Values.proxy.image.repository }}:{{ .Values.proxy.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* What is not in a namespace has it in its name, so that two installs do not meet. */ -}}
{{- define "pilot.clusterName" -}}
istio-pilot-{{ .Release.Namespace }}
{{- end }}
