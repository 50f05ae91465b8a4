"""CoreDNS as the clusters run it: what a user's has, and the zone of the cluster set forwarded."""

NAMESPACE = "kube-system"


def corefile(addresses):
    return f""".:53 {{
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        pods insecure
    }}
}}
clusterset.local:53 {{
    errors
    forward . {addresses.service(53)[0]} {{
        max_fails 2
        health_check 0.5s
    }}
}}
"""


def objects(cluster):
    """On the first node, which has the API server too: faults take away the others."""
    meta = {"name": "coredns", "namespace": NAMESPACE}
    ips = cluster.addresses.service(10)
    read = ["list", "watch"]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "system:coredns"},
         "rules": [{"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": read},
                   {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
         "metadata": {"name": "system:coredns"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
         "subjects": [{"kind": "ServiceAccount", **meta}]},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta,
         "data": {"Corefile": corefile(cluster.addresses)}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": NAMESPACE},
         "spec": {"selector": {"k8s-app": "kube-dns"}, "clusterIP": ips[0], "clusterIPs": ips,
                  "ipFamilies": list(cluster.addresses.families),
                  "ipFamilyPolicy": "RequireDualStack" if len(ips) > 1 else "SingleStack",
                  "ports": [{"name": f"dns-{p.lower()}", "port": 53, "protocol": p} for p in ("UDP", "TCP")]}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
         "spec": {"selector": {"matchLabels": {"k8s-app": "kube-dns"}}, "template": {
             "metadata": {"labels": {"k8s-app": "kube-dns"}},
             "spec": {
                 "serviceAccountName": "coredns", "dnsPolicy": "Default",
                 "nodeSelector": {"kubernetes.io/hostname": cluster.nodes[0].name},
                 "containers": [{
                     "name": "coredns", "image": "portolan.test/coredns:1",
                     "args": ["-conf", "/etc/coredns/Corefile"],
                     "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
                     "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}]}],
                 "volumes": [{"name": "config", "configMap": {"name": "coredns"}}]}}}},
    ]
