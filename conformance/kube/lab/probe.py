"""The test program in pods: servers that say who they are, and clients that count."""


from tools import Failed

IMAGE = "portolan.test/probe:1"


def _environment(cluster):
    def field(path):
        return {"valueFrom": {"fieldRef": {"fieldPath": path}}}
    return [{"name": "CLUSTER", "value": cluster.name}, {"name": "NODE", **field("spec.nodeName")},
            {"name": "POD_UID", **field("metadata.uid")}]


def container(cluster, arguments, ready=None):
    """A container of the test program; `ready` is a port to ask before the pod is Ready."""
    made = {"name": "probe", "image": IMAGE, "args": [str(a) for a in arguments],
            "env": _environment(cluster)}
    if ready:
        made["readinessProbe"] = {"tcpSocket": {"port": ready}, "periodSeconds": 1}
    return made


def server(cluster, name, namespace="default", replicas=1, tcp=(8080,), udp=(), delay="0s", ready=None,
           spread=False, **pod_spec):
    """A Deployment of servers, labelled app=NAME. With `spread` one on each node."""
    ports = ["--tcp", ",".join(map(str, tcp)), "--udp", ",".join(map(str, udp)), "--delay", delay]
    spec = {"containers": [container(cluster, ["serve", *ports], ready)],
            "terminationGracePeriodSeconds": 30, **pod_spec}
    if spread:
        spec["topologySpreadConstraints"] = [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": name}}}]
    return {"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                     "template": {"metadata": {"labels": {"app": name}}, "spec": spec}}}


def service(cluster, name, namespace="default", tcp=(8080,), udp=(), app=None, **spec):
    """A Service for the pods labelled app=NAME; `spec` adds to it, `selector=None` takes it away."""
    ports = [{"name": f"{kind.lower()}-{port}", "port": port, "protocol": kind}
             for kind, list_ in (("TCP", tcp), ("UDP", udp)) for port in list_]
    made = {"selector": {"app": app or name}, "ports": ports, "ipFamilyPolicy": "PreferDualStack",
            "ipFamilies": list(cluster.families), **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {key: value for key, value in made.items() if value is not None}}


def joined(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Client:
    """A pod that lives on, in which clients are started."""

    def __init__(self, cluster, name="client", namespace="default", node=None):
        """`node` is a Node to be on, else any."""
        self.cluster, self.name, self.namespace = cluster, name, namespace
        cluster.create(f"/api/v1/namespaces/{namespace}/pods", {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
            "spec": {"containers": [container(cluster, ["pause"])], "terminationGracePeriodSeconds": 1,
                     **({"nodeSelector": {"kubernetes.io/hostname": node.name}} if node else {})}})
        self.pod = cluster.until_pod(namespace, name)

    def start(self, command, **options):
        """Starts a command of the program (load, stream, dns, once, serve) as a Stream; an option
        `max_wait="1s"` becomes --max-wait=1s, and True a bare flag."""
        flags = []
        for name, value in options.items():
            name = name.replace("_", "-")
            if value is True:
                flags.append(f"--{name}")
            elif value is not None and value is not False:
                flags.append(f"--{name}={value}")
        return self.cluster.stream_exec(self.namespace, self.pod, ["/probe", "until-eof", command, *flags],
                                        handshake=True)

    def run(self, command, within=60, **options):
        """The same to its end: its records."""
        return self.start(command, **options).wait(within)

    def once(self, address, port, protocol="tcp", timeout="5s"):
        """One connection: what was seen, with `error` where it failed."""
        return self._brief("once", target=joined(address, port), protocol=protocol, timeout=timeout)

    def lookup(self, name, kind="A", server=None, timeout="5s"):
        """One question: {"rcode", "answers", "ttl", "ms", "error"}."""
        return self._brief("dns", name=name, type=kind, server=server, count=1, timeout=timeout)

    def _brief(self, command, **options):
        """The one record of a command that has a timeout of its own. Now and then a busy container runtime
        starts nothing at all: then it is asked again, as nothing has been tried."""
        begun = self.start(command, **options)
        try:
            return begun.wait(15)[0]
        except (Failed, IndexError):
            if begun.started:
                raise
        return self.run(command, **options)[0]

    def load(self, target, rate=50, seconds=0, **options):
        """Starts connections at fixed instants; `finish()` or `wait()` of the Stream gives the records."""
        return self.start("load", target=target, rate=rate, seconds=seconds, **options)

    def streams(self, target, count, seconds=0, **options):
        """Holds connections open, with a ping each half second."""
        return self.start("stream", target=target, streams=count, seconds=seconds, **options)


def failures(records):
    """Of a load's or a lookup's records those that failed."""
    return [record for record in records if record.get("error")]
