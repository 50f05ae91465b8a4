"""Builds what the clusters are made of, once: each part is kept under a hash of what it is made from.

Kubernetes and etcd are one program (build/kubernetes); CoreDNS and Helm come from a go.mod alone
(build/tools); the test program is ours (build/probe). Debian's packages are unpacked into a tree that
the nodes mount over /usr, so nothing is installed on the machine and no service starts.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import time

import images
from tools import Failed, say, tool

SOURCES = pathlib.Path(__file__).resolve().parent.parent / "build"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy",
            "kubelet", "kubectl")
PACKAGES = ("containerd", "runc", "containernetworking-plugins", "nftables", "conntrack")
KEPT_SECONDS = 14 * 86400


def cache():
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = pathlib.Path(os.environ.get("PORTOLAN_KUBE_CACHE") or f"{home}/portolan-kube").resolve()
    for hidden in ("/usr/", "/var/", "/run/", "/etc/", "/proc/", "/sys/"):
        if f"{path}/".startswith(hidden):
            raise Failed(f"the cache {path} is below {hidden}, where nodes have files of their own; "
                         "set PORTOLAN_KUBE_CACHE")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _digest(*parts):
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, pathlib.Path):
            for path in sorted(p for p in [part, *part.rglob("*")] if p.is_file()):
                total.update(path.name.encode() + b"\0" + path.read_bytes())
        else:
            total.update(repr(part).encode())
    return total.hexdigest()[:16]


def _made(name, key, make):
    """The directory of a built part; `make(directory)` fills it if it is not there yet."""
    target = cache() / f"{name}-{key}"
    if not target.exists():
        say(f"building {name}")
        begun = time.monotonic()
        partial = cache() / f"{name}-{key}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        make(partial)
        partial.rename(target)
        say(f"built {name} in {time.monotonic() - begun:.0f} s")
    os.utime(target)
    return target


def _run_long(what, *command, **more):
    """A command of minutes: says every half minute that it still runs, and why it failed."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    begun = time.monotonic()
    while True:
        try:
            said, _ = child.communicate(timeout=30)
            break
        except subprocess.TimeoutExpired:
            say(f"  {what}: {time.monotonic() - begun:.0f} s so far")
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        raise Failed(f"{what}: {said[-3000:]}")


def _go(source, out, *arguments, flags=""):
    _run_long(f"go build {source.name}", "nice", "-n", "5", "go", "build", "-trimpath", "-buildvcs=false",
              "-ldflags", f"-s -w {flags}", "-o", str(out), *arguments, cwd=source,
              env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": ""})


def _kubernetes(directory):
    version = next(line.split()[1] for line in (SOURCES / "kubernetes/go.mod").read_text().splitlines()
                   if line.strip().startswith("k8s.io/kubernetes v"))
    major, minor, _ = version.lstrip("v").split(".")
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    _go(SOURCES / "kubernetes", directory / "kubernetes", ".", flags=" ".join(
        f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamp.items()))
    for program in PROGRAMS:
        (directory / program).symlink_to("kubernetes")


def _packages(directory):
    archives = directory / "archives"
    (archives / "partial").mkdir(parents=True)
    fetch = ["apt-get", "install", "-y", "--download-only", "--no-install-recommends",
             "-o", f"Dir::Cache::archives={archives}", *PACKAGES]
    try:
        tool(*fetch, timeout=600)
    except Failed:
        tool("apt-get", "update", timeout=600)
        tool(*fetch, timeout=600)
    tree = directory / "tree"
    (tree / "usr").mkdir(parents=True)
    for archive in sorted(archives.glob("*.deb")):
        tool("dpkg-deb", "-x", archive, tree)
    # Debian's packages of before the merge of / and /usr: nodes mount only usr.
    for top in ("bin", "sbin", "lib"):
        if (tree / top).is_dir():
            tool("cp", "-a", f"{tree}/{top}/.", tree / "usr" / top)
    shutil.rmtree(archives)


class Built:
    """Where everything that was built is."""

    def __init__(self, programs, tools, packages, made_images):
        self.programs, self.tools, self.tree, self.images = programs, tools, packages / "tree", made_images

    def program(self, name):
        return str((self.programs if name in PROGRAMS else self.tools) / name)


@contextlib.contextmanager
def _alone():
    """One build at a time on a machine: a second run waits for the first, and finds all done."""
    with open(cache() / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another run's build")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tools(go):
    return _made("tools", _digest(SOURCES / "tools", go), lambda d: _go(SOURCES / "tools", f"{d}/", "tool"))


def coredns():
    """The program, for those who need no cluster."""
    with _alone():
        return str(_tools(tool("go", "version")) / "coredns")


def build():
    """Everything, built or found."""
    go = tool("go", "version")
    with _alone():
        for path in cache().iterdir():
            if path.is_dir() and path.stat().st_mtime < time.time() - KEPT_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        packages = _made("packages", _digest(PACKAGES, tool("dpkg", "--print-architecture")), _packages)
        probe = _made("probe", _digest(SOURCES / "probe", go),
                      lambda d: _go(SOURCES / "probe", d / "probe", "."))
        programs = _made("kubernetes", _digest(SOURCES / "kubernetes", go, PROGRAMS), _kubernetes)
        tools = _tools(go)

        def pack(directory):
            images.pack(directory / "probe.tar", ["portolan.test/probe:1"],
                        {"/probe": probe / "probe"}, entrypoint=["/probe"])
            images.pack(directory / "pause.tar", ["portolan.test/pause:1"],
                        {"/probe": probe / "probe"}, entrypoint=["/probe", "pause"])
            images.pack(directory / "coredns.tar", ["portolan.test/coredns:1"],
                        {"/coredns": tools / "coredns"}, entrypoint=["/coredns"])

        key = _digest(probe.name, tools.name, pathlib.Path(images.__file__), pathlib.Path(__file__))
        return Built(programs, tools, packages, _made("images", key, pack))
