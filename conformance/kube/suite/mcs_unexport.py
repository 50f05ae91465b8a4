"""What takes time: a withdrawn import's address, begun with the first checks and looked at with the last, and a
cluster that is away."""

import time

from checks import check, prepare
from mcs import MODES, behind, path, stage
from tools import until


@prepare("lingering")
def lingering(context):
    """An import made and withdrawn; its derived Service is watched from then on."""
    shop, near, far = stage(context)
    shop.offer(far, "lingering")
    shop.until_import(near, "lingering")
    name = shop.derived(near, "lingering")["metadata"]["name"]
    watch = near.watch(path("services"))
    at, _ = shop.unexport(far, "lingering")
    shop.until_no_import(near, "lingering")
    context.shared["lingering"] = name, watch, at, shop.find(near, "services", name)
    wanted = f"?labelSelector=kubernetes.io%2Fservice-name%3D{name}"
    until("its slices empty", 2, lambda: not any(
        one["endpoints"] for one in near.get(path("endpointslices") + wanted)["items"]))


@check("mcs-unexport-derived-lingers", kep="#clustersetip", level="bound", modes=MODES,
       needs=("mesh", "shop", "lingering"))
def derived_lingers(context):
    """After the unexport the derived Service stays 30 s without endpoints, so that nobody else is given its address."""
    name, watch, unexported, there = context.shared["lingering"]
    context.expect(there, "it went at once")
    gone, _ = watch.until(lambda event: event["type"] == "DELETED" and event["object"]["metadata"]["name"] == name,
                          max(1, 45 - (time.monotonic() - unexported)))
    watch.close()
    context.figure("unexport to the derived Service gone", gone - unexported, "s", ">= 29")
    context.figure("and not later than", gone - unexported, "s", "<= 40")


@check("mcs-unreachable-cluster", kep="#endpoint-ttl", level="SHOULD", needs=("mesh", "shop"))
def unreachable(context):
    """The endpoints of a cluster that is away leave where another can serve; imports and names stay; it comes back."""
    shop, near, far = stage(context)
    shop.offer(far, "distant")
    for cluster in (near, far):
        shop.offer(cluster, "shared")
    shop.until_from(near, "distant", {far})
    shop.until_clusters(near, "shared", [near.name, far.name])
    before = shop.until_import(near, "distant")["spec"]["ips"]

    def sources():
        return {one["metadata"]["labels"]["multicluster.kubernetes.io/source-cluster"]
                for one in shop.slices(near, "shared") if one["endpoints"]}
    until("slices of both", 5, lambda: sources() == {near.name, far.name})
    far.cut_uplink()
    cut = time.monotonic()
    try:
        until("slices of the one that is here", 10, lambda: sources() == {near.name})
        context.figure("cut to its endpoints gone", time.monotonic() - cut, "s", "<= 5")
        found = shop.find(near, "serviceimports", "distant")
        context.expect(found and found["spec"]["ips"] == before, f"the import of what only it has: {found}")
        context.expect(behind(shop.find(near, "serviceimports", "shared")), "no cluster is behind the shared import")
        context.expect(shop.lookup(near, "distant")["answers"], "its name went")
        shop.always_from(near, "shared", {near})
    finally:
        far.heal_uplink()
    healed = time.monotonic()
    shop.until_from(near, "distant", {far}, within=30)
    context.figure("healed to answered from there", time.monotonic() - healed, "s", "<= 15")
    shop.mesh.until_peers_up(near)
    until("slices of both again", 10, lambda: sources() == {near.name, far.name})
