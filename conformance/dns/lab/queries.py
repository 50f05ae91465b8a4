"""Questions of every kind about one zone: sound, nearly sound, and broken on purpose.

Each draw is independent of the others, so that oddities meet: a later EDNS version in a query of
another operation for a name that nearly exists. One seed makes one sequence.
"""

import random

import wire
from wire import TYPES

# What is drawn, by weight out of all.
KINDS = (("A", 26), ("AAAA", 12), ("SRV", 20), ("TXT", 5), ("SOA", 5), ("NS", 5), ("ANY", 6), ("PTR", 3),
         ("CNAME", 3), ("HTTPS", 2), ("MX", 2), ("DS", 2), ("DNSKEY", 1), ("CAA", 1), ("AXFR", 1), ("IXFR", 1),
         ("OPT", 0.5), ("TSIG", 0.5), ("MAILB", 0.3), ("MAILA", 0.3), (None, 4))
CLASSES = ((1, 93), (255, 2), (3, 2), (4, 1), (254, 0.5), (0, 0.5), (None, 1))
OPCODES = ((0, 96), (1, 0.6), (2, 0.6), (4, 1), (5, 1), (None, 0.8))
FORMS = (("sound", 89), ("cut", 2), ("trailing", 2), ("no question", 1), ("two questions", 1), ("counts", 1.5),
         ("pointer", 1.5), ("label", 0.7), ("long", 0.5), ("records", 1), ("silent", 0.8))
EDNS = (("none", 45), ("plain", 33), ("payload", 7), ("flags", 3), ("options", 5), ("version", 3), ("two", 1),
        ("bad option", 1), ("cut", 0.7), ("owner", 0.6), ("place", 0.7))
# Code and data: NSID, client subnet, EXPIRE, cookie, keepalive, padding, chain, none of those.
OPTIONS = ((3, b""), (8, b"\0\1\x18\0\xc0\0\2"), (9, b""), (10, b"cookie-8"), (10, b"cookie-8and-eight"), (11, b""),
           (12, bytes(31)), (13, b"\0"), (65001, b"anything"))
ODD_LABELS = (b"*", b"\0", b"\xff\xfe", b"a.b", b"_", b"-", b"x" * 63, b"_tcp", b"svc", b"local", b" ")


class Query:
    """One message with what it was meant to be."""

    __slots__ = ("octets", "labels", "qtype", "qclass", "opcode", "flags", "form", "edns", "payload", "tcp")

    def shown(self):
        name = b".".join(self.labels).decode("latin1").encode("unicode_escape").decode()
        kind = wire.SHOWN_TYPES.get(self.qtype, self.qtype)
        return (f"{name}. {kind} class {self.qclass} opcode {self.opcode} flags {self.flags:03x}, {self.form}, "
                f"EDNS {self.edns}, {'TCP' if self.tcp else 'UDP'}")


class Draw:
    """The sequence of one seed over the names of one zone; `wide` ones, which have several records of a
    type, are drawn more often."""

    def __init__(self, seed, zone, names, wide, tcp_share):
        self.random = random.Random(seed)
        self.zone, self.tcp_share = wire.labels(zone), tcp_share
        self.names = [wire.labels(name) for name in sorted(names)]
        self.wide = [wire.labels(name) for name in sorted(wide)]
        self.special = [wire.labels(name) for name in (
            "", "local", f"x{zone}", f"{zone}.org", f"svc.{zone}", f"dns.{zone}", f"ns.dns.{zone}", f"x.ns.dns.{zone}",
            f"dns-version.{zone}", f"x.dns-version.{zone}", f"pod.{zone}", zone, "1.0.64.10.in-addr.arpa",
            f"1.0.64.10.in-addr.arpa.{zone}", "web.shop.svc.cluster.local", "version.bind", "id.server", "example.org")]

    def _pick(self, weighted):
        values, weights = zip(*weighted)
        return self.random.choices(values, weights)[0]

    def one(self, number):
        """The next query, with this id."""
        query, draw = Query(), self.random
        query.labels = self._name()
        kind = self._pick(KINDS)
        query.qtype = draw.randrange(65536) if kind is None else TYPES[kind]
        chosen = self._pick(CLASSES)
        query.qclass = draw.randrange(65536) if chosen is None else chosen
        chosen = self._pick(OPCODES)
        query.opcode = draw.randrange(16) if chosen is None else chosen
        query.form, query.edns = self._pick(FORMS), self._pick(EDNS)
        query.tcp = draw.random() < self.tcp_share and query.form != "silent"
        odd = draw.random() < 0.03
        query.flags = draw.randrange(0x0800) if odd else draw.choice((wire.RD, wire.RD, 0, wire.RD | wire.AD, wire.CD))
        before, after, query.payload = self._edns(query.edns)
        query.octets = self._message(number, query.flags | query.opcode << 11, query, before, after)
        return query

    def _name(self):
        draw = self.random
        known = draw.choice(draw.choices((self.names, self.wide, self.special), (6, 2, 1))[0])
        labels = list(known)
        if draw.random() < 0.45:
            labels = self._nearly(labels)
        if draw.random() < 0.3:
            labels = [bytes(octet ^ 32 if 97 <= octet | 32 <= 122 and draw.random() < 0.5 else octet
                            for octet in label) for label in labels]
        while sum(len(label) + 1 for label in labels) > 254:
            del labels[0]
        return labels

    def _nearly(self, labels):
        draw = self.random
        way = draw.randrange(7)
        at = draw.randrange(len(labels)) if labels else 0
        if way == 0 or not labels:
            return [draw.choice(ODD_LABELS), *labels]
        if way == 1:
            return labels[1:]
        if way == 2:
            return labels[:at] + labels[at + 1:]
        if way == 3:
            label = bytearray(labels[at])
            label[draw.randrange(len(label))] = draw.choice(b"abcxyz019-_.\0\xe9")
            return [*labels[:at], bytes(label), *labels[at + 1:]]
        if way == 4:
            other = draw.choice(self.names)
            return [*other[:1], *labels[1:]]
        if way == 5:
            return [*labels[:at], (labels[at] + b"x")[-63:], *labels[at + 1:]]
        swapped = list(labels)
        other = draw.randrange(len(labels))
        swapped[at], swapped[other] = swapped[other], swapped[at]
        return swapped

    def _edns(self, kind):
        """Records before the additional section, the additional section as (count, octets), the payload."""
        draw = self.random
        payload, ttl, data = draw.choice((1232, 1232, 4096)), 0, b""
        if kind == "none":
            return (0, b""), (0, b""), 512
        if kind == "payload":
            payload = draw.choice((0, 1, 100, 511, 512, 513, 600, 800, 1000, 1231, 1233, 1452, 65535))
        elif kind == "flags":
            ttl = draw.choice((0x8000, 0x8000, 0x4000, draw.randrange(65536), 0x01000000))
        elif kind == "options":
            chosen = draw.sample(OPTIONS, draw.randint(1, 3))
            data = b"".join(code.to_bytes(2, "big") + len(what).to_bytes(2, "big") + what for code, what in chosen)
        elif kind == "version":
            ttl = draw.choice((1, 1, 2, 255)) << 16 | draw.choice((0, 0x8000))
        elif kind == "bad option":
            data = draw.choice((b"\0", b"\0\3", b"\0\3\0", b"\0\3\0\1", b"\0\3\0\0\7", b"\xfd\xe9\0\x20abc"))
        opt = wire.record(b"\0", 41, payload, ttl, data)
        if kind == "two":
            return (0, b""), (2, opt + opt), payload
        if kind == "cut":
            return (0, b""), (1, opt[:-2] + b"\0\x09abc"), payload
        if kind == "owner":
            return (0, b""), (1, b"\1x" + opt), payload
        if kind == "place":
            return (1, opt), (0, b""), payload
        return (0, b""), (1, opt), payload

    def _message(self, number, flags, query, before, after):
        draw = self.random
        question = wire.name(query.labels)
        tail = query.qtype.to_bytes(2, "big") + query.qclass.to_bytes(2, "big")
        counts = [1, *((before[0], 0) if draw.random() < 0.5 else (0, before[0])), after[0]]
        rest = before[1] + after[1]
        form = query.form
        if form == "no question":
            return wire.query(number, b"", flags=flags, counts=(0, *counts[1:]), rest=rest)
        if form == "two questions":
            second = draw.choice((question + tail, b"\xc0\x0c" + tail, wire.name(self.zone) + tail))
            counts[0] = 2
            return wire.query(number, question + tail + second, flags=flags, counts=counts, rest=rest)
        if form == "counts":
            counts[draw.randrange(4)] += draw.choice((1, 2, 255, 65000))
        elif form == "pointer":
            question = draw.choice((b"\xc0\x0c", b"\xc0\x00", b"\xff\xff", b"\3web\xc0\x0c", b"\3web\xc0\x10",
                                    question[:-1] + b"\xc0\x0c"))
        elif form == "label":
            question = draw.choice((b"\x40" + bytes(64) + b"\0", b"\x80\0", b"\x41" + b"a" * 65 + question))
        elif form == "long":
            question = (b"\x3f" + b"a" * 63) * 4 + question
        elif form == "records":
            extra = draw.choice((wire.record(b"\xc0\x0c", 1, 1, 5, b"\x0a\0\0\1"),
                                 wire.record(b"\3key\0", 16, 1, 0, b"\1x"),
                                 wire.record(b"\xc0\x0c", 6, 1, 5, b"\0\0" + bytes(20))))
            at = draw.randint(1, 3)
            counts[at] += 1
            rest = extra + rest if at < 3 else rest + extra
        octets = wire.query(number, question + tail, flags=flags, counts=counts, rest=rest)
        if form == "cut":
            return octets[:draw.randrange(12, len(octets))]
        if form == "trailing":
            return octets + draw.choice((b"\0", b"\0" * 12, octets, bytes(draw.randrange(1, 200))))
        if form == "silent":
            if draw.random() < 0.5:
                return octets[:draw.randrange(0, 12)]
            return octets[:2] + bytes([octets[2] | 0x80]) + octets[3:]
        return octets
