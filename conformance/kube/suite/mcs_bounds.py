"""How soon an export is an import, a name and a connection elsewhere, and how soon it is gone again.

Everything counts from the API's reply to the check's own write.
"""

import time

from checks import check
from mcs import MODES, fqdn, has_ips, path, stage
from tools import Failed, until

NEEDS = ("mesh", "shop")
ROUNDS = 3


@check("mcs-export-in-time", kep="#exporting-services", level="bound", modes=MODES, needs=(*NEEDS, "lingering"))
def in_time(context):
    """Export to import with addresses, to a DNS answer through CoreDNS, to the first connection by name; and
    unexport to no import, no slices, no name, in the other cluster."""
    shop, *pair = stage(context)
    worst = {}
    # The figures are those of one mode; in the others the way is looked at.
    rounds = ROUNDS if context.mode == "identical" else 1
    for turn in range(rounds):
        far, near = pair if turn % 2 else reversed(pair)
        for what, seconds in one_round(context, shop, far, near, f"timed-{turn}").items():
            worst[what] = max(worst.get(what, 0), seconds)
    for what, bound in (("import with ips", 2), ("DNS answer", 2), ("first connection", 4),
                        ("import gone", 2), ("slices gone", 2), ("name gone", 2)):
        context.figure(f"{what}, worst of {rounds}", worst[what], "s", f"<= {bound}")


def one_round(context, shop, far, near, name):
    """Seconds to each thing, for one service of `far` as `near` sees it."""
    shop.serve(far, name)
    until("its endpoints", 5, lambda: far.get(
        f"{path('endpointslices')}?labelSelector=kubernetes.io%2Fservice-name%3D{name}")["items"])
    imports = near.watch(path("serviceimports"))
    names = shop.callers[near].start("dns", name=fqdn(name), rate=20)
    calls = shop.callers[near].load(f"{fqdn(name)}.:80", rate=20, timeout="3s")
    took = {}
    try:
        names.until(lambda record: "rcode" in record, 10)
        calls.until(lambda record: "begin_unix_ns" in record, 10)
        at, wall = shop.export(far, name)

        def mine(event):
            return event["object"]["metadata"]["name"] == name
        took["import with ips"] = imports.until(lambda e: mine(e) and has_ips(e["object"]), 10)[0] - at
        took["DNS answer"] = ended(names.until(lambda record: record.get("answers"), 10)[1], "ms") - wall
        first = calls.until(lambda record: record.get("pod"), 15)[1]
        if shop.who(first) is not far:
            raise Failed(f"the first connection: {first}")
        took["first connection"] = ended(first, "first_byte_ms") - wall
        time.sleep(0.5)
        later = [record for record in calls.finish() if record.get("begin_unix_ns", 0) > first["begin_unix_ns"]]
        failed = [record for record in later if record.get("error")]
        context.figure(f"failed after the first connection, {name}", len(failed), f"of {len(later)}", "= 0")
        at, wall = shop.unexport(far, name)
        until(f"no slices of {name}", 10, lambda: not shop.slices(near, name), every=0.02)
        took["slices gone"] = time.monotonic() - at
        gone = imports.until(lambda e: mine(e) and e["type"] == "DELETED", 10, after=at - 1)[0]
        took["import gone"] = max(0, gone - at)
        names.until(lambda record: record.get("rcode") == 3 and record["begin_unix_ns"] > wall * 1e9, 10)
        time.sleep(0.2)
        told = [record for record in names.finish() if record.get("answers")]
        took["name gone"] = max(0, max(ended(record, "ms") for record in told) - wall)
    finally:
        imports.close()
        for stream in (names, calls):
            if stream.child.poll() is None:
                stream.kill()
    return took


def ended(record, span):
    """When a record's question or call ended, as time.time()."""
    return record["begin_unix_ns"] / 1e9 + record[span] / 1e3
