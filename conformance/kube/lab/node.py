"""One node: a process tree in mount, network, UTS, IPC and PID namespaces of its own."""

import contextlib
import pathlib
import shutil
import signal
import subprocess

import cgroups
import plan
import programs
from tools import Failed, tool, until

HERE = pathlib.Path(__file__).resolve().parent


class Node:
    """Node `m` of a cluster; made by Cluster. `name` is its name in Kubernetes, `port` that of its
    link on the bridge, `ips` its addresses and `pods` its ranges, both in the cluster's order."""

    def __init__(self, cluster, m, lab):
        self.cluster, self.m, self.lab = cluster, m, lab
        self.name = f"{cluster.name}-{m}"
        self.port = f"c{cluster.number}n{m}"
        self.cgroup = f"{lab.prefix}{self.port}"
        self.addresses = cluster.addresses
        self.ips, self.pods = cluster.addresses.node(m), cluster.addresses.node_pods(m)
        # What leads a connection to this node, for load balancers: a mark and a table of routes.
        self.mark = (cluster.number * 4 + m) << 8
        self.dir = lab.dir / "nodes" / self.port
        self.process = self.init = None

    def prepare(self, built, images, certs):
        """Writes everything that node.sh reads."""
        for part in ("log", "ctl", "var/lib", "var/log", "var/tmp", "sysctl"):
            (self.dir / part).mkdir(parents=True)
        (self.dir / "var/run").symlink_to("/run")
        shutil.copytree("/etc", self.dir / "etc", symlinks=True, ignore_dangling_symlinks=True,
                        ignore=shutil.ignore_patterns("cni", "containerd", "kubernetes"))
        for name, value in (("overcommit_memory", 1), ("panic", 10), ("panic_on_oops", 1)):
            (self.dir / "sysctl" / name).write_text(f"{value}\n")
        (self.dir / "etc/resolv.conf").unlink(missing_ok=True)
        (self.dir / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
        (self.dir / "node.env").write_text("".join(f"{name}='{value}'\n" for name, value in (
            ("NAME", self.name), ("TREE", built.tree), ("PROGRAMS", built.programs),
            ("IMAGES", " ".join(map(str, images))), ("CONTROL_PLANE", "1" if self.m == 1 else ""))))
        (self.dir / "node.nft").write_text(self._filter())
        programs.write(self, certs)

    def _filter(self):
        """What leaves with a pod's address becomes the node's, except to where pods are reachable.

        Packets that conntrack calls invalid are not translated: with identical ranges another
        cluster would answer them to its own pod of that address, so they are dropped.
        """
        lines = []
        for family, pods in zip(self.addresses.families, self.addresses.pods()):
            ip = "ip" if family == "IPv4" else "ip6"
            reachable = self.lab.unmasked(self.cluster, family)
            away = f"oifname eth0 {ip} saddr {pods} {ip} daddr != {{ {', '.join(reachable)} }}"
            lines.append((f"    {away} masquerade\n", f"    ct state invalid {away} drop\n"))
        return ("table inet lab {\n"
                "  chain leaving {\n    type nat hook postrouting priority srcnat;\n"
                + "".join(line[0] for line in lines)
                + "  }\n  chain through {\n    type filter hook forward priority filter;\n"
                + "".join(line[1] for line in lines) + "  }\n}\n")

    def routes(self, others):
        """Writes the addresses of this node and its routes to the pods of `others`, [(node, ranges)],
        and to any load balancer by way of each node."""
        lines = []
        for ip in self.ips:
            lines.append(f"address add {ip}/{64 if ':' in ip else 24} dev eth0"
                         + (" nodad" if ":" in ip else ""))
        lines.append("link set eth0 up")
        for node, ranges in others:
            lines += [f"route add {pods} via {by} dev eth0" for pods, by in zip(ranges, node.ips)
                      if len(node.ips) == len(self.ips) or ":" not in pods]
        four, six = balancer_routes(self.lab, "eth0", self.cluster)
        (self.dir / "net.ip").write_text("\n".join(lines + four) + "\n")
        (self.dir / "net6.ip").write_text("\n".join(six) + "\n" if len(self.ips) > 1 else "")

    def start(self):
        """Starts the namespaces; addresses come when the bridge's link is given to it."""
        cgroups.make(self.cgroup)
        enter = "".join(f"echo $$ > {path} && " for path in cgroups.process_files(self.cgroup))
        self.process = subprocess.Popen(
            ["sh", "-c", f"{enter} exec unshare --mount --net --uts --ipc --pid --fork --kill-child "
             f"--mount-proc bash {HERE}/node.sh {self.dir}"],
            stdin=subprocess.DEVNULL, stdout=open(self.dir / "log/unshare", "ab"),
            stderr=subprocess.STDOUT, start_new_session=True)

        def child():
            if self.process.poll() is not None:
                raise Failed((self.dir / "log/unshare").read_text())
            pid = self.process.pid
            found = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return found and int(found[0])

        self.init = until(f"the namespaces of {self.name}", 10, child)
        self.lab.wan.plug(self)

    def inside(self, *command):
        """The command line that runs inside all namespaces of the node."""
        return ["nsenter", "-t", str(self.init), "-m", "-n", "-u", "-i", "-p", "--", *map(str, command)]

    def run(self, *command, stdin=None, timeout=120):
        """Runs a command of the machine inside the node to its end; what it printed."""
        return tool(*self.inside(*command), stdin=stdin, timeout=timeout)

    def import_image(self, path):
        """Gives the node's runtime the images of a docker-archive."""
        self.run("ctr", "-n", "k8s.io", "images", "import", path)

    def nft(self, text):
        """Applies rules in the node's network namespace."""
        tool("nsenter", "-t", str(self.init), "-n", "nft", "-f", "-", stdin=text)

    def signal_program(self, name, number=signal.SIGKILL):
        """Sends a signal to a program of the node, such as kubelet; one that ends is started again."""
        pid = (self.dir / "ctl" / f"{name}.pid").read_text().strip()
        with contextlib.suppress(Failed):
            tool("nsenter", "-t", str(self.init), "-p", "-m", "--", "kill", f"-{int(number)}", pid)

    def hold(self, name):
        """Ends a program of the node by SIGKILL and keeps it down until `release`."""
        (self.dir / "ctl" / f"{name}.hold").touch()
        self.signal_program(name)

    def release(self, name):
        (self.dir / "ctl" / f"{name}.hold").unlink(missing_ok=True)

    def drop_all(self):
        """Drops every packet to and from the node; its carrier and routes stay as they are."""
        self.lab.wan.drop(self, True)

    def heal(self):
        self.lab.wan.drop(self, False)

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        cgroups.remove(self.cgroup)


def balancer_routes(lab, device, own=None):
    """Lines for `ip -batch` and for `ip -6 -batch`: marks lead connections to load balancers by way of
    the marked node. kube-proxy answers for those of the caller's `own` cluster."""
    both = []
    for index, prefix in enumerate((plan.BALANCERS4, plan.BALANCERS6)):
        # Only so that a packet made here finds a route at all before it is marked.
        lines = [f"route add {prefix} dev {device}"]
        for node in lab.nodes():
            if index < len(node.ips) and node.cluster is not own:
                table = 1000 + (node.mark >> 8)
                lines.append(f"rule add fwmark {node.mark:#x}/0x3f00 lookup {table}")
                lines.append(f"route add {prefix} via {node.ips[index]} dev {device} table {table}")
        both.append(lines)
    return both
