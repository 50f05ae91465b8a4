"""What the bounds are measured on, made once in a lab: services that only another cluster has, a pod
that calls them, and what reads a load's records while it runs.

Times are wall-clock seconds: pods, nodes and the runner share the machine's one clock."""

import contextlib
import datetime
import json
import os
import re
import time

from install import NAMESPACE
from probe import Client, joined, server, service
from tools import Failed, until

SPACE = "bounds"
MCS = "multicluster.x-k8s.io/v1beta1"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{SPACE}/endpointslices"
PORT, STREAM_PORT = 8080, 8081
MODES = ("three",)


def export(name, policy=None, namespace=SPACE):
    """A ServiceExport."""
    meta = {"name": name, "namespace": namespace}
    if policy:
        meta["annotations"] = {"portolan.dev/policy": policy}
    return {"apiVersion": MCS, "kind": "ServiceExport", "metadata": meta}


def hand_made(name, pods, ready=True, namespace=SPACE):
    """An IPv4 EndpointSlice as people make them, for a Service without selector."""
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-by-hand", "namespace": namespace,
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": f"tcp-{PORT}", "port": PORT, "protocol": "TCP"}],
            "endpoints": [{"addresses": [pod["status"]["podIP"]], "conditions": {"ready": ready},
                           "nodeName": pod["spec"]["nodeName"]} for pod in pods]}


def by_hand(cluster, name, namespace=SPACE):
    """A Service without selector, IPv4 alone, for hand-made slices."""
    return service(cluster, name, namespace, selector=None, ipFamilyPolicy="SingleStack", ipFamilies=["IPv4"])


class Stage:
    """`near` calls, from a pod on the node with the API server; `far` alone has the service `far`.
    `pair` is in the clusters between too, and theirs come first."""

    def __init__(self, context):
        self.clusters, self.mesh = context.clusters, context.shared["mesh"]
        self.near, self.far, self.middle = context.clusters[0], context.clusters[-1], context.clusters[1]
        for cluster in self.clusters:
            cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}}])
        self.far.apply([server(self.far, "far", SPACE, replicas=3, tcp=(PORT, STREAM_PORT)),
                        service(self.far, "far", SPACE, tcp=(PORT, STREAM_PORT)), export("far")])
        for cluster in {self.middle, self.far}:
            order = ",".join(dict.fromkeys((self.middle.name, self.far.name)))
            cluster.apply([server(cluster, "pair", SPACE), service(cluster, "pair", SPACE),
                           export("pair", f"pinned: {order}")])
        self.near.apply([server(self.near, "near", SPACE)])
        self.client = Client(self.near, "caller", SPACE, self.near.nodes[0])
        for cluster, name in ((self.far, "far"), (self.middle, "pair"), (self.far, "pair"), (self.near, "near")):
            cluster.until_rolled_out(SPACE, name)
        self.address = {name: self.until_answered(name) for name in ("far", "pair")}

    def until_answered(self, name, within=20):
        """Waits for the import in the near cluster and a first answer; its IPv4 address."""
        def look():
            seen = self.client.once(self.imported(name), PORT, timeout="1s")
            if seen.get("error"):
                raise Failed(seen["error"])
            return True
        until(f"{name} answered in {self.near.name}", within, look)
        return self.imported(name)

    def imported(self, name, cluster=None):
        """The clusterset IP, of IPv4, as its ServiceImport has it."""
        found = (cluster or self.near).get(f"/apis/{MCS}/namespaces/{SPACE}/serviceimports/{name}")
        ips = [ip for ip in found["spec"].get("ips", []) if ":" not in ip]
        if not ips:
            raise Failed(f"the import {name} has no address yet")
        return ips[0]

    def load(self, name="far", rate=60, timeout="10s", port=PORT, **options):
        """Begins connections to a service, and waits until they flow."""
        load = Follow(self.client.load(joined(self.address[name], port), rate=rate, timeout=timeout, **options))
        load.until(lambda record: record.get("pod"), 10)
        return load

    def pods(self, cluster, app):
        return sorted(cluster.pods(SPACE, f"app={app}"), key=lambda pod: pod["metadata"]["name"])

    def until_whole(self, cluster, within=90):
        """Every gateway of the cluster is Ready and stands in the slices of `far`."""
        cluster.until_rolled_out(NAMESPACE, "portolan", within)
        wanted = {pod["status"]["podIP"] for pod in self.mesh.pods(cluster)}
        until(f"{sorted(wanted)} in the slices of {cluster.name}", within,
              lambda: all(at == wanted for at in derived_addresses(cluster, "far")) and wanted)
        if cluster is self.near:
            self._forget(wanted)

    def _forget(self, gateways):
        """Of connections that broke with a gateway conntrack keeps where they led, for minutes: who gets
        the port of one again would be led there, past kube-proxy. An unanswered one is kept longest."""
        caller, node = self.client.pod["status"]["podIP"], self.near.nodes[0]
        of_caller = ("-f", "ipv4", "-p", "tcp", "--src", caller)
        table = node.run("conntrack", "-L", *of_caller)
        gone = {at for at in re.findall(r"src=(\S+) dst=\S+ sport=2\d{4} ", table)} - gateways
        for which in [("--reply-src", at) for at in gone] + [("--state", "SYN_SENT")]:
            with contextlib.suppress(Failed):  # It says so where there is none.
                node.run("conntrack", "-D", *of_caller, *which)

    def derived(self, name, cluster=None):
        """The derived Service."""
        found = (cluster or self.near).get(
            f"/api/v1/namespaces/{SPACE}/services?labelSelector=portolan.dev/service%3D{name}")["items"]
        if len(found) != 1:
            raise Failed(f"{len(found)} derived Services for {name}")
        return found[0]


def derived_addresses(cluster, name):
    """The ready IPv4 addresses of each slice that kube-proxy reads for an import."""
    found = cluster.get(f"{SLICES}?labelSelector=portolan.dev/service%3D{name},kubernetes.io/service-name")
    return [ready_addresses(one) for one in found["items"] if one["addressType"] == "IPv4"]


def ready_addresses(slice_):
    return {address for endpoint in slice_.get("endpoints") or [] for address in endpoint["addresses"]
            if endpoint.get("conditions", {}).get("ready") is not False}


def stage(context):
    """The Stage of this lab; a failure to make it is told to every check alike."""
    if "bounds" not in context.shared:
        context.shared["bounds"] = Stage(context)
    return context.shared["bounds"]


class Follow:
    """A load, or lookups, read as they come. Each record has `began` and `ended`, in seconds."""

    def __init__(self, stream):
        self.stream, self.records, self._read = stream, [], 0

    def fresh(self):
        """Takes in what came since; all records so far, in the order they ended."""
        with self.stream.changed:
            lines = self.stream.lines[self._read:]
        self._read += len(lines)
        for _, text in lines:
            record = json.loads(text) if text.startswith("{") else {}
            if "begin_unix_ns" in record:
                record["began"] = record["begin_unix_ns"] / 1e9
                took = record.get("ms") or max(record.get("first_byte_ms", 0), record.get("connect_ms", 0))
                record["ended"] = record["began"] + took / 1000
                self.records.append(record)
        return self.records

    def until(self, predicate, within, since=0.0):
        """The first record begun since then that the predicate takes."""
        deadline, seen = time.monotonic() + within, 0
        while True:
            records = self.fresh()
            for record in records[seen:]:
                if record["began"] >= since and predicate(record):
                    return record
            seen = len(records)
            if time.monotonic() > deadline:
                last = next((r["error"] for r in reversed(records) if r.get("error")), "none")
                raise Failed(f"no such record within {within:g} s, of {seen}; last error: {last}")
            with self.stream.changed:
                if len(self.stream.lines) == self._read:
                    self.stream.changed.wait(0.1)

    def finish(self):
        """Begins no more; all records once the last has ended."""
        self.stream.finish(30)
        return self.fresh()


def failures(records):
    """Of records those that failed; a lookup also by an answer that is none."""
    return [r for r in records if r.get("error") or ("rcode" in r and not r["answers"])]


def within(records, begin, end=float("inf")):
    return [record for record in records if begin <= record["began"] < end]


def told(records, at, most=4):
    """What failures say, for a note: each text with how often and when they began, in seconds after `at`."""
    moments = {}
    for record in failures(records):
        text = record.get("error") or f"rcode {record.get('rcode')} and no answer"
        # Without addresses and ports, which differ.
        text = re.sub(r"\S*[0-9a-f][.:]\S*\d(->\S+)?:? ?", "", text)
        moments.setdefault(text, []).append(record["began"] - at)
    texts = sorted(moments.items(), key=lambda item: -len(item[1]))[:most]
    said = (f"{len(when)} x {text} ({min(when):.2f} to {max(when):.2f} s)" for text, when in texts)
    return "; ".join(said) or "none failed"


def rate(records):
    """Connections begun per second."""
    begun = [record["began"] for record in records]
    return (len(begun) - 1) / (max(begun) - min(begun)) if len(begun) > 1 else 0.0


def wall(monotonic):
    """The wall-clock time of a moment of time.monotonic()."""
    return monotonic + time.time() - time.monotonic()


def percentile(values, share):
    """The value that this share of all does not exceed, by nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)] if ordered else None


def started(pid):
    """When a process of this machine was started."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        ticks = int(stat.read().rsplit(")", 1)[1].split()[19])
    with open("/proc/uptime", encoding="ascii") as uptime:
        up = float(uptime.read().split()[0])
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")


def log_lines(cluster, pod, since=0.0):
    """(time, text) of what a gateway logged since then, all its processes, read on its node: without
    the API server too."""
    node = next(n for n in cluster.nodes if n.name == pod["spec"]["nodeName"])
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    found = []
    for path in sorted((node.dir / "var/log/pods" / f"{NAMESPACE}_{name}_{uid}" / "portolan").glob("*.log")):
        for line in path.read_text(errors="replace").splitlines():
            stamp, _, text = line.partition(" ")
            at = parsed(stamp)
            if at and at >= since:
                found.append((at, text))
    return found


def parsed(stamp):
    """Seconds of a CRI log's time, which has nanoseconds."""
    try:
        whole, rest = stamp.split(".", 1)
        digits = "".join(c for c in rest[:9] if c.isdigit())
        return datetime.datetime.fromisoformat(f"{whole}+00:00").timestamp() + int(digits) / 10 ** len(digits)
    except ValueError:
        return None


def metrics(cluster, pod):
    """{series: value} of a gateway, asked on its node."""
    node = next(n for n in cluster.nodes if n.name == pod["spec"]["nodeName"])
    url = f"http://{pod['status']['podIP']}:9901/metrics"
    script = f"import urllib.request as r; print(r.urlopen('{url}', timeout=5).read().decode())"
    text = node.run("python3", "-c", script)
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in lines}
