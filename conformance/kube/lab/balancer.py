"""Load balancers: what a cloud's controller and its data path do, without a cloud.

Each Service of type LoadBalancer gets addresses of its cluster's range. Who calls them (a node or the
runner) sends each connection to one node and keeps it there, by a mark on the connection: to nodes with
a ready pod where externalTrafficPolicy is Local, else to any. A connection that exists stays on its
node whatever becomes of that, as with a cloud's.
"""

import threading

import plan
from tools import Failed, say


class Balancer:
    """Of one cluster: follows its Services and slices by watch. While its API server is away, all stays."""

    def __init__(self, cluster, changed):
        self.cluster, self.changed, self.over = cluster, changed, threading.Event()
        self.services, self.slices = {}, {}
        self.lock = threading.Lock()
        self.threads = [
            threading.Thread(target=self._follow, args=args, daemon=True) for args in (
                ("/api/v1/services", self.services),
                ("/apis/discovery.k8s.io/v1/endpointslices", self.slices))]
        self.watches = {}

    def start(self):
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.over.set()
        for watch in list(self.watches.values()):
            watch.close()

    @staticmethod
    def _key(thing):
        return thing["metadata"]["namespace"], thing["metadata"]["name"]

    def _follow(self, path, known):
        while not self.over.is_set():
            try:
                watch = self.cluster.watch(path)
                self.watches[path] = watch
                with self.lock:
                    known.clear()
                    known.update({self._key(thing): thing for thing in watch.objects})
                self._settle()
                for _, event in watch:
                    with self.lock:
                        if event["type"] == "DELETED":
                            known.pop(self._key(event["object"]), None)
                        elif event["type"] in ("ADDED", "MODIFIED"):
                            known[self._key(event["object"])] = event["object"]
                    self._settle()
            except Failed:
                pass  # Its API server is away: what was known stays.
            self.over.wait(0.2)

    def _settle(self):
        self._assign()
        if not self.over.is_set():
            self.changed()

    def _assign(self):
        """Gives an address to each Service that has none."""
        with self.lock:
            wanting = [s for s in self.services.values() if s["spec"].get("type") == "LoadBalancer"]
            taken = {i["ip"] for s in wanting for i in s.get("status", {}).get("loadBalancer", {}).get("ingress", [])}
        for service in sorted(wanting, key=lambda s: s["metadata"]["creationTimestamp"]):
            if service.get("status", {}).get("loadBalancer", {}).get("ingress"):
                continue
            k = next(k for k in range(1, 250) if self.cluster.addresses.balancer(k)[0] not in taken)
            families = service["spec"].get("ipFamilies", ["IPv4"])
            ips = [ip for ip in self.cluster.addresses.balancer(k)
                   if ("IPv6" if ":" in ip else "IPv4") in families]
            taken.update(ips)
            namespace, name = self._key(service)
            status = {"status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in ips]}}}
            try:
                self.cluster.patch(f"/api/v1/namespaces/{namespace}/services/{name}/status", status)
            except Failed as failed:
                say(f"load balancer of {namespace}/{name} in {self.cluster.name}: {failed}")
                return
            with self.lock:
                service.setdefault("status", {}).update(status["status"])

    def targets(self):
        """{address: [mark of a node that takes its connections]}"""
        found = {}
        with self.lock:
            for key, service in self.services.items():
                ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress", [])
                if service["spec"].get("type") != "LoadBalancer":
                    continue
                ready = self._ready_nodes(key)
                if service["spec"].get("externalTrafficPolicy") != "Local":
                    ready = {node.name for node in self.cluster.nodes}
                for ip in (i["ip"] for i in ingress):
                    found[ip] = [n.mark for n in self.cluster.nodes if n.name in ready]
        return found

    def _ready_nodes(self, key):
        namespace, name = key
        return {
            endpoint.get("nodeName") for slice_ in self.slices.values()
            if slice_["metadata"]["namespace"] == namespace
            and slice_["metadata"].get("labels", {}).get("kubernetes.io/service-name") == name
            for endpoint in slice_.get("endpoints") or []
            if endpoint.get("conditions", {}).get("ready") is not False
        }


class Balancers:
    """All clusters' load balancers, and the rules by which everybody calls them."""

    def __init__(self, lab):
        self.lab, self.lock, self.applied = lab, threading.Lock(), {}
        self.each = {cluster: Balancer(cluster, self.settle) for cluster in lab.clusters}

    def start(self):
        for balancer in self.each.values():
            balancer.start()

    def stop(self):
        for balancer in self.each.values():
            balancer.stop()

    def settle(self):
        """Brings the rules of all callers up to date."""
        with self.lock:
            targets = {cluster: balancer.targets() for cluster, balancer in self.each.items()}
            callers = [(node, node.cluster) for node in self.lab.nodes()] + [(self.lab.wan, None)]
            for caller, own in callers:
                rules = self._rules([item for cluster, items in targets.items() if cluster is not own
                                     for item in items.items()])
                if self.applied.get(caller) == rules:
                    continue
                try:
                    caller.nft(rules)
                    self.applied[caller] = rules
                except Failed as failed:
                    say(f"load balancer rules: {failed}")

    @staticmethod
    def _rules(items):
        """A connection is given its mark once; every packet of it then has that mark."""
        pick, steer = [], []
        for ip, marks in sorted(items):
            match = f"ip6 daddr {ip}" if ":" in ip else f"ip daddr {ip}"
            if marks:
                table = ", ".join(f"{n} : {mark:#x}" for n, mark in enumerate(marks))
                pick.append(f"    {match} ct mark set numgen inc mod {len(marks)} map {{ {table} }}\n")
            else:
                pick.append(f"    {match} drop\n")
        for match in (f"ip daddr {plan.BALANCERS4}", f"ip6 daddr {plan.BALANCERS6}"):
            steer.append(f"    {match} ct mark 0 jump pick\n    {match} meta mark set ct mark\n")
        steer = "".join(steer)
        return ("table inet balancers\ndelete table inet balancers\ntable inet balancers {\n"
                f"  chain pick {{\n{''.join(pick)}  }}\n"
                f"  chain passing {{\n    type filter hook prerouting priority mangle;\n{steer}  }}\n"
                f"  chain begun {{\n    type route hook output priority mangle;\n{steer}  }}\n}}\n")
