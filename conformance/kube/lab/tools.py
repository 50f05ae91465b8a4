"""Small tools of every part: run a command, wait for something, end with a reason."""

import subprocess
import sys
import threading
import time

# Set when the run is to end: nobody waits on for clusters that are being taken away.
over = threading.Event()


class Failed(Exception):
    """A tool, a program or a cluster did not do what the lab needs."""


def say(text):
    """A line of progress; on standard error, so that a report on standard output stays whole."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def tool(*command, stdin=None, timeout=120, **more):
    """Runs a tool to its end; its output, or Failed with what it said."""
    done = subprocess.run([str(part) for part in command], input=stdin, capture_output=True,
                          text=True, check=False, timeout=timeout, **more)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise Failed(f"{' '.join(map(str, command))}: {said or f'ended with {done.returncode}'}")
    return done.stdout


def until(what, within, look, every=0.05):
    """Waits until `look` yields something true; Failed with `what`, and the last Failed that `look`
    raised, after `within` seconds."""
    deadline = time.monotonic() + within
    last = ""
    while True:
        try:
            found = look()
            if found:
                return found
        except Failed as failed:
            last = f" ({failed})"
        if over.is_set():
            raise Failed(f"{what}: the run was ended")
        if time.monotonic() >= deadline:
            raise Failed(f"{what}: not within {within:g} s{last}")
        time.sleep(every)
