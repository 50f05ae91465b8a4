"""Brings up the clusters of each mode that the chosen checks want, and runs those on them."""

import argparse
import importlib
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
import traceback

import build
import checks
import tools
from lab import Lab, product_image
from plan import ClusterSpec
from report import Report, Result
from tools import Failed, say

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent


def arguments():
    parser = argparse.ArgumentParser(prog="conformance/kube/run", description=__doc__)
    parser.add_argument("--mode", action="append", choices=tuple(checks.SETTINGS), help="only these")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only these checks")
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    parser.add_argument("--long", action="store_true", help="the checks of minutes too")
    parser.add_argument("--slack", type=float, default=1, metavar="N",
                        help="a time is red only over N times its bound; what is over it says LATE")
    parser.add_argument("--keep", metavar="DIR", help="leave configuration and logs there")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--html", metavar="FILE", help="write the report there too")
    parser.add_argument("--image", metavar="FILE", help="the product's image, a docker-archive")
    parser.add_argument("--build-only", action="store_true", help="build what is not there yet, and end")
    parser.add_argument("--up", action="store_true", help="bring clusters up and stay until Ctrl-C")
    parser.add_argument("--clusters", metavar="NAME[:NODES[:4]],...", help="which, instead of the mode's own")
    parser.add_argument("--ready", help=argparse.SUPPRESS)
    parser.add_argument("--prefix", default=f"pkube{os.getpid()}-", help=argparse.SUPPRESS)
    return parser.parse_args()


def load_suite():
    """Every file of the suite registers its checks by being imported, and may import the others."""
    sys.path.insert(0, str(HERE.parent / "suite"))
    for path in sorted((HERE.parent / "suite").glob("*.py")):
        importlib.import_module(path.stem)


class Runner:
    """The labs of a run, one after the other."""

    def __init__(self, options):
        self.options, self.spoilt = options, False
        self.directory = pathlib.Path(os.path.abspath(options.keep) if options.keep
                                      else tempfile.mkdtemp(prefix=options.prefix))
        # Below these a node has files of its own.
        for hidden in ("/var/", "/run/", "/etc/", "/usr/"):
            if f"{self.directory}/".startswith(hidden):
                raise Failed(f"{self.directory} is below {hidden}; choose another with --keep or TMPDIR")
        self.built = build.build()
        binary = os.environ.get("PORTOLAN_BIN") or (
            f"{os.environ.get('CARGO_TARGET_DIR', ROOT / 'target')}/release/portolan")
        self.image = product_image(options.image, binary, self.directory)

    def lab(self, setting):
        mode, clusters = checks.SETTINGS[setting]
        specs = [ClusterSpec.parse(text) for text in (self.options.clusters or clusters).split(",")]
        return Lab(mode, specs, self.built, self.options.prefix, self.directory / setting, self.image)

    def run(self, setting, chosen, report):
        """All chosen checks of one setting."""
        lab, shared, prepared = self.lab(setting), {}, {}
        try:
            say(f"{setting}: bringing up {', '.join(c.name for c in lab.clusters)}")
            lab.up()
            for one in chosen:
                self._run(one, lab, setting, shared, prepared, report)
        except Exception:
            self.spoilt = True
            raise
        finally:
            self.spoilt |= report.count("failed") > 0
            lab.down(keep_logs=bool(self.options.keep) or self.spoilt)

    def _run(self, one, lab, setting, shared, prepared, report):
        result = Result(one, setting)
        begun = time.monotonic()
        if one.not_yet:
            result.state = "not yet"
            result.notes.append(one.not_yet)
            report.add(result)
            return
        context = checks.Context(lab, setting, result, shared, self.options)
        try:
            for need in one.needs:
                if need not in prepared:
                    prepared[need] = self._prepare(need, context)
                if prepared[need]:
                    raise Failed(f"{need}: {prepared[need]}")
            one.run(context)
        except Failed as failed:
            result.fail(str(failed))
        except Exception:  # A fault in a check must not hide the others' results.
            result.fail(traceback.format_exc())
        result.seconds = time.monotonic() - begun
        report.add(result)

    @staticmethod
    def _prepare(need, context):
        """Why a preparation failed, or nothing."""
        if need not in checks.PREPARATIONS:
            return "there is no such preparation"
        try:
            checks.PREPARATIONS[need](context)
        except Failed as failed:
            return str(failed)
        except Exception:  # As in a check.
            return traceback.format_exc()
        return None

    def close(self):
        """Says where the logs are; without --keep they stay only if something failed."""
        if self.spoilt and not self.options.keep:
            # By another name, or the next run would take it for something left over.
            kept = self.directory.with_name(f"portolan-kube-failed-{os.getpid()}")
            self.directory = self.directory.rename(kept)
        if self.spoilt or self.options.keep:
            say(f"configuration and logs: {self.directory}")

    def stay(self, setting):
        """Clusters for people: up until a signal comes."""
        lab = self.lab(setting)
        try:
            lab.up()
            text = howto(lab)
            print(text, flush=True)
            if self.options.ready:
                pathlib.Path(self.options.ready).write_text(text + "\n")
            over = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: over.set())
            over.wait()
        finally:
            lab.down(keep_logs=bool(self.options.keep))


def howto(lab):
    """How to use clusters that are up."""
    enter = lab.dir / "enter"
    programs = f"{lab.built.programs}:{lab.built.tools}"
    enter.write_text("#!/bin/sh\n# enter CLUSTER COMMAND...: runs it where the cluster's API is reached.\n"
                     f'cluster=$1; shift; export PATH="{programs}:$PATH" KUBECONFIG="{lab.dir}/$cluster.kubeconfig"\n'
                     f'exec nsenter --net=/run/netns/{lab.wan.name} -- "$@"\n')
    enter.chmod(0o755)
    lines = [f"mode {lab.mode}; logs and files in {lab.dir}", ""]
    for cluster in lab.clusters:
        a = cluster.addresses
        lines += [f"{cluster.name}: {enter} {cluster.name} kubectl get pods -A",
                  f"  kubeconfig {cluster.kubeconfig} (API https://{cluster.host}:6443)",
                  f"  pods {', '.join(a.pods())}; services {', '.join(a.services())}; DNS {a.service(10)[0]}; "
                  f"load balancers {a.balancer(1)[0]}..."]
        lines += [f"  node {node.name} {', '.join(node.ips)}: nsenter -t {node.init} -a bash"
                  for node in cluster.nodes]
    lines += ["", "a new image of the product: nsenter -t PID -a ctr -n k8s.io images import FILE, on each node"]
    return "\n".join(lines)


def chosen(options, setting):
    """Those that need no preparation come first: the others rely on what they prove, and prepare what they
    would stumble over."""
    found = [one for one in checks.CHECKS if setting in one.modes
             and (one.name in options.only if options.only else options.long or not one.long)]
    return sorted(found, key=lambda one: bool(one.needs))


def listing():
    for one in checks.CHECKS:
        marks = " long" * one.long + f" (not yet: {one.not_yet})" * bool(one.not_yet)
        print(f"{one.level:6} {one.name:34} {','.join(one.modes):22} {one.about}{marks}")


def main():
    options = arguments()
    load_suite()
    if options.list:
        listing()
        return 0
    if strange := set(options.only) - {one.name for one in checks.CHECKS}:
        raise Failed(f"no check {', '.join(sorted(strange))}; --list says what there is")

    def end(*_):
        tools.over.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if options.build_only:
        build.build()
        return 0
    runner = Runner(options)
    if options.up:
        runner.stay((options.mode or ["identical"])[0])
        return 0
    report = Report(options.output == "json")
    try:
        for setting in options.mode or checks.SETTINGS:
            if wanted := chosen(options, setting):
                runner.run(setting, wanted, report)
    finally:
        runner.close()
    return 1 if report.close(options.html) else 0


try:
    sys.exit(main())
except Failed as failed:
    print(f"conformance/kube: {failed}", file=sys.stderr)
    sys.exit(2)
except KeyboardInterrupt:
    sys.exit(130)
