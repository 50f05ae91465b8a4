"""Two agents under callgrind, a fixed workload, and the instructions it took in both together.

Callgrind shows an older processor than the machine has (AVX2 at most), so encryption is dearer here
than it is outside; the counts are comparable with one another only.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from callgrind import PATIENCE, Callgrind, Failed  # noqa: E402

# Both gateways together; a quarter above what was counted on a busy machine when they were set.
CEILINGS = {"connection": 300_000, "megabyte": 11_000_000}
# Of each window; the best window counts.
CONNECTIONS = 200
# Seconds between them: a rate at which the pool needs no more connections than the warm-up made.
PACE = 0.01
MEGABYTES = 40
WINDOWS = 5
WARM_UP = 300
BLOCK = f"127.{60 + os.getpid() % 60}.{os.getpid() // 60 % 200}"
HOSTS = {"near": f"{BLOCK}.1", "far": f"{BLOCK}.2"}
VIPS = {"near": f"{BLOCK}.64/27", "far": f"{BLOCK}.96/27"}
SERVICES = {"echo": 7002, "sink": 7001}


def serve(port, talk):
    """A server of threads at the far side."""
    listener = socket.create_server((HOSTS["far"], port), backlog=512)

    def accept():
        while True:
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                threading.Thread(target=talk, args=(client,), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()


def echo(client):
    with client, contextlib.suppress(OSError):
        while octets := client.recv(4096):
            client.sendall(octets)


def sink(client):
    """Reads everything, then says how much it was."""
    count = 0
    with client, contextlib.suppress(OSError):
        while octets := client.recv(1 << 18):
            count += len(octets)
        client.sendall(str(count).encode())


def exports():
    text = ""
    for name, port in SERVICES.items():
        where = f"namespace: bench, name: {name}"
        text += f"""---
apiVersion: v1
kind: Service
metadata: {{ {where} }}
spec: {{ ports: [ {{ port: {port} }} ] }}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {{ {where} }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ {where}, labels: {{ kubernetes.io/service-name: {name} }} }}
addressType: IPv4
ports: [ {{ port: {port} }} ]
endpoints: [ {{ addresses: ["{HOSTS['far']}"] }} ]
"""
    return text


class Agent(Callgrind):
    """One agent under callgrind."""

    def __init__(self, folder, binary, name, other):
        self.name = name
        (folder / name).mkdir()
        if name == "far":
            (folder / name / "services.yaml").write_text(exports())
        host = HOSTS[name]
        config = folder / f"{name}.yaml"
        config.write_text(
            f"cluster: {name}\nsource: {{ files: ./{name} }}\nstate: {{ dir: ./{name}.state }}\n"
            f"vips: {VIPS[name]}\n"
            f"gateway: {{ listen: '{host}:8443' }}\ndns: {{ listen: '{host}:5353' }}\n"
            f"admin: {{ listen: '{host}:9900' }}\ntrust: {{ dir: ./trust/{name} }}\n"
            f"peers: [{{ cluster: {other}, addresses: '{HOSTS[other]}:8443' }}]\n")
        # The counts lie beside the configuration's folder, which is watched.
        super().__init__([binary, "run", "--config", str(config)],
                         folder.parent / f"{name}.callgrind", folder.parent / f"{name}.log")

    def explain(self, service):
        url = f"http://{HOSTS[self.name]}:9900/state"
        with urllib.request.urlopen(url, timeout=20) as answer:
            state = json.load(answer)
        return next((s for s in state["services"] if s["name"] == service), None)


def entry(agent, service):
    """Where clients call a service, once that leads to the other cluster."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if agent.process.poll() is not None:
            raise Failed(f"{agent.name} ended: {agent.said()}")
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            found = agent.explain(service)
            if found and found["candidates"][0]["usable"]:
                at = found["ips"][0], found["ports"][0]["port"]
                socket.create_connection(at, timeout=20).close()
                return at
        time.sleep(0.5)
    raise Failed(f"{service} is not served: {agent.said()}")


def connect(at, times):
    due = time.monotonic()
    for _ in range(times):
        due += PACE
        time.sleep(max(0.0, due - time.monotonic()))
        with socket.create_connection(at, timeout=60) as client:
            client.sendall(b"hi")
            if client.recv(2) != b"hi":
                raise Failed("an echo was lost")
            client.shutdown(socket.SHUT_WR)
            client.recv(1)


def upload(at, megabytes):
    with socket.create_connection(at, timeout=120) as client:
        chunk = bytes(1_000_000)
        for _ in range(megabytes):
            client.sendall(chunk)
        client.shutdown(socket.SHUT_WR)
        if int(client.recv(64)) != megabytes * len(chunk):
            raise Failed("octets were lost")


def measure(binary, home):
    folder = home / "mesh"
    folder.mkdir()
    for name in HOSTS:
        subprocess.run(
            [binary, "trust", "init", "--cluster", name, "--out", str(folder / "trust" / name)],
            check=True, capture_output=True)
    for name, other in (("near", "far"), ("far", "near")):
        shutil.copy(folder / f"trust/{other}/ca.pem", folder / f"trust/{name}/peers/{other}.pem")
    serve(SERVICES["echo"], echo)
    serve(SERVICES["sink"], sink)
    agents = []
    try:
        for name, other in (("near", "far"), ("far", "near")):
            agents.append(Agent(folder, binary, name, other))
        at = {service: entry(agents[0], service) for service in SERVICES}
        connect(at["echo"], WARM_UP)
        upload(at["sink"], 4)

        def best(work, units):
            """Per unit, in the window that probes and fresh dials disturbed least."""
            counts = []
            for _ in range(WINDOWS):
                for agent in agents:
                    agent.counted()
                work(units)
                counts.append(sum(agent.counted() for agent in agents) / units)
            return min(counts)
        return {
            "connection": best(lambda units: connect(at["echo"], units), CONNECTIONS),
            "megabyte": best(lambda units: upload(at["sink"], units), MEGABYTES),
        }
    finally:
        for agent in agents:
            agent.end()


def main():
    parser = argparse.ArgumentParser(prog="conformance/gateway/run")
    parser.add_argument("binary", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="portolan-gateway-") as home:
        try:
            counts = measure(arguments.binary, pathlib.Path(home))
        except (Failed, OSError, ValueError, subprocess.SubprocessError) as error:
            print(f"conformance/gateway: {error}", file=sys.stderr)
            return 2
    held = all(counts[unit] <= ceiling for unit, ceiling in CEILINGS.items())
    if arguments.output == "json":
        print(json.dumps({"instructions": counts, "ceilings": CEILINGS, "held": held}, indent=1))
    else:
        for unit, ceiling in CEILINGS.items():
            verdict = "ok" if counts[unit] <= ceiling else "MISSED"
            print(f"user instructions per {unit:<11}{counts[unit]:>12,.0f}  "
                  f"(at most {ceiling:,}) {verdict}")
    return 0 if held else 1


sys.exit(main())
