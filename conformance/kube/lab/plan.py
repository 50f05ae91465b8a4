"""Which addresses everything has.

Node M of cluster N is 172.30.0.MN and fd30::MN on the bridge between the clusters. Its pods are
10.10N.(M-1).0/24 and fd00:10N:0:(M-1)::/64, its cluster's services 10.20N.0.0/16 and fd00:20N::/112;
in mode `identical` every cluster has 10.100, fd00:100, 10.200 and fd00:200, so that one and the same
address is a different pod in each cluster. Load balancers of cluster N are 172.31.N.K and fd31::N:K.
"""

import dataclasses

MODES = ("identical", "disjoint", "flat")
BALANCERS4, BALANCERS6 = "172.31.0.0/16", "fd31::/64"
RUNNER4, RUNNER6 = "172.30.0.254", "fd30::fe"


@dataclasses.dataclass(frozen=True)
class ClusterSpec:
    """What is wanted of a cluster: `nodes` is 1 or 2, `families` in the order of preference."""

    name: str
    nodes: int = 1
    families: tuple = ("IPv4", "IPv6")

    @classmethod
    def parse(cls, text):
        """`name[:nodes[:4|46]]`"""
        name, nodes, families = (text.split(":") + ["", ""])[:3]
        return cls(name, int(nodes or 1), ("IPv4",) if families == "4" else ("IPv4", "IPv6"))


class Addresses:
    """The addresses of one cluster; `number` counts from 1."""

    def __init__(self, mode, number, families):
        self.number, self.families = number, families
        own = 0 if mode == "identical" else number
        self.pods4, self.pods6 = f"10.10{own}.0.0/16", f"fd00:10{own}::/56"
        self.services4, self.services6 = f"10.20{own}.0.0/16", f"fd00:20{own}::/112"
        self._pods4, self._pods6 = f"10.10{own}", f"fd00:10{own}"
        self._services4, self._services6 = f"10.20{own}.0", f"fd00:20{own}:"

    def chosen(self, four, six):
        """Of an IPv4 and an IPv6 thing those that the cluster has."""
        pairs = (("IPv4", four), ("IPv6", six))
        return [value for family, value in pairs if family in self.families]

    def pods(self):
        return self.chosen(self.pods4, self.pods6)

    def services(self):
        return self.chosen(self.services4, self.services6)

    def service(self, last):
        """The service addresses that end in this number (below 256)."""
        return self.chosen(f"{self._services4}.{last}", f"{self._services6}:{last:x}")

    def node(self, m):
        return self.chosen(f"172.30.0.{m}{self.number}", f"fd30::{m}{self.number}")

    def node_pods(self, m):
        return self.chosen(f"{self._pods4}.{m - 1}.0/24", f"{self._pods6}:0:{m - 1}::/64")

    def balancer(self, k):
        return self.chosen(f"172.31.{self.number}.{k}", f"fd31::{self.number}:{k}")
