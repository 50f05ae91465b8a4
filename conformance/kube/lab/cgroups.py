"""Control groups of a run: each node has one of its own in every hierarchy.

They keep the kubelets of one machine apart, and they are how a run that died is cleaned up: every
process of a node is below the node's group, and the name of the group begins with the run's.
"""

import contextlib
import os
import pathlib
import signal
import time


def hierarchies():
    """Where control groups are mounted: several with version 1, one with version 2."""
    found = []
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, path, kind = line.split()[:3]
        if kind in ("cgroup", "cgroup2"):
            found.append(pathlib.Path(path))
    return found


def make(name):
    """A group of this name everywhere, and one below it for the node's own processes."""
    for root in hierarchies():
        for path in (root / name, root / name / "node"):
            path.mkdir(exist_ok=True)
        if (root / "cpuset.cpus").exists():
            for path in (root / name, root / name / "node"):
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    with contextlib.suppress(OSError):
                        (path / setting).write_text((path.parent / setting).read_text())


def process_files(name):
    """The files that a process writes its id into to be inside from then on."""
    return [str(root / name / "node" / "cgroup.procs") for root in hierarchies()]


def names():
    return {path.name for root in hierarchies() for path in root.iterdir() if path.is_dir()}


def below(path):
    """All groups at and below `path`, the deepest first."""
    return [pathlib.Path(at) for at, _, _ in os.walk(path, topdown=False)]


def pids(name):
    found = set()
    for root in hierarchies():
        for group in below(root / name):
            with contextlib.suppress(OSError, ValueError):
                found.update(int(pid) for pid in (group / "cgroup.procs").read_text().split())
    return found - {0, os.getpid()}


def remove(name):
    """Ends what is inside and removes the groups; both take a moment of the kernel's."""
    deadline = time.monotonic() + 10
    while True:
        for pid in pids(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        left = False
        for root in hierarchies():
            for group in below(root / name):
                try:
                    group.rmdir()
                except FileNotFoundError:
                    pass
                except OSError:
                    left = True
        if not left or time.monotonic() > deadline:
            return not left
        time.sleep(0.02)


def of_pod(name, uid):
    """The container groups of a pod of the node whose group is `name`: {container id: [pid]}."""
    for root in hierarchies():
        for pod in (root / name).glob(f"kubepods/**/pod{uid}"):
            return {
                group.name: [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
                for group in pod.iterdir() if group.is_dir()
            }
    return {}
