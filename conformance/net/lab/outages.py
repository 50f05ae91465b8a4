"""A cloud is gone: dropped, rejected, dropped one way, killed."""

import socket
import time

from plan import PORT, WEB, pod
from stage import FORGOTTEN, JUDGED, SLOWEST, Stage
from watch import Load, Streams, causes, failures, percentile, share

WARM_UP = 6.0


def counters(stage, cut):
    """Oregon's own count of streams, once what had arrived at the cut is counted."""
    time.sleep(max(cut + 0.2 - time.monotonic(), 0))
    return stage.mesh.agents["oregon"].inbound_streams()


def cut_both_ways(lab, check):
    """The script of the demo, with dropped packets; N01, and oregon's own clients through it."""
    with Stage(lab, check, pods_in_paris=True) as stage:
        begun = time.monotonic()
        stage.sleep(2)
        ours = stage.load.between(begun, time.monotonic())
        check.exactly("local_first", share(ours, "paris"), "%", 100)

        stage.expect(paris=("oregon", "tokyo"), oregon=("oregon", "tokyo"),
                     tokyo=("tokyo", "oregon"))
        gone = time.monotonic()
        stage.mesh.manifests("paris", ready=False)
        moved = stage.when("paris", gone, lambda order: order[:1] == ("oregon",), 5)
        check.at_most("local_gone_moved", moved, "s", 1)
        inside = Load(stage.mesh, "oregon", rate=10)
        stage.sleep(WARM_UP)

        stage.expect(paris=("tokyo",), tokyo=("tokyo",))
        cut = stage.mesh.cut("oregon")
        streams = counters(stage, cut)
        stage.sleep(JUDGED)
        streams = stage.mesh.agents["oregon"].inbound_streams() - streams
        stage.judge_before(stage.mesh.cut_asked)
        stage.judge_connections(cut)
        stage.judge_in_flight(cut)
        stage.judge_names(cut)
        check.at_least("dropped", stage.mesh.namespaces["oregon"].hits(), "packets", 1)
        check.exactly("streams_in_oregon", streams, "streams", 0)

        stage.expect(paris=("oregon", "tokyo"), tokyo=("tokyo", "oregon"))
        healed = stage.mesh.heal("oregon")
        stage.judge_back(healed)
        own = inside.between(cut, time.monotonic())
        check.exactly("oregon_own_failed", len(failures(own)), "connections", 0)
        check.exactly("oregon_own_local", share(own, "oregon"), "%", 100)
        in_flight = {record.scheduled for record in stage.load.open_at(cut)}
        others = [r for r in stage.load.between(begun, time.monotonic())
                  if r.scheduled not in in_flight]
        if failures(others):
            check.note(causes(others))
        check.exactly("failed_in_all", len(failures(others)), "connections", 0)
        stage.judge_orders()


def one_way(lab, check, towards_oregon):
    """N02: one direction of paris-oregon is dropped; each side finds it alone."""
    with Stage(lab, check) as stage:
        stage.sleep(WARM_UP)
        stage.expect(paris=("tokyo",))
        streams = None
        if towards_oregon:
            cut = stage.mesh.cut("oregon", "ip saddr 10.77.1.0/24", None)
            streams = counters(stage, cut)
        else:
            cut = stage.mesh.cut("paris", "ip saddr 10.77.2.0/24", None)
        stage.sleep(JUDGED)
        stage.judge_before(stage.mesh.cut_asked)
        stage.judge_connections(cut)
        stage.judge_in_flight(cut)
        stage.judge_names(cut)
        at = stage.watch.states["oregon"].when(cut, lambda states: states.get("paris") == "down")
        check.at_most("oregon_agrees", at and at - cut, "s", FORGOTTEN)
        where = "oregon" if towards_oregon else "paris"
        check.at_least("dropped", stage.mesh.namespaces[where].hits(), "packets", 1)
        if streams is not None:
            streams = stage.mesh.agents["oregon"].inbound_streams() - streams
            # Tokyo reaches oregon, but has no client that calls.
            check.exactly("streams_in_oregon", streams, "streams", 0)
        stage.judge_orders()


def n02_one_way_drop(lab, check):
    """N02 from paris to oregon."""
    one_way(lab, check, towards_oregon=True)


def n02_one_way_drop_back(lab, check):
    """N02 from oregon to paris: what paris asks still arrives."""
    one_way(lab, check, towards_oregon=False)


def reject(lab, check):
    """Every TCP packet to oregon is answered with a reset."""
    with Stage(lab, check) as stage:
        stage.sleep(WARM_UP)
        # Oregon's own dials get no answer either: it may find its peers Down, or keep them.
        stage.expect(paris=("tokyo",), tokyo=("tokyo",), oregon=("oregon",))
        cut = stage.mesh.cut("oregon", "meta l4proto tcp", None, "reject with tcp reset")
        streams = counters(stage, cut)
        stage.sleep(JUDGED)
        streams = stage.mesh.agents["oregon"].inbound_streams() - streams
        stage.judge_before(stage.mesh.cut_asked)
        stage.judge_connections(cut)
        stage.judge_in_flight(cut)
        stage.judge_names(cut)
        check.at_least("rejected", stage.mesh.namespaces["oregon"].hits(), "packets", 1)
        check.exactly("streams_in_oregon", streams, "streams", 0)
        stage.judge_orders()


def streams_2000(lab, check):
    """2 000 open streams at the cut; their clients reconnect when they are reset."""
    count = 2000
    with Stage(lab, check, load=False) as stage:
        streams = Streams(stage.mesh, count, rate=250, reconnect=True)
        held_by = [cluster for (cluster,) in streams.opened]
        check.exactly("held_by_oregon", 100 * held_by.count("oregon") / count, "%", 100)
        stage.sleep(5)
        check.exactly("broken_before", len(streams.broken), "streams", 0)
        stage.expect(paris=("tokyo",), tokyo=("tokyo",))
        cut = stage.mesh.cut("oregon")
        limit = cut + 15
        while time.monotonic() < limit and len(streams.again) < count:
            stage.sleep(0.1)
        broken = [at - cut for (at,) in streams.broken]
        again = [at - broken_at for broken_at, at, _ in streams.again]
        elsewhere = sum(cluster == "tokyo" for *_, cluster in streams.again)
        check.exactly("ended", len(broken), "streams", count)
        check.at_most("all_ended", max(broken, default=None), "s", FORGOTTEN)
        check.exactly("failed", len(streams.failed), "attempts", 0)
        check.exactly("re_established", elsewhere, "streams", count)
        check.at_most("re_established_p99", percentile(again, 99), "s", 2)
        check.at_most("re_established_max", percentile(again, 100), "s", 3)
        check.at_least("dropped", stage.mesh.namespaces["oregon"].hits(), "packets", 1)


def p01_kill9_one_of_two(lab, check):
    """P01: one of oregon's two gateways is killed with SIGKILL."""
    with Stage(lab, check, replicas={"oregon": 2}) as stage:
        stage.sleep(WARM_UP)
        held = Streams(stage.mesh, 40, rate=40, reconnect=False)
        both = [stage.mesh.agents[name] for name in ("oregon", "oregon-1")]
        busier = max(both, key=lambda agent: agent.inbound_streams())
        check.note(f"killing {busier.name}")
        killed = busier.kill()
        stage.sleep(10)
        stage.judge_connections(killed, seconds=9.5, p99=SLOWEST)
        settled = stage.load.between(killed + 2, killed + 9.5)
        check.exactly("answered_by_oregon", share(settled, "oregon"), "%", 100)
        broken = [at - killed for (at,) in held.broken]
        check.between("broken", len(broken), "streams", 1, 40)
        check.at_most("broken_all_at_once", max(broken, default=None), "s", 1)
        check.exactly("named_throughout", len(stage.watch.orders["paris"].since(killed)),
                      "changes", 0)


def p02_kill9_only_gateway(lab, check):
    """P02, P03: oregon's only gateway is killed with SIGKILL, and comes back."""
    with Stage(lab, check) as stage:
        stage.sleep(WARM_UP)
        oregon = stage.mesh.agents["oregon"]
        before = oregon.resolve(WEB)
        stage.expect(paris=("tokyo",), tokyo=("tokyo",))
        killed = oregon.kill()
        stage.sleep(6)
        stage.judge_before(killed)
        stage.judge_connections(killed, seconds=5.5)
        stage.judge_in_flight(killed)
        stage.judge_names(killed)
        # Plain local names lead to the pods themselves, whatever the gateway does.
        with stage.mesh.namespaces["oregon"].socket(socket.SOCK_STREAM, 2) as stream:
            stream.connect((pod("oregon", 0), PORT))

        stage.expect(paris=("oregon", "tokyo"), tokyo=("tokyo", "oregon"))
        started = oregon.start()
        while (now := time.monotonic()) < started + 10 and oregon.resolve(WEB, 0.05) != before:
            stage.mesh.check()
            time.sleep(0.005)
        answered = now - started if oregon.resolve(WEB) == before else None
        check.at_most("dns_after_start", answered, "s", 1)
        stage.judge_back(started, most=15)
        stage.judge_orders(("paris", "tokyo"))
