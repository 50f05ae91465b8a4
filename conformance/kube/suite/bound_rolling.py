"""A rolling restart of the Deployment under load."""

import time

from bound_gateway import proven
from bound_stage import MODES, failures, rate, stage, told
from checks import check
from install import NAMESPACE
from tools import until

DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/portolan"


def restart(cluster):
    """What `kubectl rollout restart` does."""
    cluster.patch(DEPLOYMENT, {"spec": {"template": {"metadata": {"annotations": {
        "kubectl.kubernetes.io/restartedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}}}}})


def rolled(context, made, cluster):
    """The restart of one cluster's gateways, from before it to the end of the last old process."""
    made.until_whole(made.near)
    old = {pod["metadata"]["uid"] for pod in made.mesh.pods(cluster)}
    load = made.load(rate=200)
    time.sleep(1)
    begun = time.time()
    restart(cluster)
    until("the old pods gone", 150,
          lambda: not old & {pod["metadata"]["uid"] for pod in made.mesh.pods(cluster)}, every=0.5)
    took = time.time() - begun
    time.sleep(1)
    records = load.finish()
    failed = failures(records)
    name = f"{cluster.name}, which {'calls' if cluster is made.near else 'is called'}"
    context.figure(f"{name}: new connections", rate(records), "/s", ">= 190")
    context.figure(f"{name}: failed", len(failed), f"of {len(records)}", "= 0")
    proven(made, records)
    slowest = max(record.get("first_byte_ms", 0) for record in records)
    context.note(f"{name}: {took:.0f} s; slowest first byte {slowest:.0f} ms")
    if failed:
        moments = ", ".join(f"{record['began'] - begun:.1f}" for record in failed[:8])
        context.note(f"{name}: failed {moments} s after; {told(failed, begun)}")


@check("bound-rolling-restart", level="bound", modes=MODES, needs=("mesh",))
def rolling_restart(context):
    """The calling cluster's gateways are restarted one by one under 200 connections a second."""
    made = stage(context)
    rolled(context, made, made.near)


@check("bound-rolling-restart-far", level="bound", modes=MODES, needs=("mesh",), long=True)
def rolling_restart_far(context):
    """The called cluster's gateways are restarted one by one under 200 connections a second."""
    made = stage(context)
    rolled(context, made, made.far)
