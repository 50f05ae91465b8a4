#!/usr/bin/env bash
# Renders the chart into plain manifests, for those without Helm:
#
#   deploy/render.sh [DIRECTORY]          default: deploy/manifests
#
#   crds.yaml      the kinds; `kubectl create` makes only those that are absent
#   install.yaml   everything else but the configuration
#   config.yaml    the configuration, for a cluster named "change-me"
#
# Helm is ${HELM}, else helm, else Go builds it.
set -eu -o pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
chart=$here/helm/portolan
out=${1:-$here/manifests}
mkdir -p "$out"

helm() {
    if [ -n "${HELM:-}" ]; then "$HELM" "$@"
    elif type -P helm >/dev/null; then command helm "$@"
    else go run helm.sh/helm/v4/cmd/helm@v4.3.1 "$@"
    fi
}

notice="# Made by deploy/render.sh from deploy/helm/portolan; change the chart, not this file."
{ echo "$notice"; for file in "$chart"/crds/*.yaml; do echo ---; cat "$file"; done; } >"$out/crds.yaml"

rendered=$(helm template portolan "$chart" --namespace portolan-system \
    --set cluster=change-me --set namespace.create=true)

# Helm's documents, in its order, whose source is the ConfigMap (or is not); without what Helm
# says about itself, which is not true of the result.
documents() {
    awk -v only="$1" 'BEGIN { RS = "---\n"; ORS = "" }
        NF { config = /# Source: [^\n]*\/configmap\.yaml\n/; if (config == only) print "---\n" $0 }' <<<"$rendered" |
        sed -e '/^# Source: /d' -e '/app.kubernetes.io\/managed-by: Helm/d' -e '/^$/d'
}
{ echo "$notice"; documents 0; } >"$out/install.yaml"
{
    echo "# Write this cluster's name instead of change-me: sed s/change-me/paris/ config.yaml"
    documents 1
} >"$out/config.yaml"
