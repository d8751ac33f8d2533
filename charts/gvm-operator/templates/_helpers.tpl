{{/* At most 52 characters, so that the longest suffix of ours still fits a label's 63. */}}
{{- define "gvm-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* Of objects outside namespaces: releases of one name in two namespaces must not share them. */}}
{{- define "gvm-operator.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "gvm-operator.fullname" .) -}}
{{- end -}}

{{/* The name is fixed, whatever nameOverride says: the jobs' NetworkPolicies let the operator in by it. */}}
{{- define "gvm-operator.selectorLabels" -}}
app.kubernetes.io/name: gvm-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "gvm-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "gvm-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "gvm-operator.serviceAccountName" -}}
{{- $default := ternary (include "gvm-operator.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $default .Values.serviceAccount.name -}}
{{- end -}}

{{- define "gvm-operator.tokenSecretName" -}}
{{- default (printf "%s-token-key" (include "gvm-operator.fullname" .)) .Values.tokenKey.existingSecret -}}
{{- end -}}

{{/* The reference of one image. Takes a list: the root context and the role. */}}
{{- define "gvm-operator.image" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.images (index . 1) -}}
{{- with $root.Values.images.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default $root.Chart.AppVersion $image.tag }}{{ end -}}
{{- end -}}

{{/* The watched namespaces, comma-separated; empty for all. */}}
{{- define "gvm-operator.watchNamespaces" -}}
{{- if .Values.rbac.clusterWide -}}
{{- if .Values.watchNamespaces }}{{ fail "watchNamespaces and rbac.clusterWide exclude each other: set one" }}{{ end -}}
{{- else -}}
{{- if not .Values.watchNamespaces }}{{ fail "set watchNamespaces to the namespaces whose jobs the operator is to run, or rbac.clusterWide: true for all" }}{{ end -}}
{{- if and (has .Release.Namespace .Values.watchNamespaces) (not .Values.settings.serveOwnNamespace) }}
{{- fail (printf "watchNamespaces names %s, the operator's own namespace, where a job's pods could use its service account and token key: install the operator into another namespace, or set settings.serveOwnNamespace: true (docs/security.md)" .Release.Namespace) }}
{{- end -}}
{{- join "," .Values.watchNamespaces -}}
{{- end -}}
{{- end -}}

{{/* Removes the CEL rules from a schema in place: an API server older than 1.25 refuses the unknown field. */}}
{{- define "gvm-operator.removeRules" -}}
{{- if kindIs "map" . -}}
{{- $_ := unset . "x-kubernetes-validations" -}}
{{- range . }}{{ include "gvm-operator.removeRules" . }}{{ end -}}
{{- else if kindIs "slice" . -}}
{{- range . }}{{ include "gvm-operator.removeRules" . }}{{ end -}}
{{- end -}}
{{- end -}}
