"""Network namespaces: made, entered for a socket at a time, faulted by nft, removed."""

import contextlib
import ctypes
import json
import os
import socket
import subprocess

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A tool or a process did not do what the lab needs."""


def tool(*command, stdin=None):
    """Runs a tool to its end; its output, or Failed with what it said."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _enter(fd):
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Namespace:
    """One network namespace with a loopback interface that is up."""

    def __init__(self, name):
        self.name = name
        self.path = f"/run/netns/{name}"
        tool("ip", "netns", "add", name)
        self.ip("link", "set", "lo", "up")
        for setting in ("net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"):
            self.run("sysctl", "-q", "-w", setting)

    def ip(self, *arguments):
        """`ip` inside."""
        tool("ip", "-n", self.name, *arguments)

    def command(self, *command):
        """A command line that runs inside and ends with the thread that starts it."""
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={self.path}", *command]

    def run(self, *command, stdin=None):
        """Runs a tool inside to its end."""
        return tool("nsenter", f"--net={self.path}", *command, stdin=stdin)

    @contextlib.contextmanager
    def entered(self):
        """This thread is inside; a socket made here stays there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(self.path, os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(home)
            os.close(there)

    def socket(self, kind, timeout):
        """An IPv4 socket that lives inside."""
        with self.entered():
            made = socket.socket(socket.AF_INET, kind)
        made.settimeout(timeout)
        return made

    def fault(self, incoming=(), outgoing=()):
        """Applies these rules to packets on wan0 instead of the present ones; each counts.

        A rule is an nft match and a verdict, such as ("ip saddr 10.77.1.0/24", "drop").
        """
        def lines(direction, rules):
            return "".join(
                f"    {direction} \"wan0\" {match} counter name hits {verdict}\n"
                for match, verdict in rules
            )

        self.run("nft", "-f", "-", stdin=(
            "table inet fault\n"
            "delete table inet fault\n"
            "table inet fault {\n"
            "  counter hits { }\n"
            "  chain incoming {\n"
            "    type filter hook input priority 0; policy accept;\n"
            f"{lines('iifname', incoming)}"
            "  }\n"
            "  chain outgoing {\n"
            "    type filter hook output priority 0; policy accept;\n"
            f"{lines('oifname', outgoing)}"
            "  }\n"
            "}\n"
        ))

    def hits(self):
        """Packets that the present rules have caught."""
        listed = json.loads(self.run("nft", "-j", "list", "counters", "table", "inet", "fault"))
        counters = [entry["counter"] for entry in listed["nftables"] if "counter" in entry]
        return sum(counter["packets"] for counter in counters)

    def remove(self):
        """Removes it; what still runs inside was started by the lab and is ended."""
        with contextlib.suppress(Failed):
            for pid in tool("ip", "netns", "pids", self.name).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
        with contextlib.suppress(Failed):
            tool("ip", "netns", "del", self.name)
