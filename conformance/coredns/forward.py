"""Two replicas, CoreDNS in front of them, and what comes out at its end."""

import argparse
import contextlib
import json
import pathlib
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "dns/lab"), str(HERE.parent / "kube/lab")]
import build  # noqa: E402
from agent import BLOCK, DNS_PORT, Agent, Failed, home, service, slice_of, until  # noqa: E402
from wire import AA, TC, TYPES, Malformed, Message, labels, name, query, record  # noqa: E402

ZONE = "clusterset.local"
HOST = f"{BLOCK}.20"
# Without a cache; with one; with one whose least lifetime is a second.
PLAIN, CACHED, QUICK, METRICS = 5300, 5301, 5302, 9153
# Shorter than what CoreDNS's cache keeps at least, which is longer than that, in seconds.
SHORT, LEAST, LONG = 2, 5, 30
WEB = f"web.shop.svc.{ZONE}"
PODS = 60
MANY = f"db.data.svc.{ZONE}"
# Of the load: queries a second, and how long one may take, as a pod's resolver waits.
RATE = 400
ANSWER_WITHIN = 5.0
COREFILE = """
{zone}:{port} {{
    bind {host}
    errors
    prometheus {host}:{metrics}
    {cache}
    forward . {upstreams} {{
        max_fails 2
        health_check 0.5s
    }}
}}
"""
CHECKS = {}


def check(function):
    CHECKS[function.__name__.replace("_", "-")] = function
    return function


class Wrong(Exception):
    """A check did not hold."""


def expect(held, why):
    if not held:
        raise Wrong(why)


def asked(server, qname, kind, *, tcp=False, number=7, edns=None):
    """One question, one answer."""
    rest = record(b"\0", TYPES["OPT"], edns, 0, b"") if edns else b""
    octets = query(number, name(labels(qname)) + TYPES[kind].to_bytes(2, "big") + b"\0\1",
                   counts=(1, 0, 0, 1 if edns else 0), rest=rest)
    try:
        if not tcp:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
                asker.settimeout(ANSWER_WITHIN)
                asker.connect(server)
                asker.send(octets)
                return Message(asker.recv(65535))
        with socket.create_connection(server, timeout=ANSWER_WITHIN) as asker:
            asker.sendall(len(octets).to_bytes(2, "big") + octets)
            with asker.makefile("rb") as answer:
                return Message(answer.read(int.from_bytes(answer.read(2), "big")))
    except (OSError, Malformed) as error:
        raise Wrong(f"{qname} {kind}: {error}") from error


def figures(url):
    """Prometheus' text as {name{labels}: number}."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and line[0] != "#"}


def total(seen, metric, **wanted):
    fits = [value for key, value in seen.items() if re.match(rf"{metric}(\{{|$)", key)
            and all(f'{label}="{text}"' in key for label, text in wanted.items())]
    return sum(fits)


class Stage:
    """What runs: two replicas over one registry, and CoreDNS."""

    def __init__(self, binary, coredns, folder):
        registry = folder / "registry"
        registry.mkdir()
        objects = service("shop", "web", families=("IPv4", "IPv6"))
        objects.append(slice_of("shop", "web", "1", [("10.1.0.1", None)]))
        objects += service("data", "db", headless=True)
        objects.append(slice_of("data", "db", "1", [(f"10.2.0.{n + 1}", f"db-{n}") for n in range(PODS)]))
        (registry / "all.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        self.replicas = [Agent(binary, folder, "paris", registry, number, f"{LEAST}s") for number in (1, 2)]
        upstreams = " ".join(f"{replica.host}:{DNS_PORT}" for replica in self.replicas)
        caches = ((PLAIN, ""), (CACHED, "cache"),
                  (QUICK, "cache {\n        success 9984 3600 1\n        denial 9984 1800 1\n    }"))
        self.corefile = folder / "Corefile"
        self.corefile.write_text("".join(
            COREFILE.format(zone=ZONE, port=port, host=HOST, metrics=METRICS, cache=cache, upstreams=upstreams)
            for port, cache in caches))
        self.coredns, self.log, self.process = coredns, folder / "coredns.log", None

    def start(self):
        for replica in self.replicas:
            replica.start()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([self.coredns, "-conf", str(self.corefile)], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        until("CoreDNS answers", self._answers)

    def _answers(self):
        if self.process.poll() is not None:
            raise Failed(f"CoreDNS ended: {self.log.read_text(errors='replace')[-2000:]}")
        with contextlib.suppress(Wrong):
            return all(asked((HOST, port), ZONE, "SOA").answer for port in (PLAIN, CACHED, QUICK))

    def end(self):
        for process in [self.process, *(replica.process for replica in self.replicas)]:
            if process and process.poll() is None:
                process.kill()
                process.wait()

    def counted(self):
        return figures(f"http://{HOST}:{METRICS}/metrics")

    def reached(self):
        """What each replica answered so far."""
        return [total(figures(f"http://{replica.admin}/metrics"), "portolan_dns_queries_total")
                for replica in self.replicas]

    def lifetime(self, seconds):
        """Changes dns.ttl of both while they run."""
        for replica in self.replicas:
            config = json.loads(replica.config.read_text())
            config["dns"]["ttl"] = f"{seconds}s"
            replica.config.write_text(json.dumps(config))
        for replica in self.replicas:
            until(f"dns.ttl {seconds}s", lambda at=replica: asked(at.dns, WEB, "A").answer[0][3] == seconds)

    def both_serve(self):
        """CoreDNS asks both again: those that failed passed its health check."""
        before = self.reached()
        def seen():
            asked((HOST, PLAIN), WEB, "A")
            return all(now > then for now, then in zip(self.reached(), before))
        until("both replicas are asked", seen, within=10)


def alike(stage, tcp):
    """What comes through is what a replica says itself."""
    rows = ((WEB, "A"), (WEB, "AAAA"), (WEB, "SRV"), (f"_http._tcp.{WEB}", "SRV"), (WEB.upper(), "A"), (WEB, "TXT"),
            (f"none.shop.svc.{ZONE}", "A"), (f"none.shop.svc.{ZONE}", "AAAA"), (f"shop.svc.{ZONE}", "A"),
            (f"db-7.paris.{MANY}", "A"), (ZONE, "SOA"), (ZONE, "NS"), (f"dns-version.{ZONE}", "TXT"))
    for qname, kind in rows:
        for edns in (None, 1232):
            # Of one of them whole: their serials differ, since each begins with its start.
            owns = [asked(replica.dns, qname, kind, tcp=tcp, edns=edns) for replica in stage.replicas]
            own = owns[0]
            got = asked((HOST, PLAIN), qname, kind, tcp=tcp, edns=edns)
            expect((got.rcode, got.flags, got.question) == (own.rcode, own.flags, own.question),
                   f"{qname} {kind}: {got.shown()}, not {own.shown()}")
            for part in ("answer", "authority", "additional"):
                expect(set(getattr(got, part)) in [set(getattr(one, part)) for one in owns],
                       f"{qname} {kind}: another {part}")
            expect((got.opt is None) == (own.opt is None), f"{qname} {kind}: {got.shown()}")
    return f"{len(rows)} questions, with and without EDNS: A, AAAA, SRV, no data, no name, SOA, NS, TXT"


@check
def udp(stage):
    """Over UDP a client hears from CoreDNS what a replica says."""
    return alike(stage, tcp=False)


@check
def tcp(stage):
    """Over TCP likewise."""
    return alike(stage, tcp=True)


@check
def truncated(stage):
    """An answer that does not fit says so; over TCP, which CoreDNS passes on as TCP, it is whole."""
    for edns in (None, 1232, 4096):
        for qname, kind, over_udp in ((MANY, "A", 16), (MANY, "SRV", 0)):
            cut = asked((HOST, PLAIN), qname, kind, edns=edns)
            expect(cut.flags & TC and cut.flags & AA and len(cut.octets) <= 1232, f"{kind}, EDNS {edns}: {cut.shown()}")
            expect(len(cut.answer) == over_udp, f"{kind}, EDNS {edns}: {cut.shown()}")
            whole = asked((HOST, PLAIN), qname, kind, tcp=True, edns=edns)
            expect(not whole.flags & TC and len(whole.answer) == PODS, f"{kind} over TCP: {whole.shown()}")
    return f"A and SRV of {PODS} pods: TC over UDP, all over TCP"


def load(server, seconds, act):
    """Asks RATE times a second and never twice; `act` is done after a third of the time. How many were
    asked, how many had no answer in time, how many a wrong one, and the slowest in seconds."""
    waiting, wrong, slowest, asked_for, acted = {}, 0, 0.0, 0, False
    question = name(labels(WEB)) + b"\0\1\0\1"
    begun = time.monotonic()
    lost = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect(server)
        asker.setblocking(False)
        while True:
            now = time.monotonic()
            if now - begun > seconds / 3 and not acted:
                acted = True
                act()
            while asked_for < min(RATE * (time.monotonic() - begun), RATE * seconds):
                asker.send(query(asked_for & 0xFFFF, question))
                waiting[asked_for & 0xFFFF] = time.monotonic()
                asked_for += 1
            for late in [number for number, sent in waiting.items() if now - sent > ANSWER_WITHIN]:
                del waiting[late]
                lost += 1
            if asked_for >= RATE * seconds and not waiting:
                return asked_for, lost, wrong, slowest
            select.select([asker], [], [], 0.002)
            with contextlib.suppress(BlockingIOError):
                while True:
                    got = Message(asker.recv(4096))
                    sent = waiting.pop(got.number, None)
                    if sent is None:
                        continue
                    slowest = max(slowest, time.monotonic() - sent)
                    wrong += got.rcode != 0 or len(got.answer) != 1


@check
def healthy(stage):
    """Under load nothing fails: no health check, no answer of another code, and both replicas are asked."""
    before, reached = stage.counted(), stage.reached()
    count, lost, wrong, slowest = load((HOST, PLAIN), 3, lambda: None)
    expect(lost == wrong == 0, f"of {count} queries {lost} lost, {wrong} wrong")
    seen = stage.counted()
    for metric in ("coredns_proxy_healthcheck_failures_total", "coredns_forward_healthcheck_broken_total",
                   "coredns_forward_max_concurrent_rejects_total"):
        expect(total(seen, metric) == 0, f"{metric} is {total(seen, metric):g}")
    gained = total(seen, "coredns_proxy_request_duration_seconds_count", rcode="NOERROR") - \
        total(before, "coredns_proxy_request_duration_seconds_count", rcode="NOERROR")
    expect(gained >= count, f"CoreDNS counted {gained:g} answers of {count}")
    shares = [now - then for now, then in zip(stage.reached(), reached)]
    expect(min(shares) > count / 4, f"the replicas were asked {shares}")
    return (f"{count} queries at {RATE} a second, 0 lost, slowest {1000 * slowest:.0f} ms; "
            f"no failed health check; replicas {shares[0]:.0f} and {shares[1]:.0f}")


def ends(stage, number, seconds):
    """Ends the second replica under load; and once it is back, CoreDNS finds it alive."""
    replica = stage.replicas[1]
    stage.both_serve()
    before = total(stage.counted(), "coredns_proxy_healthcheck_failures_total")
    count, lost, wrong, slowest = load((HOST, PLAIN), seconds, lambda: replica.signal(number))
    until("it ended", lambda: replica.process.poll() is not None)
    expect(lost == wrong == 0, f"of {count} queries {lost} lost, {wrong} wrong")
    failures = total(stage.counted(), "coredns_proxy_healthcheck_failures_total") - before
    expect(failures > 0, "CoreDNS did not notice")
    replica.start()
    stage.both_serve()
    before = total(stage.counted(), "coredns_proxy_healthcheck_failures_total")
    time.sleep(1.2)
    after = total(stage.counted(), "coredns_proxy_healthcheck_failures_total")
    expect(after == before, f"{after - before:g} health checks failed after its return")
    return (f"{count} queries at {RATE} a second, 0 lost, slowest {1000 * slowest:.0f} ms; "
            f"{failures:g} failed health checks while it was away, alive again after")


@check
def killed(stage):
    """SIGKILL to one of two replicas under load loses no query."""
    return ends(stage, signal.SIGKILL, 6)


@check
def ended(stage):
    """SIGTERM likewise; the load outlasts the time for which it still answers."""
    return ends(stage, signal.SIGTERM, 12)


def lifetimes(port):
    """TTL of an answer, and of the SOA of a negative one."""
    return (asked((HOST, port), WEB, "A").answer[0][3],
            asked((HOST, port), f"none-{port}-{time.monotonic_ns()}.{ZONE}", "A").authority[0][3])


@check
def cache(stage):
    """Its cache keeps the TTL, but for at least 5 s; less where it is told so."""
    found = []
    try:
        for ttl in (LEAST, SHORT, LONG):
            stage.lifetime(ttl)
            # Until what an earlier lifetime left in the caches is gone.
            time.sleep(LEAST + 1)
            seen = {port: lifetimes(port) for port in (PLAIN, CACHED, QUICK)}
            wanted = {PLAIN: (ttl, ttl), CACHED: (max(ttl, LEAST),) * 2, QUICK: (ttl, ttl)}
            expect(seen == wanted, f"dns.ttl {ttl}s: {seen}, not {wanted}")
            found.append(f"dns.ttl {ttl} s: {seen[PLAIN][0]} without, {seen[CACHED][0]} with cache, "
                         f"{seen[QUICK][0]} with a least of 1 s")
        before = stage.reached()
        hits = total(stage.counted(), "coredns_cache_hits_total")
        time.sleep(1.1)
        aged = asked((HOST, CACHED), WEB, "A").answer[0][3]
        expect(LONG - 4 <= aged < LONG, f"TTL {aged} a second later")
        expect(stage.reached() == before, "a cached question was asked again")
        expect(total(stage.counted(), "coredns_cache_hits_total") > hits, "no hit was counted")
        found.append(f"counts down ({aged} a second later) without asking")
    finally:
        stage.lifetime(LEAST)
    return "; ".join(found)


def perform(arguments, folder):
    stage = Stage(arguments.binary, build.coredns(), folder)
    results = []
    try:
        stage.start()
        for title, function in CHECKS.items():
            if arguments.only and title not in arguments.only:
                continue
            try:
                ok, said = True, function(stage)
            except (Wrong, Failed) as wrong:
                ok, said = False, str(wrong)
            results.append({"name": title, "ok": ok, "said": said})
            if arguments.output == "text":
                print(f"{'ok    ' if ok else 'FAILED'} {title}: {said}", flush=True)
    finally:
        stage.end()
    return results


def main():
    parser = argparse.ArgumentParser(prog="conformance/coredns/run", description=__doc__)
    parser.add_argument("binary", help=argparse.SUPPRESS)
    parser.add_argument("--only", action="append", metavar="NAME", choices=CHECKS, help="this check (repeat)")
    parser.add_argument("--list", action="store_true", help="name the checks")
    parser.add_argument("--keep", metavar="DIR", help="leave configuration and logs there")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    if arguments.list:
        for title, function in CHECKS.items():
            print(f"{title:<10} {(function.__doc__ or '').strip()}")
        return 0
    try:
        with home(arguments.keep, "portolan-coredns-") as folder:
            results = perform(arguments, folder)
    except (Failed, build.Failed, OSError) as error:
        print(f"conformance/coredns: {error}", file=sys.stderr)
        return 2
    if arguments.output == "json":
        print(json.dumps({"checks": results}, indent=1))
    return 0 if all(result["ok"] for result in results) else 1


sys.exit(main())
