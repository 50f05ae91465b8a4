"""What is measured from outside: the load's records, and what `explain` and DNS say over time."""

import contextlib
import json
import math
import sys
import threading
import time

from netns import Failed
from plan import CLOUDS, DIRECT, PORT, WEB
from process import HERE, Process


def percentile(values, percent):
    """The nearest-rank percentile; None of nothing."""
    ranked = sorted(values)
    return ranked[max(math.ceil(percent / 100 * len(ranked)), 1) - 1] if ranked else None


class Record:
    """One connection."""

    def __init__(self, scheduled):
        self.scheduled = scheduled
        self.first_byte = self.ended = self.cluster = None
        self.error = "still open"


class Load:
    """A running `load.py` and all of its records."""

    def __init__(self, mesh, cloud="paris", rate=50):
        agent = mesh.agents[cloud]
        address = mesh.until(f"{WEB} resolves in {cloud}", 10, lambda: agent.resolve(WEB))[0]
        self.records = {}
        self.file = mesh.dir / f"load-{cloud}.json"
        self.lock = threading.Lock()
        self.process = Process(
            mesh.namespaces[cloud].command(
                sys.executable, "-B", str(HERE / "load.py"), address, str(PORT), str(rate)),
            mesh.dir / f"load-{cloud}.log", self._note)
        mesh.processes.append(self.process)

    def _note(self, text):
        kind, scheduled, *rest = json.loads(text)
        with self.lock:
            record = self.records.setdefault(scheduled, Record(scheduled))
            if kind == "-":
                record.first_byte, record.ended, record.cluster, record.error = rest

    def save(self):
        """Leaves every record beside the logs."""
        self.file.write_text("\n".join(json.dumps(vars(record)) for record in self.all()))

    def all(self):
        with self.lock:
            return list(self.records.values())

    def between(self, begin, end, settle=True):
        """Connections scheduled in begin..end, once they have ended."""
        while settle:
            records = self.all()
            passed = records and max(r.scheduled for r in records) >= end
            if passed and all(r.ended for r in records if begin <= r.scheduled < end):
                break
            self.process.check("the load")
            time.sleep(0.05)
        return [r for r in self.all() if begin <= r.scheduled < end]

    def open_at(self, instant):
        """Connections scheduled before `instant` that had not ended then."""
        return [r for r in self.all()
                if r.scheduled < instant and not (r.ended and r.ended <= instant)]

    def first_answer(self, cluster, after):
        """When `cluster` first answered a connection scheduled after `after`."""
        found = [r.first_byte for r in self.all() if r.scheduled >= after and r.cluster == cluster]
        return min(found, default=None)


def failures(records):
    return [r for r in records if r.error]


def share(records, cluster):
    """The percentage of them that `cluster` answered in full."""
    return 100 * sum(r.cluster == cluster for r in records) / len(records) if records else 0.0


def first_bytes(records):
    return [r.first_byte - r.scheduled for r in records if r.first_byte]


def causes(records):
    """What went wrong and how often, for people."""
    counts = {}
    for record in failures(records):
        counts[record.error] = counts.get(record.error, 0) + 1
    return ", ".join(f"{count} x {error}" for error, count in counts.items())


class Streams:
    """A running `streams.py`: clients that hold one stream each."""

    def __init__(self, mesh, count, rate, reconnect):
        address = mesh.agents["paris"].resolve(WEB)[0]
        self.opened, self.broken, self.again, self.failed = [], [], [], []
        self.process = Process(
            mesh.namespaces["paris"].command(
                sys.executable, "-B", str(HERE / "streams.py"), address, str(PORT), str(count),
                str(rate), "yes" if reconnect else "no"),
            mesh.dir / "streams.log", self._note)
        mesh.processes.append(self.process)
        mesh.until(f"{count} streams are open", 10 + 2 * count / rate,
                   lambda: len(self.opened) >= count)

    def _note(self, text):
        kind, *rest = json.loads(text)
        lists = {"open": self.opened, "broken": self.broken,
                 "again": self.again, "failed": self.failed}
        lists[kind].append(rest)


class Changes:
    """A value over time: each change with its instant."""

    def __init__(self):
        self.seen = []

    def note(self, value):
        if not self.seen or self.seen[-1][1] != value:
            self.seen.append((time.monotonic(), value))

    def when(self, after, wanted):
        """The first instant from `after` on at which `wanted` held; None if never."""
        held = None
        for at, value in list(self.seen):
            if at <= after:
                held = after if wanted(value) else None
            elif held is None and wanted(value):
                return at
            elif held is not None:
                return held
        return held

    def since(self, after):
        return [value for at, value in list(self.seen) if at > after]


class Watch:
    """Asks `explain` and `/state` in every cloud, and DNS in paris, until closed."""

    def __init__(self, mesh, clouds=CLOUDS):
        self.mesh = mesh
        self.stopped = threading.Event()
        self.orders = {cloud: Changes() for cloud in clouds}
        self.states = {cloud: Changes() for cloud in clouds}
        self.answers = Changes()
        self.threads = [threading.Thread(target=self._cloud, args=(c,)) for c in clouds]
        self.threads.append(threading.Thread(target=self._dns))
        for thread in self.threads:
            thread.daemon = True
            thread.start()

    def _cloud(self, cloud):
        agent = self.mesh.agents[cloud]
        trace = open(self.mesh.dir / f"explain-{cloud}.jsonl", "w")
        while not self.stopped.wait(0.1):
            with contextlib.suppress(Failed, ValueError):
                explained = agent.explain()
                if explained:
                    trace.write(json.dumps([time.monotonic(), explained["candidates"]]) + "\n")
                    self.orders[cloud].note(order(explained))
                states = agent.peer_states()
                if states:
                    self.states[cloud].note(states)
        trace.close()

    def _dns(self):
        agent = self.mesh.agents["paris"]
        while not self.stopped.wait(0.05):
            found = agent.resolve(DIRECT)
            if found is not None:
                self.answers.note(found)

    def ever(self, cloud, peer, state, after=0.0):
        """Whether `cloud` ever held `peer` to be in `state` after that instant."""
        return any(states.get(peer) == state for states in self.states[cloud].since(after))

    def close(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


def order(explained):
    """The clusters that would be used, best first."""
    return tuple(c["cluster"] for c in explained["candidates"] if c["usable"])


def unexpected(observed, expected):
    """Orders seen that do not follow the expected ones in their order."""
    beyond, at = [], 0
    for value in observed:
        if value in expected[at:]:
            at = expected.index(value, at) + 1
        else:
            beyond.append(value)
    return beyond
