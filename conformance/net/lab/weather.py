"""A cloud is there, but the way to it is bad: loss, MTU, delay, flapping."""

import contextlib
import socket
import threading
import time

from plan import PORT, WEB
from stage import Stage
from watch import causes, failures, share

WARM_UP = 4.0


def downs(stage, after):
    """How often paris has found oregon Down since."""
    states = [states.get("oregon") for states in stage.watch.states["paris"].since(after)]
    return sum(now == "down" and before != "down"
               for before, now in zip([None, *states], states))


def lossy(stage, percent):
    """Each way loses that share of its packets."""
    match = f"numgen random mod 100 < {percent}"
    return stage.mesh.cut("oregon", match, match)


def n04_loss_5_percent(lab, check):
    """N04: 5 % loss each way is never Down (40 s; 10 min with --long)."""
    with Stage(lab, check, rate=10) as stage:
        stage.sleep(WARM_UP)
        began = lossy(stage, 5)
        stage.sleep(600 if lab.long else 40)
        check.exactly("downs", downs(stage, began), "times", 0)
        records = stage.load.between(began, time.monotonic())
        if failures(records):
            check.note(causes(records))
        check.exactly("failed", len(failures(records)), "connections", 0)
        check.at_least("dropped", stage.mesh.namespaces["oregon"].hits(), "packets", 1)


def n04_loss_20_percent(lab, check):
    """N04: 20 % loss is at most one Down in 10 min (only with --long)."""
    with Stage(lab, check, rate=10) as stage:
        stage.sleep(WARM_UP)
        began = lossy(stage, 20)
        stage.sleep(600)
        check.at_most("downs", downs(stage, began), "times", 1)


def n04_loss_50_percent(lab, check):
    """N04: 50 % loss is Down within 60 s and at most one return in 10 min (only with --long)."""
    with Stage(lab, check, rate=10) as stage:
        stage.sleep(WARM_UP)
        began = lossy(stage, 50)
        stage.sleep(600)
        first = stage.watch.states["paris"].when(began, lambda s: s.get("oregon") == "down")
        check.at_most("down", first and first - began, "s", 60)
        check.at_most("downs", downs(stage, began), "times", 2)


def n05_mtu_black_hole(lab, check):
    """N05: packets over 1 200 bytes vanish; small probes alone must not report health."""
    with Stage(lab, check, rate=10) as stage:
        stage.sleep(WARM_UP)
        stage.expect(paris=("tokyo",), tokyo=("tokyo",))
        began = stage.mesh.cut("oregon", "meta length > 1200", "meta length > 1200")
        out = stage.when("paris", began, lambda order: "oregon" not in order, 40)
        check.at_most("explain_moved", out, "s", 25)
        if out is None:
            return
        stage.sleep(6)
        after = stage.load.between(began + out + 1, time.monotonic())
        if failures(after):
            check.note(causes(after))
        check.exactly("failed_afterwards", len(failures(after)), "connections", 0)
        check.exactly("answered_by_tokyo", share(after, "tokyo"), "%", 100)
        check.at_least("dropped", stage.mesh.namespaces["oregon"].hits(), "packets", 1)
        stage.expect(paris=("oregon", "tokyo"), tokyo=("tokyo", "oregon"))
        healed = stage.mesh.heal("oregon")
        stage.judge_back(healed, most=15)


def n06_rtt_change(lab, check):
    """N06: 20 to 400 ms for 30 s: not Down; the order changes once there and once back."""
    with Stage(lab, check, rate=10) as stage:
        stage.sleep(WARM_UP)
        stage.expect(paris=("tokyo", "oregon"))
        began = time.monotonic()
        stage.mesh.switch.round_trip("paris", "oregon", 400)
        stage.sleep(30)
        there = len(stage.watch.orders["paris"].since(began))
        check.at_most("order_changes_there", there, "changes", 1)
        stage.expect(paris=("oregon", "tokyo"))
        ended = time.monotonic()
        stage.mesh.switch.round_trip("paris", "oregon", 20)
        back = stage.when("paris", ended, lambda order: order[:1] == ("oregon",), 45)
        check.at_most("order_back", back, "s", 45)
        stage.sleep(3)
        changes = len(stage.watch.orders["paris"].since(ended))
        check.at_most("order_changes_back", changes, "changes", 1)
        check.exactly("downs", downs(stage, began), "times", 0)
        records = stage.load.between(began, time.monotonic())
        if failures(records):
            check.note(causes(records))
        check.exactly("failed", len(failures(records)), "connections", 0)
        stage.judge_orders()


class Bulk:
    """One client in paris that reads as much as it is given."""

    def __init__(self, mesh):
        address = mesh.agents["paris"].resolve(WEB)[0]
        self.stream = mesh.namespaces["paris"].socket(socket.SOCK_STREAM, 10)
        self.stream.connect((address, PORT))
        self.stream.sendall(b"GET /bulk HTTP/1.1\r\nHost: web.shop\r\n\r\n")
        self.octets, self.ended = 0, False
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        with contextlib.suppress(OSError):
            while some := self.stream.recv(65536):
                self.octets += len(some)
        self.ended = True

    def close(self):
        # The reader is inside `recv`, which only this ends.
        with contextlib.suppress(OSError):
            self.stream.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.stream.close()


def n11_narrow_and_full(lab, check):
    """N11: 1 Mbit/s, filled by a bulk transfer: probes and news still pass within 2 s."""
    with Stage(lab, check, rate=1) as stage:
        mesh = stage.mesh
        mesh.namespaces["oregon"].run(
            "tc", "qdisc", "add", "dev", "wan0", "root", "tbf",
            "rate", "1mbit", "burst", "5kb", "limit", "30kb")
        began = time.monotonic()
        bulk = Bulk(mesh)
        stage.sleep(8)
        check.exactly("downs", downs(stage, began), "times", 0)
        oregon = next(c for c in mesh.agents["paris"].explain()["candidates"]
                      if c["cluster"] == "oregon")
        check.at_most("rtt", oregon["rttMs"], "ms", 2000)
        rate = bulk.octets * 8 / (time.monotonic() - began) / 1e6
        check.between("bulk", rate, "Mbit/s", 0.5, 1.1)
        check.exactly("bulk_broken", int(bulk.ended), "times", 0)
        told = time.monotonic()
        mesh.manifests("oregon", ready=False)
        heard = stage.when("paris", told, lambda order: "oregon" not in order, 10)
        check.at_most("news", heard, "s", 2)
        bulk.close()


def n19_flapping(lab, check):
    """N19: 3 s up, 3 s down: out by the third flap, then quiet (36 s; 10 min with --long)."""
    with Stage(lab, check, rate=10) as stage:
        stage.sleep(WARM_UP)
        began = time.monotonic()
        cuts = []
        flaps = 100 if lab.long else 6
        for _ in range(flaps):
            cuts.append(stage.mesh.cut("oregon"))
            stage.sleep(3)
            stage.mesh.heal("oregon")
            stage.sleep(3)
        healed = time.monotonic()
        out = stage.watch.orders["paris"].when(began, lambda order: "oregon" not in order)
        # It is looked for during 36 s: with slack only "never" were late.
        check.at_most("out", out and out - began, "s", 18, slack=1)
        transitions = len(stage.watch.orders["paris"].since(began))
        check.at_most("transitions", transitions, "changes", max(1, round(flaps / 10)))
        back = stage.when("paris", healed, lambda order: order[:1] == ("oregon",), 75)
        check.at_most("back", back, "s", 65 if lab.long else 20)
        in_flight = {r.scheduled for cut in cuts for r in stage.load.open_at(cut)}
        records = [r for r in stage.load.between(began, time.monotonic())
                   if r.scheduled not in in_flight]
        if failures(records):
            check.note(causes(records))
        check.exactly("failed", len(failures(records)), "connections", 0)
