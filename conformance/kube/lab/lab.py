"""All clusters of a run, side by side."""

import concurrent.futures
import itertools
import pathlib
import shutil
import time

import images
from balancer import Balancers
from cluster import Cluster
from plan import MODES
from tools import Failed, say
from wan import Wan


class Lab:
    """`mode` is identical, disjoint or flat; `specs` are ClusterSpec; `image` is the product's
    docker-archive, if any. `prefix` begins every name that the machine gets to see."""

    def __init__(self, mode, specs, built, prefix, directory, image=None):
        if mode not in MODES:
            raise Failed(f"no mode {mode}; there are {', '.join(MODES)}")
        self.mode, self.built, self.prefix, self.image = mode, built, prefix, image
        self.dir = pathlib.Path(directory)
        # What kinds there are, by group; the same in all clusters.
        self.kinds, self.executions = {}, itertools.count(1)
        self.wan = Wan(self)
        self.clusters = []
        for number, spec in enumerate(specs, 1):
            self.clusters.append(Cluster(self, spec, number))
        self.balancers = Balancers(self)

    def cluster(self, name):
        return next(cluster for cluster in self.clusters if cluster.name == name)

    def nodes(self):
        return [node for cluster in self.clusters for node in cluster.nodes]

    def unmasked(self, cluster, family):
        """The pod ranges that a cluster's pods reach with their own address."""
        reachable = self.clusters if self.mode == "flat" else [cluster]
        return [pods for other in reachable
                for kind, pods in zip(other.families, other.addresses.pods()) if kind == family]

    def up(self):
        """Brings everything up, to CoreDNS answering in each cluster."""
        begun = time.monotonic()
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        self.wan.up()
        for_nodes = [self.built.images / f"{name}.tar" for name in ("pause", "probe", "coredns")]
        if self.image:
            for_nodes.append(self.image)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda cluster: cluster.prepare(self.built, for_nodes), self.clusters))
        for node in self.nodes():
            node.routes([(other, other.pods) for other in self.nodes() if other is not node
                         and (self.mode == "flat" or other.cluster is node.cluster)])
            node.start()
        with concurrent.futures.ThreadPoolExecutor(len(self.clusters)) as pool:
            list(pool.map(Cluster.join, self.clusters))
            self.balancers.start()
            list(pool.map(Cluster.until_ready, self.clusters))
        say(f"{self.mode}: {', '.join(c.name for c in self.clusters)} up in {time.monotonic() - begun:.0f} s")

    def part(self, one, other):
        """Drops every packet between two clusters."""
        self.wan.part(one.number, other.number, True)

    def unpart(self, one, other):
        self.wan.part(one.number, other.number, False)

    def down(self, keep_logs=False):
        """Ends and removes everything; with `keep_logs` configuration and logs stay, those of pods too."""
        begun = time.monotonic()
        self.balancers.stop()
        for node in self.nodes():
            if node.process:
                node.process.kill()
        for node in self.nodes():
            node.stop()
            if keep_logs and (node.dir / "var/log/pods").is_dir():
                shutil.copytree(node.dir / "var/log/pods", node.dir / "log/pods", dirs_exist_ok=True, symlinks=True)
            shutil.rmtree(node.dir / "var", ignore_errors=True)
            shutil.rmtree(node.dir / "etc", ignore_errors=True)
        self.wan.down()
        if not keep_logs:
            shutil.rmtree(self.dir, ignore_errors=True)
        say(f"{self.mode}: down in {time.monotonic() - begun:.1f} s")


def product_image(option, binary, directory):
    """The product's image: the archive given, else packed from the binary, else none."""
    if option:
        path = pathlib.Path(option).resolve()
        if not path.is_file():
            raise Failed(f"no image at {path}")
        return path
    if not binary or not pathlib.Path(binary).is_file():
        return None
    path = pathlib.Path(directory) / "portolan.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    images.pack_product(path, binary)
    return path
