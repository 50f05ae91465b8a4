"""A program under callgrind, and the user instructions that it took."""

import pathlib
import re
import signal
import subprocess
import sys
import time

PATIENCE = 180


class Failed(Exception):
    """It could not be measured."""


class Callgrind:
    """A process that callgrind runs; `out` names the files of counts, `log` takes what it says."""

    def __init__(self, command, out, log, *options, **popen):
        # Whoever asks this program to end has what it started ended too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
        self.out, self.log, self.dumps = out, log, 0
        with open(log, "wb") as said:
            self.process = subprocess.Popen(
                ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--fair-sched=yes",
                 *options, *command],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, **popen)

    def said(self):
        return self.log.read_text(errors="replace")[-2000:]

    def control(self, *order):
        done = subprocess.run(["callgrind_control", *order, str(self.process.pid)],
                              capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode != 0:
            raise Failed(f"callgrind_control: {done.stderr.strip() or done.stdout.strip()}")

    def counted(self):
        """Instructions since this was last asked; the file of these counts is `self.last`."""
        self.dumps += 1
        self.control("--dump")
        self.last = pathlib.Path(f"{self.out}.{self.dumps}")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            # One file per dump; its total stands last.
            if self.last.exists():
                total = re.search(r"^(?:totals|summary): (\d+)", self.last.read_text(), re.M)
                if total:
                    return int(total[1])
            time.sleep(0.1)
        raise Failed(f"no counts at {self.last}")

    def end(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
