"""Three clouds: a namespace, backends and agents each, joined by the delay line."""

import contextlib
import ipaddress
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

from netns import Failed, Namespace

HERE = pathlib.Path(__file__).parent
CLOUDS = ("paris", "oregon", "tokyo")
NUMBER = {cloud: number for number, cloud in enumerate(CLOUDS, 1)}
ROUND_TRIP_MS = {("paris", "oregon"): 20, ("oregon", "tokyo"): 80, ("paris", "tokyo"): 110}
PORT = 8080
PODS = 2
ZONE = "clusterset.local"
WEB, DIRECT = f"web.shop.svc.{ZONE}", f"web-direct.shop.svc.{ZONE}"


def network(cloud):
    """The addresses of a cloud, gateways and pods alike."""
    return f"10.77.{NUMBER[cloud]}.0/24"


def gateway(cloud, replica=0):
    return f"10.77.{NUMBER[cloud]}.{1 + replica}"


def pod(cloud, number):
    return f"10.77.{NUMBER[cloud]}.{10 + number}"


def until(what, within, look, every=0.05):
    """Waits until `look` yields something true; Failed with `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise Failed(f"{what}: not within {within:g} s")
        time.sleep(every)


class Process:
    """A process of ours inside a namespace."""

    def __init__(self, command, log, lines=None):
        self.log = log
        self.errors = open(log, "ab")
        pipes = subprocess.PIPE if lines is not None else None
        self.child = subprocess.Popen(
            command, stdin=pipes or subprocess.DEVNULL, stdout=pipes or self.errors,
            stderr=self.errors, start_new_session=True)
        if lines is not None:
            self.reader = threading.Thread(target=self._read, args=(lines,), daemon=True)
            self.reader.start()

    def _read(self, lines):
        for text in self.child.stdout:
            lines(text.decode())

    def check(self, name):
        """Failed, with the last lines of the log, if it has ended."""
        if self.child.poll() is not None:
            tail = pathlib.Path(self.log).read_text(errors="replace").splitlines()[-15:]
            raise Failed(f"{name} ended by itself ({self.child.returncode}): " + "\n  ".join(tail))

    def finish(self, within=15):
        """Closes its standard input and waits until it has said everything."""
        with contextlib.suppress(OSError):
            self.child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(within)
        self.kill()
        self.reader.join(within)

    def kill(self):
        self.child.kill()
        self.child.wait()
        self.errors.close()


class Switch(Process):
    """The delay line's process."""

    def __init__(self, mesh):
        self.answers = threading.Semaphore(0)
        paths = [mesh.namespaces[cloud].path for cloud in CLOUDS]
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-B", str(HERE / "switch.py")]
        super().__init__(command + paths, mesh.dir / "switch.log", lambda _: self.answers.release())
        self._answered()

    def _answered(self):
        if not self.answers.acquire(timeout=5):
            self.check("the switch")
            raise Failed("the switch does not answer")

    def round_trip(self, a, b, milliseconds):
        command = f"rtt {NUMBER[a]} {NUMBER[b]} {milliseconds}\n"
        self.child.stdin.write(command.encode())
        self.child.stdin.flush()
        self._answered()


class Agent:
    """One `portolan run`."""

    def __init__(self, mesh, cloud, replica):
        self.mesh, self.cloud, self.replica = mesh, cloud, replica
        self.namespace = mesh.namespaces[cloud]
        self.name = cloud if replica == 0 else f"{cloud}-{replica}"
        self.dir = mesh.dir / self.name
        self.admin = 9900 + replica
        self.process = None

    def configure(self, peers):
        """Writes its files; `peers` is how many gateways each other cloud has."""
        self.dir.mkdir(parents=True)
        here = gateway(self.cloud, self.replica)
        lines = [
            f"cluster: {self.cloud}", f"clusterset: {ZONE}", "network: lab",
            f"source: {{ files: {self.mesh.dir / self.cloud / 'registry'} }}",
            "state: { dir: ./state }",
            # Two replicas share a namespace, so each has addresses of its own to listen on.
            f"vips: [127.{64 + self.replica}.0.0/16]",
            f"gateway: {{ listen: [\"{here}:8443\"] }}",
            f"dns: {{ listen: [\"{here}:5353\"] }}",
            f"admin: {{ listen: \"127.0.0.1:{self.admin}\" }}",
            "trust: { dir: ./trust }", "log: { filter: info, format: text }", "peers:",
        ]
        for peer, count in peers.items():
            at = ", ".join(f'"{gateway(peer, n)}:8443"' for n in range(count))
            lines.append(
                f"  - {{ cluster: {peer}, addresses: [{at}], networks: [\"{network(peer)}\"] }}")
        (self.dir / "portolan.yaml").write_text("\n".join(lines) + "\n")

    def start(self):
        """Starts it; the instant."""
        started = time.monotonic()
        self.process = Process(
            self.namespace.command(
                self.mesh.binary, "run", "--config", str(self.dir / "portolan.yaml")),
            self.dir / "log")
        return started

    def kill(self):
        """SIGKILL; the instant."""
        self.process.kill()
        self.process = None
        return time.monotonic()

    def check(self):
        if self.process:
            self.process.check(f"the agent of {self.name}")

    def get(self, path):
        """What the admin port answers: (status, body), or None where nobody does."""
        try:
            with self.namespace.socket(socket.SOCK_STREAM, 2) as stream:
                stream.connect(("127.0.0.1", self.admin))
                request = f"GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"
                stream.sendall(request.encode())
                answer = b""
                while some := stream.recv(65536):
                    answer += some
        except OSError:
            return None
        head, _, body = answer.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            body = unchunk(body)
        status = head.split(b" ", 2)[1:2]
        return (int(status[0]), body.decode()) if status else None

    def ready(self):
        answer = self.get("/readyz")
        return answer is not None and answer[0] == 200

    def explain(self, name="web.shop"):
        answer = self.get(f"/explain?name={name}")
        return json.loads(answer[1]) if answer and answer[0] == 200 else None

    def peer_states(self):
        answer = self.get("/state")
        if not answer or answer[0] != 200:
            return {}
        return {peer["cluster"]: peer["state"] for peer in json.loads(answer[1])["peers"]}

    def inbound_streams(self):
        """Streams begun here for peers, by its own counters: those that ended and the open."""
        answer = self.get("/metrics")
        if not answer:
            raise Failed(f"the agent of {self.name} has no metrics")
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in answer[1].splitlines()
            if line.startswith(("portolan_streams_total{", "portolan_streams_open{"))
            and 'direction="inbound"' in line)

    def resolve(self, name, timeout=0.2):
        """The IPv4 addresses that its DNS answers, ascending; None where it does not answer."""
        labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
        question = os.urandom(2) + b"\x01\x00\x00\x01" + bytes(6) + labels + b"\0\0\x01\0\x01"
        try:
            with self.namespace.socket(socket.SOCK_DGRAM, timeout) as asker:
                asker.connect((gateway(self.cloud, self.replica), 5353))
                asker.send(question)
                return addresses_in(asker.recv(1232), question)
        except OSError:
            return None


def unchunk(body):
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size.split(b";")[0] or b"0", 16)
        whole, body = whole + rest[:length], rest[length + 2:]
        if length == 0:
            break
    return whole


def addresses_in(answer, question):
    """The A records of a DNS answer, ascending; None when it is no answer to the question."""
    if answer[:2] != question[:2] or answer[3] & 0x0F not in (0, 3):
        return None
    count, at, found = struct.unpack("!H", answer[6:8])[0], len(question), []
    for _ in range(count):
        while answer[at] and answer[at] < 0xC0:
            at += 1 + answer[at]
        at += 2 if answer[at] else 1
        kind, _, _, length = struct.unpack("!HHIH", answer[at:at + 10])
        at += 10
        if kind == 1:
            found.append(str(ipaddress.IPv4Address(answer[at:at + length])))
        at += length
    return sorted(found)


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
        """Faults every packet of a cloud that matches; None leaves a direction alone."""
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
