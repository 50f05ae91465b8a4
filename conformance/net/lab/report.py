"""Figures held against their bounds: one line each, and all of them as JSON."""

import json
import sys
import threading


class Report:
    """All checks of a run; scenarios may add from several threads."""

    def __init__(self, as_json):
        self.as_json = as_json
        self.checks = []
        self.lock = threading.Lock()

    def say(self, text):
        with self.lock:
            print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def add(self, name, value, unit, ok, bound):
        if isinstance(value, float):
            value = round(value, 3)
        self.checks.append({"name": name, "ok": ok, "value": value, "unit": unit, "bound": bound})
        shown = "never" if value is None else f"{value:g} {unit}"
        self.say(f"{'ok  ' if ok else 'FAIL'} {name}: {shown}  ({bound})")

    def close(self):
        """The closing line; the number of failures."""
        failed = sum(not check["ok"] for check in self.checks)
        if self.as_json:
            json.dump({"checks": self.checks}, sys.stdout, indent=2)
            print()
        self.say(f"{len(self.checks) - failed} passed, {failed} failed")
        return failed


class Checks:
    """The checks of one scenario."""

    def __init__(self, report, scenario):
        self.report, self.scenario = report, scenario

    def note(self, text):
        self.report.say(f"     {self.scenario}: {text}")

    def _add(self, name, value, unit, holds, bound):
        ok = value is not None and holds(value)
        self.report.add(f"{self.scenario}.{name}", value, unit, ok, bound)

    def at_most(self, name, value, unit, most):
        self._add(name, value, unit, lambda v: v <= most, f"<= {most:g}")

    def at_least(self, name, value, unit, least):
        self._add(name, value, unit, lambda v: v >= least, f">= {least:g}")

    def exactly(self, name, value, unit, wanted):
        self._add(name, value, unit, lambda v: v == wanted, f"= {wanted:g}")

    def between(self, name, value, unit, least, most):
        self._add(name, value, unit, lambda v: least <= v <= most, f"{least:g} to {most:g}")

    def broke(self, what):
        """Something kept the scenario from its end."""
        self.note(what)
        self.exactly("ran_to_its_end", 0, "", 1)
