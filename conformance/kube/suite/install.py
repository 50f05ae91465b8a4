"""The product in every cluster of the lab, as its users install it: the chart, rendered by Helm and
applied, and a Peer object for each other cluster. Checks ask for it with `needs=("mesh",)` and find it
as `context.shared["mesh"]`."""

import base64
import json
import pathlib

from checks import prepare
from images import PRODUCT
from probe import Client
from tools import Failed, until

NAMESPACE = "portolan-system"
CHART = pathlib.Path(__file__).resolve().parents[3] / "deploy/helm/portolan"
PEERS = "/apis/portolan.dev/v1alpha1/peers"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/portolan"
GATEWAY_PORT = 8443


def values(lab, cluster):
    """The chart's values for a cluster of this lab; YAML takes JSON."""
    repository, tag = PRODUCT.split(":")
    return {
        "cluster": cluster.name,
        # Pods reach each other's pods in this mode alone.
        "network": "lab" if lab.mode == "flat" else "",
        "replicas": len(cluster.nodes),
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        # The address that CoreDNS forwards to.
        "dns": {"service": {"clusterIP": cluster.addresses.service(53)[0]}},
        "topologySpread": {"whenUnsatisfiable": "DoNotSchedule"},
        "namespace": {"create": True},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "512Mi"}},
        "log": {"filter": "info,portolan=debug"},
    }


class Mesh:
    """The product in all clusters, each other's peers."""

    def __init__(self, lab):
        self.lab, self.clusters, self.clients, self.rendered = lab, lab.clusters, {}, {}

    # Installing

    def install(self):
        """Everything at once in all clusters, then the peers."""
        for cluster in self.clusters:
            self.render(cluster)
            cluster.apply(self.rendered[cluster])
        for cluster in self.clusters:
            self.until_ready(cluster)
        for cluster in self.clusters:
            for other in self.clusters:
                if other is not cluster:
                    self.introduce(cluster, other)
        for cluster in self.clusters:
            self.until_peers_up(cluster)

    def render(self, cluster):
        """The chart as YAML for this cluster, CRDs first."""
        path = self.lab.dir / f"{cluster.name}.values.json"
        path.write_text(json.dumps(values(self.lab, cluster), indent=2))
        self.rendered[cluster] = cluster.helm(
            "template", "portolan", str(CHART), "--namespace", NAMESPACE, "--include-crds", "-f", str(path))

    def until_ready(self, cluster, within=60):
        """Rolled out, with an authority made and an address given."""
        try:
            cluster.until_rolled_out(NAMESPACE, "portolan", within)
            until(f"Secret portolan-ca of {cluster.name}", 10, lambda: self.authority(cluster))
            until(f"address of portolan in {cluster.name}", 10, lambda: self.addresses(cluster))
        except Failed as failed:
            raise Failed(f"{failed}\n{self.state(cluster)}") from failed

    def introduce(self, cluster, other):
        """Makes `other` a peer of `cluster`."""
        own = set(cluster.families)
        reached = [ip for ip in self.addresses(other) if ("IPv6" if ":" in ip else "IPv4") in own]
        spec = {
            "addresses": [f"[{ip}]:{GATEWAY_PORT}" if ":" in ip else f"{ip}:{GATEWAY_PORT}" for ip in reached],
            "bundle": self.authority(other),
            # Where they are reached directly, its pods' addresses are believed.
            "networks": other.addresses.pods() if self.lab.mode == "flat" else []}
        cluster.apply([{"apiVersion": "portolan.dev/v1alpha1", "kind": "Peer",
                        "metadata": {"name": other.name}, "spec": spec}])

    def until_peers_up(self, cluster, within=30):
        """Every other cluster is `up` in the status of its Peer."""
        for other in self.clusters:
            if other is not cluster:
                try:
                    until(f"peer {other.name} of {cluster.name} up", within,
                          lambda at=other: self.peer(cluster, at).get("state") == "up")
                except Failed as failed:
                    status = json.dumps(self.peer(cluster, other))
                    raise Failed(f"{failed}; its status: {status}\n{self.logs(cluster)}") from failed

    def uninstall(self):
        """Takes the product out of all clusters; the CRDs and what users made stay."""
        for cluster in self.clusters:
            for peer in cluster.get(PEERS)["items"]:
                cluster.delete(f"{PEERS}/{peer['metadata']['name']}")
            for path in (f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/portolan",
                         f"/api/v1/namespaces/{NAMESPACE}",
                         "/apis/rbac.authorization.k8s.io/v1/clusterroles/portolan",
                         "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/portolan"):
                cluster.delete(path)
        for cluster in self.clusters:
            until(f"{NAMESPACE} of {cluster.name} gone", 60,
                  lambda at=cluster: at.api("GET", f"/api/v1/namespaces/{NAMESPACE}")[0] == 404)

    # Looking

    def addresses(self, cluster):
        """Where the other clusters dial this one."""
        found = cluster.get(f"/api/v1/namespaces/{NAMESPACE}/services/portolan")
        return [entry["ip"] for entry in found.get("status", {}).get("loadBalancer", {}).get("ingress", [])]

    @staticmethod
    def authority(cluster):
        """The cluster's ca.crt, PEM."""
        found = cluster.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/portolan-ca")
        return base64.b64decode(found.get("data", {}).get("ca.crt", "")).decode()

    @staticmethod
    def peer(cluster, other):
        """The status of a Peer object."""
        return cluster.get(f"{PEERS}/{other.name}").get("status", {})

    @staticmethod
    def pods(cluster):
        """The gateways' pods, by node."""
        found = cluster.pods(NAMESPACE, "app.kubernetes.io/name%3Dportolan")
        return sorted(found, key=lambda pod: pod["spec"].get("nodeName", ""))

    def leader(self, cluster):
        """(the leader's pod, the other pods)."""
        holder = cluster.get(LEASE)["spec"].get("holderIdentity")
        pods = self.pods(cluster)
        leading = [pod for pod in pods if pod["metadata"]["name"] == holder]
        if not leading:
            raise Failed(f"nobody leads in {cluster.name}: the lease is held by {holder!r}")
        return leading[0], [pod for pod in pods if pod is not leading[0]]

    def client(self, cluster, node=None):
        """A pod to call from; one for each node asked for, and one on the first."""
        node = node or cluster.nodes[0]
        key = cluster, node
        if key not in self.clients:
            self.clients[key] = Client(cluster, f"caller-{node.name}", node=node)
        return self.clients[key]

    def logs(self, cluster, lines=15):
        """The last lines of each gateway."""
        said = []
        for pod in self.pods(cluster):
            name = pod["metadata"]["name"]
            status, text = cluster.api("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/log?tailLines={lines}")
            said.append(f"--- {cluster.name}/{name}: {text if status == 200 else status}")
        return "\n".join(said)

    def state(self, cluster):
        """Why pods may not be ready: their conditions and containers, and what they logged."""
        said = [f"{pod['metadata']['name']}: {json.dumps(pod['status'].get('containerStatuses', pod['status']))}"
                for pod in self.pods(cluster)]
        return "\n".join([*said, self.logs(cluster)])


def install(context):
    """The Mesh of this lab, installed and up."""
    if "mesh" not in context.shared:
        if not context.lab.image:
            raise Failed("there is no image of the product; build the binary, or name one with --image")
        mesh = Mesh(context.lab)
        mesh.install()
        context.shared["mesh"] = mesh
    return context.shared["mesh"]


prepare("mesh")(install)
