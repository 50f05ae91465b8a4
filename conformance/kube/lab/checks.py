"""How a check is written.

    @check("export-to-import", kep="#exporting-services", level="MUST", modes=("identical",))
    def export_to_import(context):
        ...
        context.figure("import with ips", seconds, "s", "<= 2")

A check fails by a figure out of bound, a false `expect`, or any exception. `needs` names preparations,
which are made once per lab, before the first check that wants them.
"""

import dataclasses
import operator
import re
import typing

from tools import Failed

KEP = ("https://github.com/kubernetes/enhancements/tree/master/keps/sig-multicluster/"
       "1645-multi-cluster-services-api")
LEVELS = ("MUST", "SHOULD", "bound", "smoke")
# What is run for each: the lab's mode and its clusters.
SETTINGS = {
    "identical": ("identical", "paris:2,oregon:1"),
    "disjoint": ("disjoint", "paris:2,oregon:1"),
    "flat": ("flat", "paris:2,oregon:1"),
    "ipv4": ("disjoint", "paris:2,oregon:1:4"),
    "three": ("identical", "paris:2,oregon:1,tokyo:1"),
}
CHECKS, PREPARATIONS = [], {}


@dataclasses.dataclass(frozen=True)
class Check:
    """`not_yet` says what it waits for: such a check is listed and not run."""

    name: str
    run: typing.Callable
    kep: str | None
    level: str
    modes: tuple
    long: bool
    needs: tuple
    not_yet: str | None

    @property
    def link(self):
        return f"{KEP}{self.kep}" if self.kep else None

    @property
    def about(self):
        return (self.run.__doc__ or self.name).strip().splitlines()[0]


def check(name, kep=None, level="MUST", modes=("identical",), long=False, needs=(), not_yet=None):
    if level not in LEVELS:
        raise ValueError(f"{name}: no level {level}")
    if strange := set(modes) - set(SETTINGS):
        raise ValueError(f"{name}: no mode {strange}")

    def register(function):
        if any(known.name == name for known in CHECKS):
            raise ValueError(f"two checks are called {name}")
        CHECKS.append(Check(name, function, kep, level, tuple(modes), long, tuple(needs), not_yet))
        return function
    return register


def prepare(name):
    """Registers a preparation, such as installing the product: called with the Context of the lab."""
    def register(function):
        PREPARATIONS[name] = function
        return function
    return register


BOUND = re.compile(r"^\s*(<=|>=|<|>|=)\s*([0-9.]+)\s*$")
COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "=": operator.eq}


def holds(value, bound, slack=1):
    """Whether a value keeps a bound such as "<= 2"; None is a value that never came. An upper bound
    is stretched by `slack`."""
    match = BOUND.match(bound)
    if not match:
        raise ValueError(f"{bound!r} is no bound")
    limit = float(match[2]) * (slack if match[1] in ("<=", "<") else 1)
    return value is not None and COMPARE[match[1]](value, limit)


class Context:
    """What a check is given. `shared` is for what preparations and checks hand on in one lab."""

    def __init__(self, lab, setting, result, shared, options):
        self.lab, self.clusters, self.mode, self.setting = lab, lab.clusters, lab.mode, setting
        self.result, self.shared = result, shared
        self.long, self.slack = options.long, options.slack

    def figure(self, name, value, unit, bound):
        """A measured value and its bound, "<= 2". A time may be late within the slack of the run."""
        ok = holds(value, bound)
        late = not ok and unit in ("s", "ms") and holds(value, bound, self.slack)
        self.result.figure(name, value, unit, bound, ok, late)

    def expect(self, true, otherwise):
        """Ends the check as failed with this text if something is not so."""
        if not true:
            raise Failed(otherwise)

    def note(self, text):
        self.result.notes.append(str(text))
