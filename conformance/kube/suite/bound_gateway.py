"""A gateway that dies, by itself or with its node, under connections to a service of another cluster."""

import time

from bound_stage import MODES, STREAM_PORT, derived_addresses, failures, log_lines, rate, stage, told, within
from checks import check
from install import NAMESPACE
from probe import joined
from tools import Failed

STREAMS = 16
# How long a killed process takes to close its sockets, in seconds.
DYING = 0.2


def through(made, pod):
    """How many of the caller's streams go by way of this gateway: what its node's conntrack says."""
    caller, gateway = made.client.pod["status"]["podIP"], pod["status"]["podIP"]
    table = made.near.nodes[0].run("conntrack", "-L", "-p", "tcp", "--src", caller, "--dport", str(STREAM_PORT))
    return sum(f" src={gateway} " in line and "ESTABLISHED" in line for line in table.splitlines())


def opened(made, pod):
    """Streams, of which some go by way of this gateway and some do not; (they, how many do)."""
    for _ in range(8):
        streams = made.client.streams(joined(made.address["far"], STREAM_PORT), STREAMS, every="100ms", silence="8s")
        for n in range(STREAMS):
            streams.until(lambda record, n=n: record.get("stream") == n and "opened" in record, 10)
        on_it = through(made, pod)
        if 0 < on_it < STREAMS:
            return streams, on_it
        # kube-proxy does not have the other gateway yet.
        streams.finish()
        time.sleep(1)
    raise Failed(f"{on_it} of {STREAMS} streams go by way of {pod['metadata']['name']}")


def killed(context, made, pod, role, others):
    """kill -9 of one gateway under load; streams are open through all of them."""
    made.until_whole(made.near)
    streams, lost = opened(made, pod)
    load = made.load(rate=80)
    time.sleep(1)
    made.near.kill_pod_process(NAMESPACE, pod)
    at = time.time()
    time.sleep(8)
    records = load.finish()
    broken = [record for record in streams.finish() if "broke_unix_ns" in record]
    three = within(records, at, at + 3)
    # A process that dies resets what its listeners had not taken yet; that is refused too.
    refused = [record for record in failures(three) if "refused" in record["error"]
               or "reset" in record["error"] and record["began"] < at + DYING]
    other = [record for record in failures(three) if record not in refused]
    late = failures(within(records, at + 3))
    share = 1 / (len(others) + 1)
    context.figure(f"{role}: new connections", rate(records), "/s", ">= 50")
    context.figure(f"{role}: refused of {len(three)} begun in 3 s", len(refused) / len(three), "", f"<= {share:g}")
    context.figure(f"{role}: otherwise failed of these", len(other), "", "= 0")
    context.figure(f"{role}: failed later", len(late), f"of {len(within(records, at + 3))}", "= 0")
    untouched = STREAMS - lost
    context.figure(f"{role}: streams broken beyond those on it", max(0, len(broken) - lost), f"of {untouched}", "= 0")
    proven(made, records)
    last = max((record["began"] for record in failures(within(records, at))), default=at)
    context.note(f"{role}: {pod['metadata']['name']}: last failure {last - at:.2f} s after; {lost} streams on it, "
                 f"{len(broken)} broken; {told(within(records, at), at)}")
    removal(context, made, others, at, role)


def proven(made, records):
    """Every answer is from the cluster that alone has the service, by one of its pods."""
    uids = {pod["metadata"]["uid"] for pod in made.pods(made.far, "far")}
    strange = [r for r in records if r.get("pod") and (r["cluster"] != made.far.name or r["pod"] not in uids)]
    if strange:
        raise Failed(f"{len(strange)} answers of others, such as {strange[0]}")


def removal(context, made, others, at, role):
    """When the others say that they took it out."""
    for pod in others:
        for moment, text in log_lines(made.near, pod, at):
            if "fell silent" in text:
                context.note(f"{role}: {pod['metadata']['name']} took it out {moment - at:.2f} s after")
                return
    context.note(f"{role}: no other gateway says that it took it out")


@check("bound-gateway-killed", level="bound", modes=MODES, needs=("mesh",))
def gateway_killed(context):
    """kill -9 of a gateway, the follower's and then the leader's, while pods call another cluster."""
    made = stage(context)
    _, others = made.mesh.leader(made.near)
    context.expect(others, "there is one gateway only")
    killed(context, made, others[0], "follower", [p for p in made.mesh.pods(made.near) if p["metadata"]["uid"]
                                                  != others[0]["metadata"]["uid"]])
    made.until_whole(made.near)
    leader, others = made.mesh.leader(made.near)
    killed(context, made, leader, "leader", others)


@check("bound-node-lost", level="bound", modes=MODES, needs=("mesh",))
def node_lost(context):
    """All packets of the node without the API server are dropped: its gateway is not called any more."""
    made = stage(context)
    made.until_whole(made.near)
    node = made.near.nodes[1]
    gone = {p["status"]["podIP"] for p in made.mesh.pods(made.near) if p["spec"]["nodeName"] == node.name}
    context.expect(gone, f"no gateway on {node.name}")
    # The far side keeps its own gateway; a call through the lost one hangs, so it is given up early.
    load = made.load(rate=80, timeout="3s")
    time.sleep(1)
    leader, _ = made.mesh.leader(made.near)
    node.drop_all()
    at = time.time()
    try:
        time.sleep(9)
        left = [addresses & gone for addresses in derived_addresses(made.near, "far")]
    finally:
        node.heal()
    records = load.finish()
    late = within(records, at + 4)
    failed = failures(within(records, at))
    context.figure("new connections", rate(records), "/s", ">= 50")
    context.figure("failed of those begun 4 s after and later", len(failures(late)), f"of {len(late)}", "= 0")
    context.figure("its addresses left in the slices", sum(map(len, left)), "", "= 0")
    proven(made, records)
    last = max((record["began"] for record in failed), default=at)
    was = "the leader's" if leader["spec"]["nodeName"] == node.name else "a follower's"
    context.note(f"it was {was} node; the last that failed began {last - at:.2f} s after; {told(failed, at)}")
