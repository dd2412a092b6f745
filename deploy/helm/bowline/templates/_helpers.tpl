{{/* The name of everything that is made: the release's, with the chart's where it does not hold it. */}}
{{- define "bowline.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) -}}{{- $name = printf "%s-%s" $name .Chart.Name -}}{{- end -}}
{{- $name | trunc 46 | trimSuffix "-" -}}
{{- end -}}

{{/* What tells one release's pods from another's; may never change. Takes a list: the context, and daemon or drill. */}}
{{- define "bowline.selector" -}}
{{- $context := index . 0 -}}
app.kubernetes.io/name: {{ $context.Chart.Name }}
app.kubernetes.io/instance: {{ $context.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "bowline.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{/* What the chart needs to know of bowline.toml, read there, so that it stands in one place; and what cannot be right is refused. */}}
{{- define "bowline.settings" -}}
{{- $config := fromToml .Values.config -}}
{{- if $config.Error -}}{{- fail (printf "config is no TOML: %s" $config.Error) -}}{{- end -}}
{{- $drill := $config.drill | default dict -}}
{{- $daemon := $config.daemon | default dict -}}
{{- $page := $config.page | default dict -}}
{{- $leaves := and (hasKey $daemon "drill") (not $daemon.drill) -}}
{{- if and .Values.drill.cronJob (not $leaves) -}}
{{- fail "drill.cronJob is true and config lets the daemon hold drills too: write drill = false below [daemon], or set drill.cronJob=false" -}}
{{- end -}}
{{- if and (not .Values.drill.cronJob) $leaves -}}
{{- fail "drill.cronJob is false and config has drill = false below [daemon]: nobody would hold a drill" -}}
{{- end -}}
{{- if not $drill.dir -}}{{- fail "config has no dir below [drill]: the volume for drills is mounted there" -}}{{- end -}}
{{- if not (regexMatch "^(0\\.0\\.0\\.0|\\[::\\]):[0-9]+$" ($page.listen | default "")) -}}
{{- fail "listen below [page] of config is not 0.0.0.0:PORT or [::]:PORT: the kubelet's probes would not reach it" -}}
{{- end -}}
{{- if not (and (eq (toString $page.tls_cert) "/etc/bowline/page/tls.crt") (eq (toString $page.tls_key) "/etc/bowline/page/tls.key")) -}}
{{- fail "tls_cert and tls_key below [page] of config are not /etc/bowline/page/tls.crt and tls.key, where the Secret is mounted" -}}
{{- end -}}
schedule: {{ $drill.schedule | default "0 4 * * 0" | quote }}
zone: {{ $daemon.timezone | default "UTC" | quote }}
dir: {{ $drill.dir | quote }}
port: {{ regexFind "[0-9]+$" $page.listen }}
{{- end -}}

{{/* What the pods of daemon and drill have in common, but for containers and volumes. */}}
{{- define "bowline.pod" -}}
serviceAccountName: {{ include "bowline.name" . }}
automountServiceAccountToken: {{ .Values.serviceAccount.automountToken }}
# Variables such as BOWLINE_PORT would come from the Service's name.
enableServiceLinks: false
{{- with .Values.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.user }}
  runAsGroup: {{ .Values.user }}
  # Whose group the volumes and the files of Secrets have: a key that everybody may read is refused.
  fsGroup: {{ .Values.user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What their containers have in common, but for name, words, probes, resources and their own mounts, which are the last. */}}
{{- define "bowline.container" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
env:
  # So that commands typed by kubectl exec find it, too.
  - name: BOWLINE_CONFIG
    value: /etc/bowline/config/bowline.toml
  {{- with .Values.pod.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
envFrom:
  - secretRef:
      name: {{ .Values.secrets.environment }}
volumeMounts:
  - name: config
    mountPath: /etc/bowline/config
    readOnly: true
  - name: keys
    mountPath: /etc/bowline/keys
    readOnly: true
  - name: tmp
    mountPath: /tmp
  {{- with .Values.pod.mounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "bowline.volumes" -}}
- name: config
  configMap:
    name: {{ include "bowline.name" . }}
- name: keys
  secret:
    secretName: {{ .Values.secrets.keys }}
    optional: true
    defaultMode: 0440
- name: tmp
  emptyDir: {}
{{- with .Values.pod.volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The drill's own disk. It comes with the pod and goes with it. */}}
{{- define "bowline.drillMounts" -}}
- name: drill
  mountPath: {{ .dir }}
# Parallel queries of the restored server share memory there; a container has 64 MiB of it otherwise.
- name: shm
  mountPath: /dev/shm
{{- end -}}

{{- define "bowline.drillVolumes" -}}
- name: drill
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .Values.drill.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ .Values.drill.storage }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: 256Mi
{{- end -}}
