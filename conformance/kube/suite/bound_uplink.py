"""A cluster cut off: another one that has the service answers, until it is back."""

import time

from bound_stage import MODES, failures, stage, told, within
from checks import check
from tools import Failed

CUT = 8
# Rules of a return: at least 5 s of good answers, not before 5 s from the moment of Down; then
# slow start over 30 s.
BACK_EARLIEST, BACK_FIRST = 5, 20


@check("bound-uplink-cut", level="bound", modes=MODES, needs=("mesh",))
def uplink_cut(context):
    """Three clusters, the called one's packets dropped: the third answers each connection begun since."""
    context.expect(len(context.clusters) > 2, "wants three clusters")
    made = stage(context)
    load = made.load("pair", rate=60)
    load.until(lambda record: record.get("cluster") == made.middle.name, 10)
    time.sleep(2)
    made.middle.cut_uplink()
    cut = time.time()
    try:
        time.sleep(CUT)
    finally:
        made.middle.heal_uplink()
    healed = time.time()
    context.shared["uplink"] = load, cut, healed
    records = within(load.fresh(), cut, healed - 2)
    failed = failures(records)
    answered = [record for record in records if record.get("pod")]
    context.figure("begun after the cut", len(records) / (CUT - 2), "/s", ">= 50")
    context.figure("failed of those begun after the cut", len(failed), f"of {len(records)}", "= 0")
    slowest = max((record["first_byte_ms"] for record in answered), default=None)
    context.figure("first byte, slowest", slowest and slowest / 1000, "s", "<= 1.5")
    strange = [r for r in answered if r["cluster"] != made.far.name and r["ended"] > cut + 0.1]
    context.figure("answered by the cluster that is cut off", len(strange), "", "= 0")
    late = max((record["began"] for record in answered if record["first_byte_ms"] > 250), default=cut)
    before = failures([r for r in load.fresh() if r["began"] < cut])
    context.note(f"first bytes later than 250 ms until {late - cut:.1f} s after the cut; of those begun before it "
                 f"{len(before)} failed; {told(records, cut)}")


def end(context):
    """Begins no more calls; there may be none."""
    if "uplink" in context.shared:
        context.shared["uplink"][0].finish()


def uplink_healed(context):
    """Healed, the calls go back by the rules: not before 5 s, with no failure on the way."""
    made = stage(context)
    if "uplink" not in context.shared:
        raise Failed("the uplink was never cut")
    load, cut, healed = context.shared.pop("uplink")
    # It may have ended before, by `end`.
    time.sleep(0 if load.stream.child.poll() is not None else max(0, healed + 45 - time.time()))
    everything = load.finish()
    records = within(everything, healed)
    back = [record["began"] - healed for record in records if record.get("cluster") == made.middle.name]
    # Those too that had not ended when the cut was judged.
    context.figure("failed of those begun while cut", len(failures(within(everything, cut, healed))), "", "= 0")
    context.figure("failed since it is healed", len(failures(records)), f"of {len(records)}", "= 0")
    context.figure("healed to the first answer from there", min(back, default=None), "s", f"<= {BACK_FIRST}")
    context.figure("the same, not too soon", min(back, default=None), "s", f">= {BACK_EARLIEST}")
    last = within(records, records[-1]["began"] - 3)
    share = sum(record.get("cluster") == made.middle.name for record in last) / len(last)
    context.figure("answers from there in the last 3 s", share, "of them", "= 1")
    if failures(records):
        context.note(told(records, healed))
