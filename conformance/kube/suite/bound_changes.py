"""How soon a change of endpoints is right in another cluster, and a switch in the slices."""

import concurrent.futures
import random
import threading
import time

from bound_stage import (MCS, MODES, PORT, SLICES, SPACE, Follow, by_hand, export, failures, hand_made,
                         log_lines, parsed, percentile, ready_addresses, stage, wall, within)
from checks import check
from probe import joined
from tools import Failed, until

LANES, EACH = 4, 50


class Lane(threading.Thread):
    """One service of hand-made slices: each change leads to another pod, once the last is right."""

    def __init__(self, made, name, pods):
        super().__init__(daemon=True)
        self.made, self.name, self.pods, self.why = made, name, pods, None
        self.changes, self.records = [], []

    def run(self):
        try:
            self._change()
        except Failed as failed:
            self.why = f"{self.name}: {failed}"

    def _change(self):
        load = Follow(self.made.client.load(joined(self.made.address[self.name], PORT), rate=40, timeout="5s"))
        load.until(lambda record: record.get("pod"), 10)
        for n in range(EACH):
            pod = self.pods[(n + 1) % len(self.pods)]
            self.made.far.patch(f"{SLICES}/{self.name}-by-hand", hand_made(self.name, [pod]))
            replied, uid = time.time(), pod["metadata"]["uid"]
            self.changes.append((replied, uid))
            load.until(lambda record, uid=uid: record.get("pod") == uid, 5, since=replied)
            time.sleep(random.uniform(0.05, 0.15))
        self.ended = time.time()
        self.records = load.finish()

    def delays(self):
        """From each reply to the answer after which none was wrong."""
        for (replied, uid), after in zip(self.changes, [c[0] for c in self.changes[1:]] + [self.ended]):
            answers = sorted(within(self.records, replied, after), key=lambda record: record["began"])
            wrong = [record["began"] for record in answers if record.get("pod") != uid]
            right = [record["ended"] for record in answers if record["began"] > (wrong[-1] if wrong else 0)]
            yield (right[0] if right else after) - replied


@check("bound-endpoint-changes", level="bound", modes=MODES, needs=("mesh",))
def endpoint_changes(context):
    """200 changes of hand-made endpoint slices: when the other cluster's answer is right."""
    made = stage(context)
    pods = made.pods(made.far, "far")
    lanes = [Lane(made, f"hand-{n}", pods) for n in range(LANES)]
    for lane in lanes:
        made.far.apply([by_hand(made.far, lane.name), hand_made(lane.name, pods[:1]), export(lane.name)])
    for lane in lanes:
        made.address[lane.name] = made.until_answered(lane.name)
        lane.start()
    for lane in lanes:
        lane.join(180)
    for why in filter(None, (lane.why for lane in lanes)):
        raise Failed(why)
    delays = [delay for lane in lanes for delay in lane.delays()]
    failed = failures([record for lane in lanes for record in lane.records])
    context.figure("changes", len(delays), "", "= 200")
    context.figure("reply to right answer, p99", percentile(delays, 99), "s", "<= 1")
    context.figure("failed connections meanwhile", len(failed), "", "= 0")
    context.note(f"median {percentile(delays, 50):.3f} s, worst {max(delays):.3f} s")
    for lane in lanes:
        made.far.delete(f"/apis/{MCS}/namespaces/{SPACE}/serviceexports/{lane.name}")


def of_import(name):
    return f"{SLICES}?labelSelector=portolan.dev/service%3D{name},kubernetes.io/service-name"


def decided(made, name, since):
    """When the leader says that it decided; None where it says nothing."""
    leader, _ = made.mesh.leader(made.near)
    for at, text in log_lines(made.near, leader, since):
        if f"service={SPACE}/{name}" in text.replace('"', "") and "where connections go" in text:
            stamp = next((parsed(word.rstrip("Z")) for word in text.split() if word.startswith("20")), None)
            return stamp or at
    return None


@check("bound-switch", level="bound", modes=MODES, needs=("mesh",))
def switch(context):
    """The own pods go: from the decision to the slice that leads to the gateway, and back."""
    made = stage(context)
    own, other = made.pods(made.near, "near")[0], made.pods(made.far, "far")[0]
    for cluster, pod in ((made.near, own), (made.far, other)):
        cluster.apply([by_hand(cluster, "swap"), hand_made("swap", [pod]), export("swap")])
    made.address["swap"] = made.until_answered("swap")
    gateways = {pod["status"]["podIP"] for pod in made.mesh.pods(made.near)}
    local = {own["status"]["podIP"]}
    until("the own pod in the slice", 10, lambda: any(
        ready_addresses(one) == local for one in made.near.get(of_import("swap"))["items"]))
    watch, waits, said, answered = made.near.watch(of_import("swap")), [], 0, []
    try:
        for n in range(20):
            ready = n % 2 == 1
            wanted = local if ready else gateways
            begun, since = time.monotonic(), time.time()
            made.near.patch(f"{SLICES}/swap-by-hand", hand_made("swap", [own], ready))
            replied = time.time()
            at, _ = watch.until(
                lambda event, wanted=wanted: ready_addresses(event["object"]) == wanted, 5, after=begun)
            time.sleep(0.1)  # The line may be written later than it says.
            decision = decided(made, "swap", since)
            said += decision is not None
            waits.append(wall(at) - (decision or replied))
            if n >= 18:
                answered.append(until_answered_by(made, "swap", made.near if ready else made.far))
    finally:
        watch.close()
    context.figure("decision to slice, worst of 20", max(waits) * 1000, "ms", "<= 500")
    start = "the decision's log time" if said == len(waits) else "the API's reply (no decision is logged)"
    context.note(f"start is {start}; median {percentile(waits, 50) * 1000:.0f} ms; "
                 f"then answered from there after {', '.join(f'{s:.1f}' for s in answered)} s")


def until_answered_by(made, name, cluster):
    """Connects until this cluster answers; the seconds it took."""
    begun = time.monotonic()
    until(f"{name} answered by {cluster.name}", 5,
          lambda: made.client.once(made.address[name], PORT, timeout="1s").get("cluster") == cluster.name)
    return time.monotonic() - begun


MANY = 1000


def many(cluster, space, name, pod):
    """One of the thousand."""
    cluster.create(f"/api/v1/namespaces/{space}/services", by_hand(cluster, name, space))
    cluster.create(SLICES.replace(f"/{SPACE}/", f"/{space}/"), hand_made(name, [pod], namespace=space))
    cluster.create(f"/apis/{MCS}/namespaces/{space}/serviceexports", export(name, namespace=space))


@check("bound-switch-1000", level="bound", modes=MODES, needs=("mesh",), long=True)
def switch_many(context):
    """1 000 services switched by one annotation of their namespace: to the last slice."""
    made = stage(context)
    space, names = "many", [f"svc-{n:03}" for n in range(MANY)]
    own, other = made.pods(made.near, "near")[0], made.pods(made.far, "far")[0]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for cluster, pod in ((made.near, own), (made.far, other)):
            cluster.create("/api/v1/namespaces", {"metadata": {"name": space}})
            list(pool.map(lambda name, at=cluster, pod=pod: many(at, space, name, pod), names))
    path = (f"/apis/discovery.k8s.io/v1/namespaces/{space}/endpointslices"
            "?labelSelector=portolan.dev/service,kubernetes.io/service-name")
    local, gateways = {own["status"]["podIP"]}, {pod["status"]["podIP"] for pod in made.mesh.pods(made.near)}
    watch, latest, read = made.near.watch(path), {}, 0
    for one in watch.objects:
        latest[one["metadata"]["name"]] = ready_addresses(one)

    def lead_to(wanted):
        nonlocal read
        fresh = watch.events[read:]
        read += len(fresh)
        for _, event in fresh:
            latest[event["object"]["metadata"]["name"]] = ready_addresses(event["object"])
        return sum(addresses == wanted for addresses in latest.values()) >= MANY
    until("all slices at the own pod", 240, lambda: lead_to(local), every=0.5)
    time.sleep(5)  # The writer's budget is full again.
    made.near.patch(f"/api/v1/namespaces/{space}",
                    {"metadata": {"annotations": {"portolan.dev/policy": f"pinned: {made.far.name}"}}})
    replied = time.time()
    until("all slices at the gateways", 60, lambda: lead_to(gateways), every=0.5)
    watch.close()
    moments = sorted(wall(at) for at, event in watch.events
                     if wall(at) > replied and ready_addresses(event["object"]) == gateways)
    context.figure("the API's reply to the last of 1000 slices", moments[-1] - replied, "s", "<= 6")
    context.note(f"half of them after {moments[len(moments) // 2] - replied:.1f} s")
    # What goes with the namespace keeps everybody busy; the next check wants quiet.
    for cluster in (made.near, made.far):
        cluster.delete(f"/api/v1/namespaces/{space}")
    for cluster in (made.near, made.far):
        until(f"{space} gone from {cluster.name}", 240,
              lambda at=cluster: at.api("GET", f"/api/v1/namespaces/{space}")[0] == 404, every=1)
