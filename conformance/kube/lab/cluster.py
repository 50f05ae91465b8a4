"""One cluster: its nodes, its API, what runs in its pods, and the faults of its own."""

import os
import signal

import certs
import cgroups
import coredns
from api import APPLY, Api, reason
from node import Node
from plan import Addresses
from stream import Stream
from tools import Failed, tool, until


class Cluster:
    """Made by Lab. `number` counts from 1, `nodes[0]` has the control plane, `addresses` is its plan."""

    def __init__(self, lab, spec, number):
        self.lab, self.spec, self.name, self.number = lab, spec, spec.name, number
        self.addresses = Addresses(lab.mode, number, spec.families)
        self.families = spec.families
        self.nodes = [Node(self, m + 1, lab) for m in range(spec.nodes)]
        self.certs = lab.dir / "certs" / spec.name
        self.kubeconfig = lab.dir / f"{spec.name}.kubeconfig"
        self.host = self.addresses.node(1)[0]
        self.client = None

    def prepare(self, built, images):
        """Writes certificates and configuration; nothing runs yet."""
        certs.make(self.certs, self.spec, self.addresses, [node.name for node in self.nodes])
        server = f"https://{self.host}:6443"
        certs.kubeconfig(self.kubeconfig, self.certs, "admin", server)
        for user in ("kube-controller-manager", "kube-scheduler", *(node.name for node in self.nodes)):
            certs.kubeconfig(self.certs / f"{user}.conf", self.certs, user, server)
        for node in self.nodes:
            certs.kubeconfig(self.certs / f"{node.name}-kube-proxy.conf", self.certs, "kube-proxy", server)
            node.prepare(built, images, self.certs)
        self.client = Api(self.host, self.certs)

    def join(self):
        """Waits for the API server, then lets the nodes in, each with the pod range that it has."""
        self.until_api(60)
        for node in self.nodes:
            self.create("/api/v1/nodes", {
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": node.name, "labels": {
                    "topology.kubernetes.io/region": self.name, "topology.kubernetes.io/zone": node.name}},
                # The allocator hands ranges out in an order of its own; CNI's are fixed.
                "spec": {"podCIDR": node.pods[0], "podCIDRs": node.pods}})
            (node.dir / "ctl/joined").touch()
        self.apply(coredns.objects(self))

    def until_ready(self, within=120):
        """Nodes Ready, images there, CoreDNS answering, the default service account made."""
        for node in self.nodes:
            until(f"images on {node.name}", within, (node.dir / "ctl/imported").exists)
            until(f"node {node.name} Ready", within, lambda at=node: self.node_ready(at.name))
        self.until_rolled_out("kube-system", "coredns", within)
        until("the default service account", within,
              lambda: self.api("GET", "/api/v1/namespaces/default/serviceaccounts/default")[0] == 200)

    def node_ready(self, name):
        conditions = self.get(f"/api/v1/nodes/{name}").get("status", {}).get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    # The API

    def api(self, method, path, body=None, content_type="application/json", timeout=30):
        """One request as admin: (status, JSON or text); Failed where there was no answer."""
        return self.client.request(method, path, body, content_type, timeout)

    def get(self, path):
        """The object or list at a path; Failed if it is not there."""
        return self.client.get(path)

    def create(self, path, body):
        """Creates an object; it may be there already."""
        status, reply = self.api("POST", path, body)
        if status not in (201, 409):
            raise Failed(f"POST {path} in {self.name}: {status} {reason(reply)}")
        return reply

    def delete(self, path, grace=None):
        status, reply = self.api("DELETE", path if grace is None else f"{path}?gracePeriodSeconds={grace}")
        if status not in (200, 202, 404):
            raise Failed(f"DELETE {path} in {self.name}: {status} {reason(reply)}")
        return reply

    def patch(self, path, body, content_type="application/merge-patch+json"):
        status, reply = self.api("PATCH", path, body, content_type)
        if status != 200:
            raise Failed(f"PATCH {path} in {self.name}: {status} {reason(reply)}")
        return reply

    def watch(self, path, known=None):
        """An api.Watch: list, then events with the time each came."""
        return self.client.watch(path, known)

    def apply(self, documents):
        """Server-side apply of objects: a dict, a list of dicts, or YAML text, which goes through kubectl."""
        if isinstance(documents, str):
            return self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=documents)
        for document in documents if isinstance(documents, list) else [documents]:
            path = self.path_of(document)
            status, reply = self.api("PATCH", f"{path}?fieldManager=lab&force=true", document, APPLY)
            if status not in (200, 201):
                raise Failed(f"apply {path} in {self.name}: {status} {reason(reply)}")
        return None

    def path_of(self, document):
        """Where an object is, by the API's own discovery."""
        group = document["apiVersion"]
        root = f"/apis/{group}" if "/" in group else f"/api/{group}"
        kinds = self.lab.kinds.setdefault(group, {})
        if document["kind"] not in kinds:
            kinds.update({r["kind"]: (r["name"], r["namespaced"]) for r in self.get(root)["resources"]
                          if "/" not in r["name"]})
        if document["kind"] not in kinds:
            raise Failed(f"{group} has no kind {document['kind']} in {self.name}")
        plural, namespaced = kinds[document["kind"]]
        meta = document["metadata"]
        within = f"/namespaces/{meta.get('namespace', 'default')}" if namespaced else ""
        return f"{root}{within}/{plural}/{meta['name']}"

    def kubectl(self, *arguments, input=None, timeout=120):  # noqa: A002 - subprocess calls it so.
        """Runs kubectl to its end; what it printed."""
        return tool(self.lab.built.program("kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments,
                    stdin=input, timeout=timeout)

    def helm(self, *arguments, timeout=300):
        return tool(self.lab.built.program("helm"), f"--kubeconfig={self.kubeconfig}", *arguments,
                    timeout=timeout, env={**os.environ, "HELM_CACHE_HOME": str(self.lab.dir / "helm"),
                                          "HELM_CONFIG_HOME": str(self.lab.dir / "helm"),
                                          "HELM_DATA_HOME": str(self.lab.dir / "helm")})

    def token(self, namespace, account):
        """An Api that speaks as a service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        reply = self.create(path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})
        return Api(self.host, self.certs, token=reply["status"]["token"])

    # Pods

    def pods(self, namespace, selector=""):
        """Pods as the API has them."""
        return self.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")["items"]

    def until_pod(self, namespace, name, within=60):
        """Waits until a pod is Ready; the pod."""
        def ready():
            pod = self.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
            conditions = pod.get("status", {}).get("conditions", [])
            return pod if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions) else None
        return until(f"pod {namespace}/{name} of {self.name} Ready", within, ready)

    def until_rolled_out(self, namespace, name, within=60):
        """Waits until a Deployment is as its spec says, and has no old pods left."""
        def done():
            found = self.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
            spec, status = found["spec"], found.get("status", {})
            counts = [status.get(c, 0) for c in ("updatedReplicas", "availableReplicas", "replicas")]
            return (status.get("observedGeneration") == found["metadata"]["generation"]
                    and counts == [spec["replicas"]] * 3)
        until(f"deployment {namespace}/{name} of {self.name}", within, done)

    def exec(self, namespace, pod, argv, stdin=None, timeout=60):
        """Runs a command in a pod through the API; what it printed."""
        return self.kubectl("exec", "-n", namespace, *(["-i"] if stdin else []), pod, "--", *argv,
                            input=stdin, timeout=timeout)

    def stream_exec(self, namespace, pod, argv, container=None, handshake=False):
        """Starts a command in a pod and yields its lines as they come, as a Stream.

        It is started by the container runtime, not through the API server, so that it outlives one
        that is killed. Standard input stays open until the Stream is finished; `handshake` as in Stream.
        """
        node, identity, _ = self._container(namespace, pod, container)
        return Stream(node.inside("ctr", "-n", "k8s.io", "tasks", "exec", "--exec-id",
                                  f"lab{next(self.lab.executions)}", identity, *argv), handshake)

    def _container(self, namespace, pod, container=None):
        """(node, container id, its processes) of the running container; asked of the runtime, so that
        it is right after a restart that the API server did not hear of."""
        found = pod if isinstance(pod, dict) else self.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")
        node = next(n for n in self.nodes if n.name == found["spec"].get("nodeName"))
        name, uid = container or found["spec"]["containers"][0]["name"], found["metadata"]["uid"]
        known = node.run("ctr", "-n", "k8s.io", "containers", "ls", "-q",
                         f'labels."io.kubernetes.pod.uid"=={uid},labels."io.kubernetes.container.name"=={name}')
        groups = cgroups.of_pod(node.cgroup, uid)
        for identity in known.split():
            if groups.get(identity):
                return node, identity, groups[identity]
        raise Failed(f"container {name} of pod {namespace}/{found['metadata']['name']} does not run")

    def pod_pids(self, namespace, pod, container=None):
        """The processes of a pod's container, as this machine numbers them. `pod` is a name, or the
        pod as the API had it, which needs no API server."""
        return self._container(namespace, pod, container)[2]

    def kill_pod_process(self, namespace, pod, number=signal.SIGKILL, container=None):
        """Sends a signal to every process of a pod's container, past Kubernetes; their ids."""
        pids = self.pod_pids(namespace, pod, container)
        for pid in pids:
            os.kill(pid, number)
        return pids

    # Faults

    def stop_apiserver(self):
        """kill -9, and down until `start_apiserver`."""
        self.nodes[0].hold("kube-apiserver")

    def start_apiserver(self, within=60):
        self.nodes[0].release("kube-apiserver")
        self.until_api(within)

    def until_api(self, within=60):
        until(f"the API server of {self.name}", within,
              lambda: self.api("GET", "/readyz", timeout=5)[0] == 200)

    def cut_uplink(self):
        """Drops every packet between this cluster and all others, both ways."""
        self.lab.wan.part(self.number, None, True)

    def heal_uplink(self):
        self.lab.wan.part(self.number, None, False)

