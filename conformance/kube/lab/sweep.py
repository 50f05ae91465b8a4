"""Removes what runs left behind: this run's, and those of runs whose process is gone.

Everything of a run is named pkubePID-...: control groups (and by them processes, and by those their
mounts), network namespaces, directories. Called with the run's PID at its end.
"""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import cgroups

NAME = re.compile(r"^pkube([0-9]+)-")


def gone(name, mine):
    """Whether this is of a run that is over: ours, or one whose process is no more."""
    match = NAME.match(name)
    return bool(match) and (match[1] == mine or not pathlib.Path(f"/proc/{match[1]}").exists())


def sweep(mine):
    for name in cgroups.names():
        if gone(name, mine):
            cgroups.remove(name)
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    for line in listed.stdout.splitlines():
        name = line.split()[0] if line.split() else ""
        if gone(name, mine):
            inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True,
                                    check=False)
            for pid in inside.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    if int(pid) != os.getpid():
                        os.kill(int(pid), 9)
            subprocess.run(["ip", "netns", "del", name], check=False)
    for path in pathlib.Path(tempfile.gettempdir()).glob("pkube*-*"):
        if gone(path.name, mine):
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    sweep(sys.argv[1] if len(sys.argv) > 1 else "")
