"""A mesh with a load and a watcher, brought to the state in which a scenario begins."""

import ipaddress
import time

from mesh import Mesh
from plan import CLOUDS, network
from watch import (
    Load, Watch, causes, failures, first_bytes, order, percentile, share, unexpected)

# The orders while paris has pods of its own, while it has none, and without oregon.
FULL = {"paris": ("paris", "oregon", "tokyo"), "oregon": ("oregon", "paris", "tokyo"),
        "tokyo": ("tokyo", "oregon", "paris")}
REMOTE = {"paris": ("oregon", "tokyo"), "oregon": ("oregon", "tokyo"),
          "tokyo": ("tokyo", "oregon")}

# The figures of design.md §1 and §4, in seconds.
P99, SLOWEST, FORGOTTEN = 0.7, 1.5, 4.5
BACK, BACK_WITHIN = 5.0, 10.0
JUDGED = 20.0


class Stage:
    """Used as a context: everything it made is gone at its end."""

    def __init__(self, lab, check, rate=50, pods_in_paris=False, replicas=None, load=True):
        self.check, self.lab = check, lab
        self.orders = FULL if pods_in_paris else REMOTE
        self.expected = {cloud: [order] for cloud, order in self.orders.items()}
        without = () if pods_in_paris else ("paris",)
        self.mesh = Mesh(lab.prefix, check.scenario, lab.binary, lab.dir, replicas, without)
        self.watch = self.load = None
        try:
            for cloud, wanted in self.orders.items():
                self.mesh.until(f"{cloud} has the order {wanted}", 15,
                                lambda: self._order(cloud) == wanted)
            self.watch = Watch(self.mesh)
            if load:
                self.load = Load(self.mesh, rate=rate)
        except BaseException:
            self.close()
            raise

    def _order(self, cloud):
        explained = self.mesh.agents[cloud].explain()
        return explained and order(explained)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.watch:
            self.watch.close()
        if self.load:
            self.load.save()
        self.mesh.close()

    def expect(self, **orders):
        """The orders that the scenario is about to cause."""
        for cloud, order in orders.items():
            self.expected[cloud].append(order)

    def sleep(self, seconds):
        """Sleeps, and says so if an agent ends meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.mesh.check()
            time.sleep(min(left, 0.5))

    def when(self, cloud, after, wanted, within):
        """Seconds from `after` until a cloud's order was so; None if it was not."""
        changes = self.watch.orders[cloud]
        while True:
            self.mesh.check()
            at = changes.when(after, wanted)
            if at is not None or time.monotonic() >= after + within:
                return at and at - after
            time.sleep(0.02)

    def judge_before(self, asked, cluster="oregon"):
        """`cluster` answered everything that ended in the 5 s before the cut was asked for.

        What was in flight while the rules were being applied may have met them already.
        """
        in_flight = {r.scheduled for r in self.load.open_at(asked)}
        before = [r for r in self.load.between(asked - 5, asked) if r.scheduled not in in_flight]
        self.check.exactly("answered_before", share(before, cluster), "%", 100)

    def judge_connections(self, cut, seconds=JUDGED, p99=P99, slowest=SLOWEST):
        """The connections scheduled in the 20 s after the cut."""
        records = self.load.between(cut, cut + seconds)
        if failures(records):
            self.check.note(causes(records))
        if seconds == JUDGED:
            self.check.exactly("connections", len(records), "", 1000)
        self.check.exactly("failed", len(failures(records)), "connections", 0)
        took = first_bytes(records)
        self.check.at_most("first_byte_p99", percentile(took, 99), "s", p99)
        self.check.at_most("first_byte_max", percentile(took, 100), "s", slowest)
        return records

    def judge_in_flight(self, cut):
        """What was in flight at the cut has ended."""
        open_then = self.load.open_at(cut)
        if open_then:
            ended = max(record.ended for record in open_then) - cut
            self.check.note(f"{len(open_then)} of the load in flight at the cut, "
                            f"{len(failures(open_then))} of them failed")
            self.check.at_most("in_flight_ended", ended, "s", FORGOTTEN)

    def judge_names(self, cut, gone="oregon"):
        """`explain` and DNS in paris have stopped naming a cluster."""
        explained = self.when("paris", cut, lambda order: gone not in order, JUDGED)
        self.check.at_most("explain_moved", explained, "s", FORGOTTEN)
        there = ipaddress.ip_network(network(gone))

        def elsewhere(answer):
            return answer and not any(ipaddress.ip_address(a) in there for a in answer)

        moved = self.watch.answers.when(cut, elsewhere)
        self.check.at_most("dns_moved", moved and moved - cut, "s", FORGOTTEN)

    def judge_back(self, healed, least=BACK, most=BACK_WITHIN):
        """Oregon comes back by the rules, and answers again."""
        back = self.when("paris", healed, lambda order: order[:1] == ("oregon",), most + 15)
        self.check.between("back", back, "s", least, most)
        if back is not None:
            # It comes back with a tenth of its share: of a thin load the first may take a while.
            end = healed + most + 2
            answered = self.load.first_answer("oregon", healed)
            while answered is None and time.monotonic() < end:
                self.sleep(0.1)
                answered = self.load.first_answer("oregon", healed)
            self.check.between("answers_again", answered and answered - healed, "s",
                               least, most + 2)

    def judge_orders(self, clouds=CLOUDS):
        """No order changed beyond those that the scenario caused."""
        count = 0
        for cloud in clouds:
            seen = [order for _, order in self.watch.orders[cloud].seen]
            beyond = unexpected(seen, self.expected[cloud])
            if beyond:
                self.check.note(f"{cloud} had orders that the script did not cause: {beyond}")
            count += len(beyond)
        self.check.exactly("order_changes_unexpected", count, "changes", 0)
