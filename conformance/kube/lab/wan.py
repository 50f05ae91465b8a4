"""The bridge between all nodes, in a network namespace of its own, and the faults on it.

The runner lives in that namespace too. Faults are rules on the bridge, so that a node notices nothing
but the silence: its carrier, addresses and routes stay.
"""

import ctypes
import os
import threading

import plan
from node import balancer_routes
from tools import Failed, tool

CLONE_NEWNET = 0x40000000


class Wan:
    """Made once, before any thread is started: it moves the whole process into the namespace."""

    def __init__(self, lab):
        self.lab, self.name = lab, f"{lab.prefix}wan"
        self.lock = threading.Lock()
        self.home = None
        self.silent, self.cut = set(), set()

    def up(self):
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)
        tool("ip", "netns", "add", self.name)
        self.enter()
        tool("ip", "link", "set", "lo", "up")
        # Else every packet on the bridge would run through this namespace's own rules.
        for table in ("iptables", "ip6tables", "arptables"):
            path = f"/proc/sys/net/bridge/bridge-nf-call-{table}"
            if os.path.exists(path):
                tool("sysctl", "-q", "-w", f"net.bridge.bridge-nf-call-{table}=0")
        lines = ["link add br0 type bridge stp_state 0 forward_delay 0",
                 f"address add {plan.RUNNER4}/24 dev br0", f"address add {plan.RUNNER6}/64 dev br0 nodad",
                 "link set br0 up"]
        four, six = balancer_routes(self.lab, "br0")
        tool("ip", "-batch", "-", stdin="\n".join(lines + four))
        tool("ip", "-6", "-batch", "-", stdin="\n".join(six))

    def enter(self):
        self._set(os.open(f"/run/netns/{self.name}", os.O_RDONLY))

    @staticmethod
    def _set(descriptor):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise Failed(f"cannot enter a network namespace: {os.strerror(ctypes.get_errno())}")

    def plug(self, node):
        """Gives a node its link to the bridge."""
        tool("ip", "link", "add", node.port, "type", "veth", "peer", "name", "eth0",
             "netns", str(node.process.pid))
        tool("ip", "link", "set", node.port, "master", "br0", "up")

    def nft(self, text):
        """Applies rules in the runner's network namespace."""
        tool("nft", "-f", "-", stdin=text)

    def drop(self, node, silent):
        """All packets of one node."""
        with self.lock:
            (self.silent.add if silent else self.silent.discard)(node.port)
            self._apply()

    def part(self, one, other, cut):
        """All packets between two clusters, or of one cluster to and from all others (`other` None).
        The runner still reaches both."""
        with self.lock:
            (self.cut.add if cut else self.cut.discard)((one, other))
            self._apply()

    def _apply(self):
        through = []
        for one, other in sorted(self.cut, key=str):
            here, there = f'"c{one}n*"', f'= "c{other}n*"' if other else f'!= "c{one}n*"'
            there = there.removeprefix("= ")
            through.append(f"    iifname {here} oifname {there} drop\n")
            through.append(f"    oifname {here} iifname {there} drop\n")
        ports = ", ".join(f'"{port}"' for port in sorted(self.silent))
        self.nft("table bridge fault\ndelete table bridge fault\ntable bridge fault {\n"
                 "  chain through {\n    type filter hook forward priority 0;\n"
                 + "".join(through) + "  }\n"
                 "  chain from {\n    type filter hook prerouting priority 0;\n"
                 + (f"    iifname {{ {ports} }} drop\n" if ports else "") + "  }\n"
                 "  chain to {\n    type filter hook postrouting priority 0;\n"
                 + (f"    oifname {{ {ports} }} drop\n" if ports else "") + "  }\n}\n")

    def down(self):
        if self.home is None:
            return
        self._set(self.home)
        tool("ip", "netns", "del", self.name)
