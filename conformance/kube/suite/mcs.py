"""What the checks of the Multi-Cluster Services API share: a namespace in every cluster with servers and
a caller, and the words in which checks are written. Needed as `needs=("mesh", "shop")`.

Checks tell services apart by name, so that all of them share the servers' pods.
"""

import concurrent.futures
import time

from api import reason
from checks import prepare
from probe import joined, server, service
from tools import Failed, until

NAMESPACE = "shop"
GROUP = "/apis/multicluster.x-k8s.io/v1beta1"
SLICES = "/apis/discovery.k8s.io/v1"
MODES = ("identical", "disjoint", "flat", "ipv4")
WEB = {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}
ADMIN = {"name": "admin", "port": 81, "protocol": "TCP", "targetPort": 9090}


def path(kind, name="", namespace=NAMESPACE):
    """Where an object of one of these kinds is: services, serviceexports, serviceimports, endpointslices, events."""
    root = {"services": "/api/v1", "events": "/api/v1", "endpointslices": SLICES}.get(kind, GROUP)
    return f"{root}/namespaces/{namespace}/{kind}" + (f"/{name}" if name else "")


def fqdn(name, namespace=NAMESPACE, zone="clusterset.local"):
    return f"{name}.{namespace}.svc.{zone}"


def condition(found, kind):
    """A condition of an object; empty if it has none of that type."""
    listed = (found or {}).get("status", {}).get("conditions", [])
    return next((one for one in listed if one["type"] == kind), {})


def has_ips(found):
    return bool(found.get("spec", {}).get("ips"))


def is_ready(found):
    """Its import has its addresses, and says that it is in order."""
    headless = found.get("spec", {}).get("type") == "Headless"
    return (headless or has_ips(found)) and condition(found, "Ready").get("status") == "True"


class Shop:
    """Of one lab. `uids` are the servers' pods of each cluster, `callers` the pods to call from."""

    def __init__(self, mesh):
        self.mesh, self.clusters = mesh, mesh.clusters
        self.callers, self.uids = {}, {}

    def open(self, namespace=NAMESPACE):
        """Namespaces, servers, callers."""
        for cluster in self.clusters:
            self.make_namespace(cluster, namespace)
            cluster.apply([server(cluster, "echo", namespace, replicas=len(cluster.nodes), spread=True,
                                  tcp=(8080, 9090), udp=(8080,), terminationGracePeriodSeconds=1)])
        nodes = [(cluster, node) for cluster in self.clusters for node in (None, *cluster.nodes[1:])]
        with concurrent.futures.ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(lambda at: self.mesh.client(*at), nodes))
        for cluster in self.clusters:
            self.callers[cluster] = self.mesh.client(cluster)
            cluster.until_rolled_out(namespace, "echo")
            self.uids[cluster] = {pod["metadata"]["uid"] for pod in cluster.pods(namespace, "app=echo")}

    @staticmethod
    def make_namespace(cluster, namespace):
        cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}])

    def on_nodes(self, cluster):
        """Pods to call from: one on each node."""
        return [self.mesh.client(cluster, node) for node in (None, *cluster.nodes[1:])]

    # Writing

    def serve(self, cluster, name, namespace=NAMESPACE, ports=(WEB,), metadata=None, **spec):
        """A Service of the shop's servers."""
        spec = {"ports": [dict(port) for port in ports], **spec}
        made = service(cluster, name, namespace, app="echo", **spec)
        made["metadata"].update(metadata or {})
        if made["spec"].get("type") == "ExternalName":
            made["spec"] = {"type": "ExternalName", "externalName": spec["externalName"]}
        cluster.apply([made])

    def export(self, cluster, name, namespace=NAMESPACE, metadata=None, **spec):
        """Creates a ServiceExport; the time.monotonic() and time.time() of the reply."""
        made = {"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
                "metadata": {"name": name, **(metadata or {})}, **({"spec": spec} if spec else {})}
        status, reply = cluster.api("POST", path("serviceexports", namespace=namespace), made)
        now = time.monotonic(), time.time()
        if status != 201:
            raise Failed(f"export of {name} in {cluster.name}: {status} {reason(reply)}")
        return now

    def unexport(self, cluster, name, namespace=NAMESPACE):
        """Deletes it; the times of the reply, as of `export`."""
        cluster.delete(path("serviceexports", name, namespace))
        return time.monotonic(), time.time()

    def offer(self, cluster, name, export=None, **spec):
        """A Service and its export."""
        self.serve(cluster, name, **spec)
        return self.export(cluster, name, spec.get("namespace", NAMESPACE), **(export or {}))

    # Looking

    @staticmethod
    def find(cluster, kind, name, namespace=NAMESPACE):
        """An object, or None."""
        status, found = cluster.api("GET", path(kind, name, namespace))
        if status not in (200, 404):
            raise Failed(f"{kind} {name} in {cluster.name}: {status} {reason(found)}")
        return found if status == 200 else None

    def until_found(self, what, cluster, kind, name, suits, within=5, namespace=NAMESPACE):
        """The object, once it suits."""
        last = None

        def look():
            nonlocal last
            last = self.find(cluster, kind, name, namespace)
            return last if last and suits(last) else None
        try:
            return until(f"{what} of {name} in {cluster.name}", within, look)
        except Failed as failed:
            seen = {key: last.get(key) for key in ("spec", "status")} if last else "it does not exist"
            raise Failed(f"{failed}: {seen}") from failed

    def until_import(self, cluster, name, suits=is_ready, within=5, namespace=NAMESPACE):
        return self.until_found("import", cluster, "serviceimports", name, suits, within, namespace)

    def until_clusters(self, cluster, name, names, within=5):
        """The import, once exactly these clusters stand behind it."""
        return self.until_import(
            cluster, name, lambda found: is_ready(found) and behind(found) == sorted(names), within)

    def until_no_import(self, cluster, name, within=5, namespace=NAMESPACE):
        until(f"no import of {name} in {cluster.name}", within,
              lambda: self.find(cluster, "serviceimports", name, namespace) is None)

    def until_condition(self, cluster, name, kind, status, because=None, within=5):
        """The condition of a ServiceExport, once it says so."""
        def suits(found):
            one = condition(found, kind)
            return one.get("status") == status and because in (None, one.get("reason"))
        found = self.until_found(f"{kind}={status} ({because})", cluster, "serviceexports", name, suits, within)
        return condition(found, kind)

    @staticmethod
    def slices(cluster, name, namespace=NAMESPACE):
        """The slices of an import, as the API wants them."""
        wanted = f"?labelSelector=multicluster.kubernetes.io/service-name%3D{name}"
        return cluster.get(path("endpointslices", namespace=namespace) + wanted)["items"]

    def derived(self, cluster, name, namespace=NAMESPACE):
        """The Service that gives an import its addresses: the one with these."""
        ips = (self.find(cluster, "serviceimports", name, namespace) or {}).get("spec", {}).get("ips", [])
        found = [one for one in cluster.get(path("services", namespace=namespace))["items"]
                 if set(ips) & set(one["spec"].get("clusterIPs", []))]
        if not found:
            raise Failed(f"no Service of {cluster.name} has the addresses {ips} of {name}")
        return found[0]

    def lookup(self, cluster, name, kind="A", namespace=NAMESPACE):
        return self.callers[cluster].lookup(name if "." in name else fqdn(name, namespace), kind)

    # Calling

    def answers(self, cluster, ip, port=80, count=20, rate=100, protocol="tcp", timeout="5s"):
        """What a number of connections saw; none is tried again."""
        records = self.callers[cluster].run("load", target=joined(ip, port), rate=rate, seconds=count / rate,
                                            protocol=protocol, timeout=timeout)
        return [record for record in records if "summary" not in record]

    def who(self, seen):
        """The cluster whose pod answered, proven by its name and the pod's UID; None for a failure."""
        if seen.get("error"):
            return None
        cluster = next(one for one in self.clusters if one.name == seen["cluster"])
        if seen["pod"] not in self.uids[cluster]:
            raise Failed(f"{seen['cluster']} has no pod {seen['pod']}")
        return cluster

    def until_from(self, cluster, name, wanted, port=80, within=10, namespace=NAMESPACE):
        """Until a call through each address of an import is answered by one of these clusters; seconds."""
        begun = time.monotonic()
        for ip in self.until_import(cluster, name, namespace=namespace)["spec"]["ips"]:
            last = None

            def look(at=ip):
                nonlocal last
                last = self.callers[cluster].once(at, port, timeout="1s")
                return self.who(last) in wanted
            try:
                until(f"{name} at {ip}, seen from {cluster.name}", within, look)
            except Failed as failed:
                raise Failed(f"{failed}: {last}") from failed
        return time.monotonic() - begun

    def always_from(self, cluster, name, wanted, port=80, count=20, namespace=NAMESPACE):
        """Every one of some connections to each address is answered by one of these clusters."""
        seen = set()
        for ip in self.until_import(cluster, name, namespace=namespace)["spec"]["ips"]:
            for record in self.answers(cluster, ip, port, count):
                who = self.who(record)
                if who not in wanted:
                    raise Failed(f"{name} at {ip} from {cluster.name}: {record}")
                seen.add(who)
        return seen


def behind(found):
    """The clusters that stand behind an import, by name."""
    return sorted(one["cluster"] for one in found.get("status", {}).get("clusters", []))


def bare(ports):
    """Ports as they are compared: what an import has of a Service's."""
    return [{key: port[key] for key in ("name", "protocol", "appProtocol", "port") if key in port} for port in ports]


@prepare("shop")
def open_shop(context):
    """Namespaces and pods, once in a lab."""
    shop = Shop(context.shared["mesh"])
    shop.open()
    context.shared["shop"] = shop


def stage(context):
    """(the shop, the first cluster, the second one)."""
    shop = context.shared["shop"]
    return shop, shop.clusters[0], shop.clusters[1]
