"""Processes of the lab: started inside a namespace, listened to, ended."""

import contextlib
import pathlib
import subprocess
import sys
import threading
import time

from netns import Failed
from plan import CLOUDS, NUMBER

HERE = pathlib.Path(__file__).parent


def until(what, within, look, every=0.05):
    """Waits until `look` yields something true; Failed with `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise Failed(f"{what}: not within {within:g} s")
        time.sleep(every)


class Process:
    """A process of ours inside a namespace."""

    def __init__(self, command, log, lines=None):
        self.log = log
        self.errors = open(log, "ab")
        pipes = subprocess.PIPE if lines is not None else None
        self.child = subprocess.Popen(
            command, stdin=pipes or subprocess.DEVNULL, stdout=pipes or self.errors,
            stderr=self.errors, start_new_session=True)
        if lines is not None:
            self.reader = threading.Thread(target=self._read, args=(lines,), daemon=True)
            self.reader.start()

    def _read(self, lines):
        for text in self.child.stdout:
            lines(text.decode())

    def check(self, name):
        """Failed, with the last lines of the log, if it has ended."""
        if self.child.poll() is not None:
            tail = pathlib.Path(self.log).read_text(errors="replace").splitlines()[-15:]
            raise Failed(f"{name} ended by itself ({self.child.returncode}): " + "\n  ".join(tail))

    def finish(self, within=15):
        """Closes its standard input and waits until it has said everything."""
        with contextlib.suppress(OSError):
            self.child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(within)
        self.kill()
        self.reader.join(within)

    def kill(self):
        self.child.kill()
        self.child.wait()
        self.errors.close()


class Switch(Process):
    """The delay line's process."""

    def __init__(self, mesh):
        self.answers = threading.Semaphore(0)
        paths = [mesh.namespaces[cloud].path for cloud in CLOUDS]
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-B", str(HERE / "switch.py")]
        super().__init__(command + paths, mesh.dir / "switch.log", lambda _: self.answers.release())
        self._answered()

    def _answered(self):
        if not self.answers.acquire(timeout=5):
            self.check("the switch")
            raise Failed("the switch does not answer")

    def round_trip(self, a, b, milliseconds):
        command = f"rtt {NUMBER[a]} {NUMBER[b]} {milliseconds}\n"
        self.child.stdin.write(command.encode())
        self.child.stdin.flush()
        self._answered()
