"""One `portolan run` over a directory of manifests, on a loopback address of its own."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

# Each run has loopback addresses of its own, so that two can stand side by side.
BLOCK = f"127.{120 + os.getpid() % 60}.{os.getpid() // 60 % 250}"
DNS_PORT, ADMIN_PORT = 5353, 9900
PATIENCE = 60


class Failed(Exception):
    """It could not be run at all."""


@contextlib.contextmanager
def home(keep, prefix):
    """A folder that is gone afterwards; or the one to keep, which must be empty. Whoever asks this program to
    end has its children ended too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    if keep is None:
        with tempfile.TemporaryDirectory(prefix=prefix) as folder:
            yield pathlib.Path(folder)
        return
    folder = pathlib.Path(keep).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise Failed(f"{folder} is not empty")
    yield folder


def tool(*command, timeout=120):
    """Runs a tool to its end; its output."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(str(error)) from error
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def until(what, look, within=PATIENCE, every=0.05):
    """Waits until `look` is true."""
    deadline = time.monotonic() + within
    while not (found := look()):
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {within} s")
        time.sleep(every)
    return found


def service(namespace, name, *, ports=(("http", "TCP", 80),), headless=False, families=(), annotations=None):
    """A Service and its ServiceExport."""
    spec = {"ports": [{"name": port, "protocol": protocol, "port": number} for port, protocol, number in ports]}
    if headless:
        spec["clusterIP"] = "None"
    if families:
        spec["ipFamilies"] = list(families)
    meta = {"namespace": namespace, "name": name}
    export = {**meta, "annotations": {f"portolan.dev/{key}": value for key, value in (annotations or {}).items()}}
    return [{"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec},
            {"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport", "metadata": export}]


def slice_of(namespace, name, part, endpoints, ports=(("http", "TCP", 80),)):
    """An EndpointSlice: `endpoints` are pairs of an address and a hostname or None."""
    family = "IPv6" if ":" in endpoints[0][0] else "IPv4"
    def one(address, host):
        return {"addresses": [address], "conditions": {"ready": True}, **({"hostname": host} if host else {})}
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": namespace, "name": f"{name[:40]}-{part}",
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": family,
            "ports": [{"name": port, "protocol": protocol, "port": number} for port, protocol, number in ports],
            "endpoints": [one(*endpoint) for endpoint in endpoints]}


class Agent:
    """One agent; `number` is the last octet of its address."""

    def __init__(self, binary, home, cluster, registry, number=1, ttl="5s"):
        self.binary, self.host, self.cluster = binary, f"{BLOCK}.{number}", cluster
        folder = pathlib.Path(home) / f"agent-{number}"
        folder.mkdir()
        tool(binary, "trust", "init", "--cluster", cluster, "--out", str(folder / "trust"))
        self.config = folder / "agent.yaml"
        # JSON is YAML.
        self.config.write_text(json.dumps({
            "cluster": cluster, "source": {"files": str(registry)}, "state": {"dir": str(folder / "state")},
            "vips": ["10.64.0.0/16", "fd64::/112"],
            "gateway": {"listen": f"{self.host}:8443", "outbound": False, "shutdown_delay": "1s", "drain": "1s"},
            "dns": {"listen": f"{self.host}:{DNS_PORT}", "ttl": ttl},
            "admin": {"listen": f"{self.host}:{ADMIN_PORT}"}, "trust": {"dir": str(folder / "trust")}, "peers": []}))
        self.log = folder.with_suffix(".log")
        self.process = None

    @property
    def dns(self):
        return self.host, DNS_PORT

    @property
    def admin(self):
        return f"{self.host}:{ADMIN_PORT}"

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([self.binary, "run", "--config", str(self.config)],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(f"{self.cluster} is ready", self._ready)
        return self

    def _ready(self):
        if self.process.poll() is not None:
            raise Failed(f"the agent ended: {self.log.read_text(errors='replace')[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://{self.admin}/readyz", timeout=2):
                return True
        except (OSError, urllib.error.URLError):
            return False

    def dump(self, output="zone"):
        return tool(self.binary, "zone", "dump", "--admin", self.admin, "-o", output)

    def panics(self):
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("portolan_panics_total"))

    def signal(self, number):
        self.process.send_signal(number)

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
