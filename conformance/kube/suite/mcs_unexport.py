"""What stays for a while after an unexport: begun with the first checks, looked at with the last."""

import time

from checks import check, prepare
from mcs import MODES, path, stage
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
