{{/* Labels of everything but the component. */}}
{{- define "livecluster.commonLabels" -}}
app.kubernetes.io/name: livecluster
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Labels of what belongs to the operator, which Services and policies select. */}}
{{- define "livecluster.labels" -}}
{{ include "livecluster.commonLabels" . }}
app.kubernetes.io/component: operator
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

{{/* Pod security `restricted`: of a pod, and of a container. */}}
{{- define "livecluster.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "livecluster.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where pods of the chart may run, and with which credentials their images are pulled. */}}
{{- define "livecluster.scheduling" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
