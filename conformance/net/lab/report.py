"""Figures held against their bounds: one line each, and all of them as JSON."""

import json
import sys
import threading


class Report:
    """All checks of a run; scenarios may add from several threads."""

    def __init__(self, as_json, slack=1):
        self.as_json, self.slack = as_json, slack
        self.checks = []
        self.lock = threading.Lock()

    def say(self, text):
        with self.lock:
            print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def add(self, name, value, unit, ok, bound, late=False):
        if isinstance(value, float):
            value = round(value, 3)
        self.checks.append({"name": name, "ok": ok, "late": late, "value": value, "unit": unit, "bound": bound})
        shown = "never" if value is None else f"{value:g} {unit}"
        self.say(f"{'ok  ' if ok else 'LATE' if late else 'FAIL'} {name}: {shown}  ({bound})")

    def close(self):
        """The closing line; the number of failures."""
        late = sum(check["late"] for check in self.checks)
        failed = sum(not check["ok"] for check in self.checks) - late
        if self.as_json:
            json.dump({"checks": self.checks}, sys.stdout, indent=2)
            print()
        others = f", {late} over their bound within the slack" if late else ""
        self.say(f"{len(self.checks) - failed - late} passed, {failed} failed{others}")
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

    def at_most(self, name, value, unit, most, slack=None):
        """A time may be late within the slack of the run, unless it is given here; anything else may not."""
        ok = value is not None and value <= most
        slack = self.report.slack if slack is None else slack
        late = not ok and unit in ("s", "ms") and value is not None and value <= most * slack
        self.report.add(f"{self.scenario}.{name}", value, unit, ok, f"<= {most:g}", late)

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
