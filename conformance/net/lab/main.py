"""Runs the scenarios: those with figures for single connections one by one, then those that
watch one bad link for a while, side by side."""

import argparse
import concurrent.futures
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import traceback

import outages
import selftest
import weather
from netns import Failed
from report import Checks, Report

ONE_BY_ONE = [
    selftest.the_lab_itself, outages.cut_both_ways, outages.n02_one_way_drop,
    outages.n02_one_way_drop_back, outages.reject, outages.p01_kill9_one_of_two,
    outages.p02_kill9_only_gateway, outages.streams_2000,
]
SIDE_BY_SIDE = [
    weather.n04_loss_5_percent, weather.n05_mtu_black_hole, weather.n06_rtt_change,
    weather.n11_narrow_and_full, weather.n19_flapping,
]
ONLY_LONG = [weather.n04_loss_20_percent, weather.n04_loss_50_percent]


class Lab:
    """What every scenario is given."""

    def __init__(self, options, directory):
        self.binary = options.binary
        self.prefix = options.prefix
        self.long = options.long
        self.dir = pathlib.Path(directory)


def arguments():
    parser = argparse.ArgumentParser(prog="conformance/net/run", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    parser.add_argument("--long", action="store_true", help="the 10 min forms too")
    parser.add_argument("--slack", type=float, default=1, metavar="N",
                        help="a time is red only over N times its bound; what is over it says LATE")
    parser.add_argument("--keep", metavar="DIR", help="leave configuration and logs there")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--binary", help=argparse.SUPPRESS)
    parser.add_argument("--prefix", help=argparse.SUPPRESS)
    return parser.parse_args()


def run(scenario, lab, report):
    """One scenario to its end, whatever happens in it."""
    check = Checks(report, scenario.__name__)
    begun = time.monotonic()
    try:
        scenario(lab, check)
    except Failed as failed:
        check.broke(str(failed))
    except Exception:  # A fault in a scenario must not hide the others' results.
        check.broke(traceback.format_exc())
    check.note(f"took {time.monotonic() - begun:.0f} s")


def chosen(options):
    known = ONE_BY_ONE + SIDE_BY_SIDE + ONLY_LONG
    names = {scenario.__name__ for scenario in known}
    strange = [name for name in options.only if name not in names]
    if strange:
        print(f"no scenario {', '.join(strange)}; --list says what there is", file=sys.stderr)
        sys.exit(2)

    def wanted(scenario):
        if options.only:
            return scenario.__name__ in options.only
        return options.long or scenario not in ONLY_LONG

    return ([s for s in ONE_BY_ONE if wanted(s)], [s for s in SIDE_BY_SIDE + ONLY_LONG if wanted(s)])


def main():
    options = arguments()
    if options.list:
        for scenario in ONE_BY_ONE + SIDE_BY_SIDE + ONLY_LONG:
            print(f"{scenario.__name__:24} {scenario.__doc__.splitlines()[0]}")
        return 0
    one_by_one, side_by_side = chosen(options)

    def end(*_):
        # Children die with this process; the wrapper removes the namespaces.
        os._exit(130)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    directory = os.path.abspath(options.keep) if options.keep else tempfile.mkdtemp(prefix="pnet-")
    lab = Lab(options, directory)
    report = Report(options.output == "json", options.slack)
    for scenario in one_by_one:
        run(scenario, lab, report)
    with concurrent.futures.ThreadPoolExecutor(max(len(side_by_side), 1)) as pool:
        for scenario in side_by_side:
            pool.submit(run, scenario, lab, report)
    failed = report.close()
    if failed or options.keep:
        report.say(f"configuration and logs: {directory}")
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return 1 if failed else 0


sys.exit(main())
