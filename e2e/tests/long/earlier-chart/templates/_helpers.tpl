{{- define "livecluster.labels" -}}
app.kubernetes.io/name: livecluster
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "livecluster.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* The name of the operator's objects. */}}
{{- define "livecluster.name" -}}
{{- printf "%s-operator" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "livecluster.serviceAccount" -}}
{{- default (include "livecluster.name" .) .Values.serviceAccount.name }}
{{- end }}

{{/* A whole image reference: (dict "root" $ "image" .Values.images.sfu) */}}
{{- define "livecluster.image" -}}
{{- $tag := default .root.Chart.AppVersion .image.tag }}
{{- $repository := .image.repository }}
{{- with .root.Values.images.registry }}{{ $repository = printf "%s/%s" (trimSuffix "/" .) $repository }}{{ end }}
{{- printf "%s:%s" $repository $tag }}
{{- end }}
