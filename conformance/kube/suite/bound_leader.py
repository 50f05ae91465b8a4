"""A leader that stands still and goes on later: another leads, and the first overwrites nothing."""

import contextlib
import os
import signal
import time

from bound_changes import of_import
from bound_stage import MODES, SLICES, by_hand, derived_addresses, export, hand_made, ready_addresses, stage, wall
from checks import check
from install import NAMESPACE
from tools import until


class Churn:
    """Switches a service of the near cluster to and fro, so that the leader always has something to write."""

    def __init__(self, made):
        self.made = made
        self.own, self.other = made.pods(made.near, "near")[0], made.pods(made.far, "far")[0]
        for cluster, pod in ((made.near, self.own), (made.far, self.other)):
            cluster.apply([by_hand(cluster, "torn"), hand_made("torn", [pod]), export("torn")])
        made.address["torn"] = made.until_answered("torn")

    def turn(self, ready):
        self.made.near.patch(f"{SLICES}/torn-by-hand", hand_made("torn", [self.own], ready))

    def until(self, wanted, within):
        def there():
            return derived_addresses(self.made.near, "torn") == [wanted]
        until(f"the slice leads to {sorted(wanted)}", within, there)


def state(made):
    """Every object of ours in the near cluster, with its version and content."""
    paths = ("/apis/discovery.k8s.io/v1/endpointslices?labelSelector="
             "endpointslice.kubernetes.io/managed-by%3Dportolan.dev",
             "/api/v1/services?labelSelector=app.kubernetes.io/managed-by%3Dportolan.dev",
             "/apis/multicluster.x-k8s.io/v1beta1/serviceimports")
    return {(path, one["metadata"]["namespace"], one["metadata"]["name"]): one["metadata"]["resourceVersion"]
            for path in paths for one in made.near.get(path)["items"]}


def frozen(context, seconds):
    made = stage(context)
    made.until_whole(made.near)
    churn = Churn(made)
    local = {churn.own["status"]["podIP"]}
    churn.until(local, 10)
    leader, others = made.mesh.leader(made.near)
    name = leader["metadata"]["name"]
    lease = made.near.watch(f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
                            "?fieldSelector=metadata.name%3Dportolan")
    pids = made.near.pod_pids(NAMESPACE, leader)
    churn.turn(False)
    # It takes some 25 ms from here to the slice: what is computed is just not sent, or on its way.
    time.sleep(0.012)
    begun = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        at, event = lease.until(
            lambda e: e["object"]["spec"].get("holderIdentity") not in ("", None, name), 30, after=begun)
        successor = event["object"]["spec"]["holderIdentity"]
        context.figure("freeze to another leader", at - begun, "s", "<= 8")
        known = {pod["metadata"]["name"] for pod in others}
        context.expect(successor in known, f"{successor} leads, which is none of {known}")
        # Its successor sees another state than the frozen one computed, and writes it.
        churn.turn(True)
        churn.until(local, 10)
        time.sleep(max(0, seconds - (time.monotonic() - begun)))
        before = state(made)
        slices = made.near.watch(of_import("torn"))
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        thawed = time.time()
    time.sleep(5)
    settled(context, made, slices, before, local)
    lease.close()
    back = [wall(moment) for moment, e in lease.events if e["object"]["spec"].get("holderIdentity") == name
            and wall(moment) > thawed]
    context.figure("renewals of the lease by the thawed one", len(back), "in 5 s", "= 0")


def settled(context, made, slices, before, local):
    """What the successor wrote stands, unwritten since; what names the gateways may follow their state."""
    slices.close()
    strange = [event for _, event in slices.events
               if event["object"]["addressType"] == "IPv4"
               and (event["type"] == "DELETED" or ready_addresses(event["object"]) != local)]
    context.figure("writes over the successor's slice", len(strange), "", "= 0")
    after = state(made)
    context.figure("objects gone since the thaw", len(before.keys() - after.keys()), "", "= 0")
    changed = [key for key in before.keys() & after.keys() if before[key] != after[key]]
    context.note(f"{len(changed)} of {len(before)} objects written since the thaw, by the leader: the thawed "
                 "gateway is called again")


@check("bound-leader-frozen", level="bound", modes=MODES, needs=("mesh",))
def leader_frozen(context):
    """SIGSTOP of the leader for 12 s with a write under way: another leads, nothing is overwritten."""
    frozen(context, 12)


@check("bound-leader-frozen-60", level="bound", modes=MODES, needs=("mesh",), long=True)
def leader_frozen_long(context):
    """The same for 60 s, in which kubelet finds the frozen one dead."""
    frozen(context, 60)
