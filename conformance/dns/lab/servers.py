"""Knot and NSD as children of this run, on loopback, each serving one zone from a master file."""

import pathlib
import shutil
import socket
import subprocess

from agent import BLOCK, Failed, tool, until
from wire import Malformed, Message, labels, name, query

POLICY = pathlib.Path("/usr/sbin/policy-rc.d")
PACKAGES = {"knotd": "knot", "nsd": "nsd"}
PORT = 5300
# What our OPT says; the others are told to say and to keep the same.
PAYLOAD = 1232


def install():
    """Installs what is missing, without letting Debian start a service of it."""
    missing = [package for program, package in PACKAGES.items() if not _found(program)]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Failed(f"needs {' and '.join(missing)}; install them")
    forbid = not POLICY.exists()
    if forbid:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        command = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq",
                   "--no-install-recommends", *missing]
        try:
            tool(*command, timeout=600)
        except Failed:
            tool("apt-get", "update", "-qq", timeout=600)
            tool(*command, timeout=600)
    finally:
        if forbid:
            POLICY.unlink()


def _found(program):
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


class Server:
    """One of the others. `last` is the last octet of its address."""

    def __init__(self, home, zone, file, last):
        self.host, self.zone, self.file = f"{BLOCK}.{last}", zone, file
        self.folder = pathlib.Path(home) / self.title
        self.folder.mkdir()
        self.config, self.log = self.folder / "config", self.folder / "log"
        self.config.write_text(self.configuration())
        self.process = None

    @property
    def dns(self):
        return self.host, PORT

    def start(self):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(f"{self.title} serves the zone", self._serves)
        return self

    def _serves(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.title} ended: {self.log.read_text(errors='replace')[-2000:]}")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.settimeout(0.2)
            try:
                asker.connect(self.dns)
                asker.send(query(1, name(labels(self.zone)) + b"\0\6\0\1"))
                return bool(Message(asker.recv(4096)).answer)
            except (OSError, Malformed):
                return False

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Knot(Server):
    title = "knot"

    def command(self):
        return [_found("knotd"), "-c", str(self.config)]

    def configuration(self):
        return f"""server:
    rundir: "{self.folder}"
    listen: [ {self.host}@{PORT} ]
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    udp-max-payload: {PAYLOAD}
    tcp-io-timeout: 5000
log:
  - target: stderr
    any: warning
database:
    storage: "{self.folder}"
zone:
  - domain: {self.zone}
    storage: "{self.folder}"
    file: "{self.file}"
    zonefile-sync: -1
    journal-content: none
"""


class Nsd(Server):
    title = "nsd"

    def command(self):
        return [_found("nsd"), "-d", "-c", str(self.config)]

    def configuration(self):
        return f"""server:
    server-count: 1
    ip-address: {self.host}@{PORT}
    username: ""
    chroot: ""
    zonesdir: "{self.folder}"
    database: ""
    pidfile: "{self.folder}/nsd.pid"
    xfrdfile: "{self.folder}/xfrd.state"
    zonelistfile: "{self.folder}/zone.list"
    ipv4-edns-size: {PAYLOAD}
    rrl-ratelimit: 0
    round-robin: no
    minimal-responses: no
    tcp-count: 100
    tcp-timeout: 30
    hide-version: yes
remote-control:
    control-enable: no
zone:
    name: {self.zone}
    zonefile: "{self.file}"
"""
