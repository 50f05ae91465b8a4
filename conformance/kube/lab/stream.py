"""A long-lived command whose lines are read as they come."""

import contextlib
import json
import subprocess
import threading
import time

from tools import Failed


class Stream:
    """`lines` are (time.monotonic(), text) so far; `records` the same, each read as JSON."""

    def __init__(self, command, handshake=False):
        """With `handshake` the command says started and done, as the test program does."""
        self.lines, self.changed = [], threading.Condition()
        self.started, self.done, self.over = not handshake, False, False
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.said = []
        self.readers = [threading.Thread(target=self._read, daemon=True),
                        threading.Thread(target=lambda: self.said.extend(self.child.stderr), daemon=True)]
        for reader in self.readers:
            reader.start()

    def _read(self):
        for text in self.child.stdout:
            with self.changed:
                if text == '{"done":true}\n':
                    self.done = True
                elif text == '{"started":true}\n':
                    self.started = True
                else:
                    self.lines.append((time.monotonic(), text.rstrip("\n")))
                self.changed.notify_all()
        with self.changed:
            self.over = True
            self.changed.notify_all()

    @property
    def records(self):
        with self.changed:
            return [(at, json.loads(text)) for at, text in self.lines if text.startswith("{")]

    def until(self, predicate, within):
        """The first (time, record) that the predicate takes; Failed if none within `within` seconds."""
        deadline, seen = time.monotonic() + within, 0
        while True:
            records = self.records
            for at, record in records[seen:]:
                if predicate(record):
                    return at, record
            seen = len(records)
            with self.changed:
                if len(self.lines) == seen:
                    self.changed.wait(0.2)
            if time.monotonic() > deadline:
                raise Failed(f"no such line within {within:g} s, of {seen}; {''.join(self.said)[-500:]}")

    def finish(self, within=20):
        """Closes standard input, by which the test program ends itself, and waits for its last line;
        all records."""
        with self.changed:
            self.changed.wait_for(lambda: self.started or self.over, within)
        with contextlib.suppress(OSError):
            self.child.stdin.close()
        return self.wait(within)

    def wait(self, within):
        """Waits until the command has done its work; all records. The test program then says `done`
        and waits for the end of its input."""
        deadline = time.monotonic() + within
        with self.changed:
            self.changed.wait_for(lambda: self.done or self.over, within)
        with contextlib.suppress(OSError):
            self.child.stdin.close()
        try:
            self.child.wait(max(5, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as late:
            self.kill()
            raise Failed(f"a command in a pod did not end within {within:g} s") from late
        for reader in self.readers:
            reader.join(5)
        if self.child.returncode not in (0, 143):
            raise Failed(f"a command in a pod ended with {self.child.returncode}: {''.join(self.said)[-800:]}")
        return [record for _, record in self.records]

    def kill(self):
        self.child.kill()
        self.child.wait()
