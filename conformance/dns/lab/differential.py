"""Asks an agent and two other servers the same, and holds the answers against each other."""

import argparse
import collections
import json
import multiprocessing
import os
import signal
import sys
import time
from ipaddress import ip_address

import exchange
import registry
import servers
from agent import Agent, Failed, home
from judge import RULES, Case, differences, heard
from queries import Draw
from wire import RCODES, TYPES, Malformed, Message

ZONE = "clusterset.local"
COUNT, LONG_COUNT, SEED = 100_000, 1_000_000, 1
# Asked and judged at a time, by one process; the id of a message is its number here.
CHUNK = 5_000
# Of all questions, over TCP.
TCP_SHARE = 0.06
# Differences shown at the most.
SHOWN = 20
SERVERS = ("knot", "nsd")


class Found:
    """What came of some questions."""

    def __init__(self):
        self.asked, self.alike = collections.Counter(), collections.Counter()
        self.allowed, self.faults, self.fault_count = collections.Counter(), {}, 0

    def add(self, other):
        self.asked += other.asked
        self.alike += other.alike
        self.allowed += other.allowed
        self.fault_count += other.fault_count
        for kind, (count, lines) in other.faults.items():
            known, first = self.faults.get(kind, (0, lines))
            self.faults[kind] = known + count, first

    def fault(self, kind, *lines):
        """Of each kind the first is shown."""
        self.fault_count += 1
        count, first = self.faults.get(kind, (0, lines))
        self.faults[kind] = count + 1, first

    def shown(self):
        """The most frequent first."""
        return [f"{count} x {kind}" + "".join(f"\n    {line}" for line in lines)
                for kind, (count, lines) in sorted(self.faults.items(), key=lambda item: -item[1][0])[:SHOWN]]


class Judge:
    """Knows the zone, and which differences have a name."""

    def __init__(self, dump):
        lines = dump["records"]
        self.names = {record["name"] for record in lines}
        sets = collections.Counter((record["name"], record["type"]) for record in lines)
        self.wide = {name for (name, _), count in sets.items() if count > 1}
        self.count = len(lines)
        self.addresses = frozenset(
            (record["name"].encode(), TYPES[record["type"]], 1, record["ttl"], ip_address(record["data"]).packed)
            for record in lines if record["type"] in ("A", "AAAA"))
        # Names of ours without a record, which a master file cannot tell of.
        self.bare = frozenset(f"{name}.{ZONE}".encode() for name in ("dns", "ns.dns"))

    def one(self, query, answers, found):
        found.asked["TCP" if query.tcp else "UDP"] += 1
        ours, *others = answers
        if ours is None:
            if query.form != "silent":
                found.fault("ours is silent", query.shown(), query.octets.hex())
            return
        if query.form == "silent":
            found.fault("answered, and must not be", query.shown(), query.octets.hex())
            return
        if ours.question and not query.octets[12:].startswith(ours.question):
            found.fault("not the question that came", query.shown(), f"ours {ours.shown()}")
        for server, theirs in zip(SERVERS, others):
            parts = differences(ours, theirs)
            if not parts:
                found.alike[server] += 1
                continue
            case = Case(query, ours, theirs, server, self)
            left = list(parts)
            for rule in RULES:
                if server in rule.servers and any(part in rule.parts for part in left) and rule.holds(case):
                    found.allowed[rule.name, server] += 1
                    left = [part for part in left if part not in rule.parts]
            if left:
                codes = [RCODES.get(one.rcode, one.rcode) if one else "silence" for one in (ours, theirs)]
                found.fault(f"{server}: {', '.join(left)} of {query.form}, EDNS {query.edns}: ours {codes[0]}, "
                            f"theirs {codes[1]}",
                            query.shown(), f"ours {ours.shown()}",
                            f"{server:<4} {theirs.shown() if theirs else 'silent'}", query.octets.hex())


def read(octets, who, query, found):
    if octets is None:
        return None
    try:
        return Message(octets)
    except Malformed as error:
        found.fault(f"{who} sent what cannot be read", query.shown(), str(error), octets.hex())
        return None


def ask_again(queries, who, address, known):
    """Where silence would be a fault: ours never may be silent, the others not about what is sound."""
    for tcp, how in ((False, lambda left: exchange.over_udp([address], left, patient=True)[0]),
                     (True, lambda left: exchange.over_tcp(address, left, patient=True))):
        known.update(how({number: query.octets for number, query in enumerate(queries)
                          if number not in known and query.tcp == tcp and query.form != "silent"
                          and (who == 0 or heard(query))}))


def chunk(judge, queries, addresses):
    """Asks and judges some questions."""
    found = Found()
    answers = [dict() for _ in addresses]
    def ask(tcp, silent, how):
        messages = {number: query.octets for number, query in enumerate(queries)
                    if query.tcp == tcp and (query.form == "silent") == silent}
        for known, got in zip(answers, how(messages)):
            known.update(got)
    ask(False, False, lambda messages: exchange.over_udp(addresses, messages))
    ask(False, True, lambda messages: exchange.over_udp(addresses, messages, times=1))
    ask(True, False, lambda messages: [exchange.over_tcp(address, messages) for address in addresses])
    for who, (address, known) in enumerate(zip(addresses, answers)):
        ask_again(queries, who, address, known)
    for number, query in enumerate(queries):
        got = [known.get(number) for known in answers]
        judge.one(query, [read(octets, who, query, found) for octets, who in zip(got, ("ours", *SERVERS))], found)
    if answers[0].keys() - set(range(len(queries))):
        found.fault("answers to what nobody asked")
    return found


def worker(judge, arguments, number, workers, addresses, results):
    """Every `workers`th chunk; each has a seed of its own, so that it matters not who asks it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    found = Found()
    try:
        for begin in range(number * CHUNK, arguments.count, workers * CHUNK):
            draw = Draw(f"{arguments.seed} {begin}", ZONE, judge.names, judge.wide, TCP_SHARE)
            queries = [draw.one(number) for number in range(min(CHUNK, arguments.count - begin))]
            found.add(chunk(judge, queries, addresses))
        results.put(found)
    except BaseException as error:
        results.put(f"{type(error).__name__}: {error}")
        raise


def ask_all(judge, arguments, addresses):
    fork = multiprocessing.get_context("fork")
    results, workers = fork.SimpleQueue(), max(1, min(4, os.cpu_count() or 1))
    running = [fork.Process(target=worker, args=(judge, arguments, number, workers, addresses, results))
               for number in range(workers)]
    for process in running:
        process.start()
    total = Found()
    try:
        for _ in running:
            while results.empty():
                if dead := [process for process in running if process.exitcode]:
                    raise Failed(f"a worker ended with {dead[0].exitcode}")
                time.sleep(0.05)
            got = results.get()
            if isinstance(got, str):
                raise Failed(got)
            total.add(got)
    finally:
        for process in running:
            process.terminate()
            process.join()
    return total


def steady(agent):
    """The zone, once it no longer moves."""
    before = None
    for _ in range(60):
        now = agent.dump()
        if now == before:
            return now
        before = now
        time.sleep(1)
    raise Failed("the zone still moves after a minute")


def perform(arguments, folder):
    servers.install()
    running = []
    try:
        imports = registry.write(folder / "registry")
        agent = Agent(arguments.binary, folder, registry.CLUSTER, folder / "registry")
        running.append(agent)
        agent.start()
        file = folder / "zone"
        file.write_text(steady(agent))
        judge = Judge(json.loads(agent.dump("json")))
        for number, kind in enumerate((servers.Knot, servers.Nsd), start=2):
            running.append(kind(folder, ZONE, file, number))
            running[-1].start()
        begun = time.monotonic()
        found = ask_all(judge, arguments, [server.dns for server in running])
        if panics := agent.panics():
            found.fault(f"{panics} panics of the agent", agent.log.read_text(errors="replace")[-2000:])
        for server in running:
            if server.process.poll() is not None:
                raise Failed(f"{type(server).__name__} ended while it was asked")
        return found, {"names": len(judge.names), "records": judge.count, "imports": imports,
                       "seconds": time.monotonic() - begun}
    finally:
        for server in running:
            server.end()


def report(found, figures, arguments):
    if arguments.output == "json":
        print(json.dumps({**figures, "asked": dict(found.asked), "alike": dict(found.alike),
                          "allowed": [{"rule": rule, "server": server, "count": count}
                                      for (rule, server), count in sorted(found.allowed.items())],
                          "faults": found.fault_count, "shown": found.shown()}, indent=1))
        return
    print(f"{found.asked['UDP']} questions over UDP and {found.asked['TCP']} over TCP in {figures['seconds']:.0f} s, "
          f"seed {arguments.seed}; {figures['names']} names of {figures['imports']} imports")
    for server in SERVERS:
        print(f"{server:<6} {found.alike[server]:>8} alike in all parts")
    for rule in RULES:
        counts = ", ".join(f"{server} {found.allowed[rule.name, server]}" for server in SERVERS
                           if found.allowed[rule.name, server])
        if counts:
            print(f"allowed  {rule.name}: {counts}")
    for fault in found.shown():
        print(f"FAULT  {fault}")
    print(f"{'ok    ' if not found.fault_count else 'FAILED'} differential: "
          f"{found.fault_count} differences without a name")


def main():
    parser = argparse.ArgumentParser(prog="conformance/dns/differential", description=__doc__)
    parser.add_argument("binary", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, metavar="N", help=f"questions [{COUNT}]")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="of the questions [%(default)s]")
    parser.add_argument("--long", action="store_true", help=f"{LONG_COUNT} questions")
    parser.add_argument("--rules", action="store_true", help="list the differences that are allowed, and why")
    parser.add_argument("--keep", metavar="DIR", help="leave configuration, zone and logs there")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    if arguments.rules:
        for rule in RULES:
            print(f"{rule.name} ({', '.join(rule.servers)}; {', '.join(sorted(rule.parts))})\n    {rule.why}")
        return 0
    arguments.count = arguments.count or (LONG_COUNT if arguments.long else COUNT)
    try:
        with home(arguments.keep, "portolan-differential-") as folder:
            found, figures = perform(arguments, folder)
    except (Failed, OSError) as error:
        print(f"conformance/dns/differential: {error}", file=sys.stderr)
        return 2
    report(found, figures, arguments)
    return 1 if found.fault_count else 0


if __name__ == "__main__":
    sys.exit(main())
