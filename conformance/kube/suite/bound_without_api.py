"""The API server away: what is known is served, by a process started since too."""

import re
import time

import bound_uplink
from bound_gateway import proven
from bound_stage import (MODES, PORT, SPACE, Follow, failures, log_lines, metrics, rate, stage, started, told,
                         within)
from checks import check
from install import NAMESPACE
from probe import joined
from tools import Failed, until

ZONE = "svc.clusterset.local"
COUNTED = "portolan_source_errors_total"
FIRST_MINUTE, LATER = 8, 4


class Attempts:
    """How often each watch of each gateway was tried, by its log; and connections to the API server, by
    the nodes' packet filters."""

    def __init__(self, made):
        self.cluster, self.pods = made.near, made.mesh.pods(made.near)
        service = made.near.get("/api/v1/namespaces/default/services/kubernetes")["spec"]["clusterIP"]
        rules = "".join(f"    ip saddr {pod['status']['podIP']} ip daddr {service} tcp dport 443 "
                        "tcp flags & (syn | ack) == syn counter\n" for pod in self.pods)
        self.rules = ("table inet attempts\ndelete table inet attempts\ntable inet attempts {\n  chain begun {\n"
                      f"    type filter hook prerouting priority raw;\n{rules}  }}\n}}\n")
        for node in self.cluster.nodes:
            node.nft(self.rules)
        self.before = self._failed()

    def _failed(self):
        return {pod["metadata"]["name"]: sum(value for name, value in metrics(self.cluster, pod).items()
                                             if name.startswith(COUNTED)) for pod in self.pods}

    def failed(self):
        """Troubles met since, by gateway."""
        now = self._failed()
        return {name: now[name] - count for name, count in self.before.items()}

    def connections(self):
        """Begun to the API server since, by all gateways."""
        text = "".join(node.run("nft", "list", "table", "inet", "attempts") for node in self.cluster.nodes)
        return sum(map(int, re.findall(r"counter packets (\d+)", text)))

    def end(self):
        for node in self.cluster.nodes:
            node.run("nft", "delete", "table", "inet", "attempts")

    def by_watch(self, begin, end):
        """{(gateway, kind): failed attempts} in that time, as the log has them."""
        found = {}
        for pod in self.pods:
            for at, text in log_lines(self.cluster, pod, begin):
                kind = re.search(r"kind=\"?([\w. ]+?)\"?(?= |$)", text)
                if at < end and "watch" in text and "pause=" in text and kind:
                    key = pod["metadata"]["name"], kind[1]
                    found[key] = found.get(key, 0) + 1
        return found


def restarted(context, made, pod):
    """kill -9 of a gateway's process while the API server is away: from its start to its answers."""
    ip = pod["status"]["podIP"]
    port = made.shared_port
    old = set(made.near.pod_pids(NAMESPACE, pod))
    calls = Follow(made.client.load(joined(ip, port), rate=50, timeout="2s"))
    names = Follow(made.client.start("dns", name=f"far.{SPACE}.{ZONE}", server=joined(ip, 5353), rate=50,
                                     timeout="1s"))
    calls.until(lambda record: record.get("pod"), 5)
    names.until(lambda record: record["answers"], 5)
    made.near.kill_pod_process(NAMESPACE, pod)

    def fresh():
        return [pid for pid in made.near.pod_pids(NAMESPACE, pod) if pid not in old]
    begun = started(until("a new process of the gateway", 30, fresh, every=0.02)[0])
    first = {"connection": calls.until(lambda record: record.get("pod"), 15, since=begun),
             "DNS answer": names.until(lambda record: record["answers"], 15, since=begun)}
    time.sleep(2)
    after = {"connection": calls.finish(), "DNS answer": names.finish()}
    for what, record in first.items():
        context.figure(f"process start to {what}", record["ended"] - begun, "s", "<= 1")
        since = within(after[what], record["ended"])
        context.figure(f"failed after that, {what}", len(failures(since)), f"of {len(since)}", "= 0")
    context.expect(first["DNS answer"]["answers"] == [made.address["far"]], f"it answers {first['DNS answer']}")
    proven(made, after["connection"])


def away(context, seconds):
    made = stage(context)
    made.until_whole(made.near)
    ports = made.derived("far")["metadata"]["annotations"]["portolan.dev/ports"]
    made.shared_port = int(re.search(rf"tcp-{PORT}=(\d+)", ports)[1])
    pods = made.mesh.pods(made.near)
    attempts = Attempts(made)
    load = made.load(rate=60)
    names = Follow(made.client.start("dns", name=f"far.{SPACE}.{ZONE},pair.{SPACE}.{ZONE}", rate=20, timeout="5s"))
    names.until(lambda record: record["answers"], 5)
    made.near.stop_apiserver()
    begun = time.time()
    try:
        time.sleep(60)
        minute, connections = attempts.failed(), attempts.connections()
        time.sleep(max(0, seconds - 20 - 60))
        records, lookups = load.finish(), names.finish()
        total = attempts.failed()
        until_then = time.time()
        serving(context, begun, records, lookups)
        proven(made, records)
        tried(context, attempts, begun, until_then, minute, total)
        context.note(f"connections to the API server in the first minute, of all gateways: {connections}")
        bound_uplink.end(context)
        restarted(context, made, pods[-1])
        left = begun + seconds - time.time()
        time.sleep(max(0, left))
    finally:
        made.near.start_apiserver()
    attempts.end()
    back = time.time()
    made.until_whole(made.near)
    context.note(f"away for {back - begun:.0f} s; whole again {time.time() - back:.1f} s after it was back")


def serving(context, begun, records, lookups):
    """Nothing failed since."""
    records, lookups = within(records, begun), within(lookups, begun)
    context.figure("new connections", rate(records), "/s", ">= 50")
    context.figure("failed connections", len(failures(records)), f"of {len(records)}", "= 0")
    context.figure("failed DNS answers", len(failures(lookups)), f"of {len(lookups)}", "= 0")
    for what in (records, lookups):
        if failures(what):
            context.note(f"first {failures(what)[0]['began'] - begun:.1f} s after: {told(what, begun)}")


def tried(context, attempts, begun, until_then, minute, total):
    """Attempts per watch: the worst by the log; with no line of any, the mean by the metric."""
    first = attempts.by_watch(begun, begun + 60)
    later = attempts.by_watch(begun + 60, until_then)
    minutes = max(1.0, (until_then - begun - 60) / 60)
    if not first:
        raise Failed(f"no attempt is logged; {COUNTED} rose by {minute} in the first minute")
    context.figure("attempts of a watch in the first minute, most", max(first.values()), "", f"<= {FIRST_MINUTE}")
    often = max(later.values(), default=0) / minutes
    context.figure("attempts of a watch a minute later, most", often, "/min", f"<= {LATER}")
    context.figure("watches that try again", len({kind for _, kind in first}), "", ">= 6")
    context.note(f"{COUNTED} rose by {minute} in the first minute, by {total} in {until_then - begun:.0f} s")


@check("bound-without-api", level="bound", modes=MODES, needs=("mesh",))
def without_api(context):
    """The calling cluster's API server killed for 90 s: connections and names go on, and a new process serves."""
    away(context, 90)


@check("bound-without-api-600", level="bound", modes=MODES, needs=("mesh",), long=True)
def without_api_long(context):
    """The same for 10 min."""
    away(context, 600)


# Here, so that the return of the cluster that was cut off goes on while the API server is away.
check("bound-uplink-healed", level="bound", modes=MODES, needs=("mesh",))(bound_uplink.uplink_healed)
