"""What a query costs in user instructions, counted by callgrind in an agent that runs as it is.

Counts, never times, so that a busy machine changes little. The agent sees one CPU, so one loop
answers; 32 queries are outstanding, so it reads batches where it can. One in ten asks for a name
that does not exist. Every answer is checked. Metrics, policy and health are on.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from callgrind import PATIENCE, Callgrind, Failed  # noqa: E402

BOUND = 3_000
NAMES = 1_000
MISSING = 0.1
SOCKETS, OUTSTANDING = 4, 32
# Of each window; the best window counts, since timers go on beside it.
QUERIES = 10_000
WINDOWS = 3
WARM_UP = 2_000
ZONE = "clusterset.local"
HOST = f"127.{60 + os.getpid() % 60}.{os.getpid() // 60 % 200}.9"
NOERROR, NXDOMAIN = 0, 3


def exports():
    each = []
    for number in range(NAMES):
        where = f"namespace: ns-{number % 100}, name: svc-{number}"
        each.append(f"""---
apiVersion: v1
kind: Service
metadata: {{ {where} }}
spec: {{ ports: [ {{ name: http, port: 80 }} ] }}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {{ {where} }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ {where}, labels: {{ kubernetes.io/service-name: svc-{number} }} }}
addressType: IPv4
ports: [ {{ name: http, port: 8080 }} ]
endpoints: [ {{ addresses: ["10.1.2.3"] }} ]
""")
    return "".join(each)


def question(service, namespace):
    """A message that asks for the address, without its id."""
    labels = [service, namespace, "svc", *ZONE.split(".")]
    name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    return struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + name + struct.pack(">HH", 1, 1)


def questions():
    """Messages, each with the code and the number of answers it must get."""
    draw = random.Random(7)
    made = []
    for _ in range(4096):
        number = draw.randrange(NAMES)
        if draw.random() < MISSING:
            made.append((question(f"nosuch-{number}", f"ns-{number % 100}"), (NXDOMAIN, 0)))
        else:
            made.append((question(f"svc-{number}", f"ns-{number % 100}"), (NOERROR, 1)))
    return made


class Client:
    """Asks over a few sockets, with some queries outstanding on each."""

    def __init__(self):
        self.questions = questions()
        self.sockets = []
        for _ in range(SOCKETS):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            client.connect((HOST, 5353))
            client.settimeout(PATIENCE)
            self.sockets.append(client)
        self.next = 0

    def ask(self, count):
        """Asks `count` questions and checks as many answers."""
        window = OUTSTANDING // SOCKETS
        for _ in range(count // OUTSTANDING):
            waiting = []
            for client in self.sockets:
                asked = {}
                for _ in range(window):
                    self.next += 1
                    number = self.next & 0xFFFF
                    message, wanted = self.questions[self.next % len(self.questions)]
                    client.send(struct.pack(">H", number) + message)
                    asked[number] = message, wanted
                waiting.append((client, asked))
            for client, asked in waiting:
                while asked:
                    self.check(client.recv(1500), asked)
        return count // OUTSTANDING * OUTSTANDING

    @staticmethod
    def check(answer, asked):
        number, flags, _, answers = struct.unpack_from(">HHHH", answer)
        message, wanted = asked.pop(number, (b"", None))
        if (flags & 0xF, answers) != wanted or not answer[12:].startswith(message[10:]):
            raise Failed(f"a wrong answer: {answer.hex()}")


def agent(home, binary):
    """Started on one CPU, counting nothing until it answers."""
    folder = home / "mesh"
    (folder / "registry").mkdir(parents=True)
    (folder / "registry/services.yaml").write_text(exports())
    subprocess.run([binary, "trust", "init", "--cluster", "paris", "--out", str(folder / "trust")],
                   check=True, capture_output=True)
    config = folder / "paris.yaml"
    config.write_text(
        "cluster: paris\nsource: { files: ./registry }\nstate: { dir: ./state }\nvips: 10.64.0.0/16\n"
        f"gateway: {{ listen: '{HOST}:8443', outbound: false }}\ndns: {{ listen: '{HOST}:5353' }}\n"
        f"admin: {{ listen: '{HOST}:9900' }}\ntrust: {{ dir: ./trust }}\npeers: []\n")
    cpu = min(os.sched_getaffinity(0))
    # The counts lie beside the configuration's folder, which is watched.
    return Callgrind([binary, "run", "--config", str(config)], home / "callgrind.out", home / "log",
                     "--instr-atstart=no", preexec_fn=lambda: os.sched_setaffinity(0, {cpu}))


def wait(counted):
    """Until the last name is answered."""
    message = question(f"svc-{NAMES - 1}", f"ns-{(NAMES - 1) % 100}")
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(0.5)
    client.connect((HOST, 5353))
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if counted.process.poll() is not None:
            raise Failed(f"the agent ended: {counted.said()}")
        try:
            client.send(struct.pack(">H", 1) + message)
            if struct.unpack_from(">HHHH", client.recv(1500))[3] == 1:
                return
        except OSError:
            time.sleep(0.2)
    raise Failed(f"the agent does not answer: {counted.said()}")


def measure(binary, keep):
    with tempfile.TemporaryDirectory(prefix="portolan-dns-") as home:
        counted = agent(pathlib.Path(home), binary)
        try:
            wait(counted)
            client = Client()
            counted.control("--instr=on")
            client.ask(WARM_UP)
            counted.counted()
            counts = []
            for _ in range(WINDOWS):
                asked = client.ask(QUERIES)
                counts.append(counted.counted() / asked)
            if keep:
                shutil.copy(counted.last, keep)
            return min(counts)
        finally:
            counted.end()


def main():
    parser = argparse.ArgumentParser(prog="conformance/dns/run instructions", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--keep", metavar="FILE",
                        help="the last window's counts, for callgrind_annotate")
    arguments = parser.parse_args()
    try:
        count = measure(arguments.binary, arguments.keep)
    except (Failed, OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"conformance/dns: {error}", file=sys.stderr)
        return 2
    held = count <= BOUND
    if arguments.output == "json":
        print(json.dumps({"instructions": count, "bound": BOUND, "held": held}))
    else:
        print(f"instructions per query: {count:.0f} (bound {BOUND}) {'ok' if held else 'MISSED'}")
    return 0 if held else 1


sys.exit(main())
