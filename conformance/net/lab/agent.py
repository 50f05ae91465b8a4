"""One `portolan run`, and what it answers on its admin port and by DNS."""

import ipaddress
import json
import os
import socket
import struct
import time

from netns import Failed
from plan import ZONE, gateway, network
from process import Process


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
        """SIGKILL; the instant before it: what it resets was still in flight."""
        begun = time.monotonic()
        self.process.kill()
        self.process = None
        return begun

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
