{{/* What selects the pods; never changes, since a Deployment's selector cannot. */}}
{{- define "portolan.selector" -}}
app.kubernetes.io/name: portolan
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "portolan.labels" -}}
{{ include "portolan.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: portolan
{{- end }}

{{- define "portolan.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) }}
{{- end -}}
{{- end }}

{{/* The wildcard address of a listener: both families, or IPv4 alone. */}}
{{- define "portolan.any" -}}
{{ if .Values.ipv6 }}[::]{{ else }}0.0.0.0{{ end }}
{{- end }}

{{/* Refuses ranges of ports that would take each other's. */}}
{{- define "portolan.check" -}}
{{- $ports := .Values.gateway.ports -}}
{{- $first := int $ports.first -}}{{- $last := int $ports.last -}}
{{- $low := int .Values.localPorts.first -}}{{- $high := int .Values.localPorts.last -}}
{{- if lt (sub $last $first) 15 -}}
{{- fail (printf "gateway.ports: %d to %d holds fewer than 16 ports; raise last" $first $last) -}}
{{- end -}}
{{- if gt $low $high -}}
{{- fail (printf "localPorts: first is %d and last %d; exchange them" $low $high) -}}
{{- end -}}
{{- if and (le $low $last) (ge $high $first) -}}
{{- fail (printf "localPorts (%d to %d) and gateway.ports (%d to %d) overlap, so an outgoing connection could take a listener's port; move one of them" $low $high $first $last) -}}
{{- end -}}
{{- range $name, $port := dict "gateway.port" (int .Values.gateway.port) "DNS" 5353 "DNS over TLS" 8853 "admin" 9900 "probes" 9901 -}}
{{- if or (and (ge $port $first) (le $port $last)) (and (ge $port $low) (le $port $high)) -}}
{{- fail (printf "gateway.ports or localPorts hold port %d of %s; move the range" $port $name) -}}
{{- end -}}
{{- end -}}
{{- if has (int .Values.gateway.port) (list 5353 8853 9900 9901) -}}
{{- fail (printf "gateway.port: %d is taken by DNS (5353, 8853), admin (9900) or probes (9901); choose another" (int .Values.gateway.port)) -}}
{{- end -}}
{{- if and .Values.gateway.service.nodePort (eq .Values.gateway.service.type "ClusterIP") -}}
{{- fail "gateway.service.nodePort: a Service of type ClusterIP has none; set it to 0" -}}
{{- end -}}
{{- end }}
