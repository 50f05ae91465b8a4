"""DNS messages as octets: read into what can be compared, and built in every wrong way."""

import struct

TYPES = {"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33,
         "OPT": 41, "DS": 43, "DNSKEY": 48, "SVCB": 64, "HTTPS": 65, "TSIG": 250, "IXFR": 251, "AXFR": 252,
         "MAILB": 253, "MAILA": 254, "ANY": 255, "CAA": 257}
SHOWN_TYPES = {number: name for name, number in TYPES.items()}
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 9: "NOTAUTH",
          16: "BADVERS", 23: "BADCOOKIE"}
HEADER = struct.Struct("!HHHHHH")
FIXED = struct.Struct("!HHIH")
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
OPCODE = 0x7800


class Malformed(Exception):
    """Not a DNS message."""


def name(labels):
    """Labels, each octets, as a name on the wire."""
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def labels(text):
    """A name as people write it, as labels."""
    return [label.encode() for label in text.rstrip(".").split(".") if label]


def record(owner, rtype, rclass, ttl, data):
    return owner + FIXED.pack(rtype, rclass, ttl, len(data)) + data


def query(number, question, *, flags=RD, counts=(1, 0, 0, 0), rest=b""):
    return HEADER.pack(number, flags, *counts) + question + rest


def _name_at(octets, at):
    """A name in lower case, and where what follows begins."""
    parts, after, jumps = [], None, 0
    while True:
        length = octets[at]
        if length == 0:
            return b".".join(parts).lower(), after if after is not None else at + 1
        if length >= 0xC0:
            if after is None:
                after = at + 2
            at = (length & 0x3F) << 8 | octets[at + 1]
            jumps += 1
            if jumps > 127:
                raise Malformed("a loop of pointers")
        elif length > 63:
            raise Malformed(f"a label of {length}")
        else:
            parts.append(octets[at + 1:at + 1 + length])
            at += 1 + length


def _data(octets, rtype, at, length):
    """Data in which names are written out."""
    if rtype in (2, 5, 12):
        return _name_at(octets, at)[0]
    if rtype == 33:
        return octets[at:at + 6] + _name_at(octets, at + 6)[0]
    if rtype == 6:
        server, at = _name_at(octets, at)
        mailbox, at = _name_at(octets, at)
        return server + b" " + mailbox + b" " + octets[at:at + 20]
    return octets[at:at + length]


class Message:
    """An answer: `answer`, `authority` and `additional` are lists of (owner, type, class, TTL, data)."""

    __slots__ = ("octets", "number", "flags", "rcode", "question", "answer", "authority", "additional", "opt",
                 "opts")

    def __init__(self, octets):
        self.octets = octets
        try:
            self._read(octets)
        except (IndexError, struct.error) as error:
            raise Malformed(f"it ends too early: {error}") from error

    def _read(self, octets):
        self.number, self.flags, questions, *counts = HEADER.unpack_from(octets)
        at = 12
        for _ in range(questions):
            at = _name_at(octets, at)[1] + 4
        self.question = octets[12:at]
        if at > len(octets):
            raise Malformed("the question is cut")
        self.opt, self.opts, self.rcode = None, 0, self.flags & 15
        sections = []
        for count in counts:
            section = []
            for _ in range(count):
                owner, at = _name_at(octets, at)
                rtype, rclass, ttl, length = FIXED.unpack_from(octets, at)
                at += 10
                if at + length > len(octets):
                    raise Malformed("a record is cut")
                if rtype == 41:
                    self.opts += 1
                    self.rcode |= ttl >> 24 << 4
                    self.opt = (rclass, ttl >> 16 & 255, ttl & 0xFFFF, octets[at:at + length])
                else:
                    section.append((owner, rtype, rclass, ttl, _data(octets, rtype, at, length)))
                at += length
            sections.append(section)
        if at != len(octets):
            raise Malformed(f"{len(octets) - at} octets after it")
        self.answer, self.authority, self.additional = sections

    def shown(self):
        """One line for people."""
        flags = [flag for flag, bit in (("QR", QR), ("AA", AA), ("TC", TC), ("RD", RD), ("RA", RA), ("Z", 0x40),
                                        ("AD", AD), ("CD", CD)) if self.flags & bit]
        def of(section):
            kinds = {}
            for one in section:
                kind = SHOWN_TYPES.get(one[1], str(one[1]))
                kinds[kind] = kinds.get(kind, 0) + 1
            return "+".join(f"{count} {kind}" for kind, count in kinds.items()) or "-"
        opt = "no OPT" if self.opt is None else "OPT {} v{} {:04x} {}".format(*self.opt[:3], self.opt[3].hex())
        return (f"{RCODES.get(self.rcode, self.rcode)} opcode {(self.flags & OPCODE) >> 11} {' '.join(flags)}; "
                f"question {len(self.question)} octets; {of(self.answer)} / {of(self.authority)} / "
                f"{of(self.additional)}; {opt}; {len(self.octets)} octets")
