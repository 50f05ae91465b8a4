"""Three clouds: a namespace, backends and agents each, joined by the delay line."""

import json
import shutil
import subprocess
import sys
import threading
import time

from agent import Agent
from netns import Failed, Namespace
from plan import CLOUDS, PODS, PORT, ROUND_TRIP_MS, ZONE, gateway, pod
from process import HERE, Process, Switch, until


class Mesh:
    """Everything of one scenario; `close` removes it.

    `replicas` is how many gateways a cloud has, 0 for none; who is not named has one.
    """

    def __init__(self, prefix, name, binary, directory, replicas=None, without_pods=("paris",)):
        self.dir = directory / name
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        self.binary = binary
        self.namespaces, self.processes, self.agents = {}, [], {}
        self.cut_asked = None
        try:
            self._build(f"{prefix}{name}", replicas or {}, without_pods)
        except BaseException:
            self.close()
            raise

    def _build(self, prefix, replicas, without_pods):
        for cloud in CLOUDS:
            self.namespaces[cloud] = Namespace(f"{prefix}-{cloud}")
        self.switch = Switch(self)
        self.processes.append(self.switch)
        for (a, b), milliseconds in ROUND_TRIP_MS.items():
            self.switch.round_trip(a, b, milliseconds)
        counts = {cloud: replicas.get(cloud, 1) for cloud in CLOUDS}
        for cloud in CLOUDS:
            self._addresses(cloud, counts[cloud])
            self._backends(cloud)
            for replica in range(counts[cloud]):
                agent = Agent(self, cloud, replica)
                agent.configure({p: n for p, n in counts.items() if p != cloud})
                self.agents[agent.name] = agent
            self.manifests(cloud, ready=cloud not in without_pods)
        if self.agents:
            self._trust()
        for agent in self.agents.values():
            agent.start()
        for agent in self.agents.values():
            self.until(f"the agent of {agent.name} is ready", 15, agent.ready)

    def _addresses(self, cloud, gateways):
        inside = self.namespaces[cloud]
        inside.ip("link", "set", "wan0", "up", "mtu", "1500", "txqueuelen", "10000")
        here = [gateway(cloud, n) for n in range(max(gateways, 1))] + [pod(cloud, n) for n in range(PODS)]
        for address in here:
            inside.ip("addr", "add", f"{address}/32", "dev", "wan0")
        inside.ip("route", "add", "10.77.0.0/16", "dev", "wan0", "src", here[0])

    def _backends(self, cloud):
        said = threading.Event()
        pods = [f"{pod(cloud, n)}:{PORT}/web-{cloud}-{n}" for n in range(PODS)]
        process = Process(
            self.namespaces[cloud].command(
                sys.executable, "-B", str(HERE / "backend.py"), cloud, *pods),
            self.dir / f"backends-{cloud}.log", lambda _: said.set())
        self.processes.append(process)
        if not said.wait(10):
            process.check(f"the backends of {cloud}")

    def _trust(self):
        for cloud in CLOUDS:
            done = subprocess.run(
                [self.binary, "trust", "init", "--cluster", cloud, "--clusterset", ZONE,
                 "--out", str(self.dir / cloud / "trust")], capture_output=True, text=True)
            if done.returncode != 0:
                raise Failed(f"portolan trust init: {done.stderr.strip()}")
        for cloud in CLOUDS:
            for peer in CLOUDS:
                if peer != cloud:
                    shutil.copy(
                        self.dir / peer / "trust/ca.pem",
                        self.dir / cloud / f"trust/peers/{peer}.pem")
        for agent in self.agents.values():
            if agent.replica:
                shutil.copytree(self.dir / agent.cloud / "trust", agent.dir / "trust")

    def manifests(self, cloud, ready):
        """Writes both Services of a cloud, with all of its pods or none."""
        registry = self.dir / cloud / "registry"
        registry.mkdir(parents=True, exist_ok=True)
        endpoints = [
            {"addresses": [pod(cloud, n)], "conditions": {"ready": True},
             "targetRef": {"kind": "Pod", "name": f"web-{cloud}-{n}", "namespace": "shop"}}
            for n in range(PODS if ready else 0)]
        for name, annotations in (("web", {}), ("web-direct", {"portolan.dev/dns": "endpoints"})):
            port = {"name": "http", "protocol": "TCP", "port": PORT}
            where = {"name": name, "namespace": "shop"}
            items = [
                {"apiVersion": "v1", "kind": "Service", "metadata": where,
                 "spec": {"ports": [port | {"targetPort": PORT}]}},
                {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                 "metadata": where | {"name": f"{name}-1",
                                      "labels": {"kubernetes.io/service-name": name}},
                 "addressType": "IPv4", "ports": [port], "endpoints": endpoints},
                {"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceExport",
                 "metadata": where | {"annotations": annotations}},
            ]
            new = registry / f".{name}.new"
            new.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=1))
            new.rename(registry / f"{name}.json")

    def check(self):
        for agent in self.agents.values():
            agent.check()

    def until(self, what, within, look):
        """Waits like `until`, and says so if an agent ends meanwhile."""
        def both():
            self.check()
            return look()
        return until(what, within, both)

    def cut(self, cloud, incoming="", outgoing="", verdict="drop"):
        """Faults every packet of a cloud that matches; None leaves a direction alone.

        In force at the instant returned; it may have begun any time after `cut_asked`.
        """
        self.cut_asked = time.monotonic()
        rules = {"incoming": incoming, "outgoing": outgoing}
        self.namespaces[cloud].fault(
            **{way: [(match, verdict)] for way, match in rules.items() if match is not None})
        return time.monotonic()

    def heal(self, cloud):
        self.namespaces[cloud].fault()
        return time.monotonic()

    def close(self):
        for agent in self.agents.values():
            if agent.process:
                agent.kill()
        for process in self.processes:
            process.kill()
        for namespace in self.namespaces.values():
            namespace.remove()
