"""What of an answer differs from another server's, and which differences are allowed, by name.

The rules on the wire leave room, and the others do not always keep them. Each rule says for which
answers of whom it holds, for what part of it, and why; a difference that no rule names is a fault.
"""

import dataclasses
import typing

from wire import AA, AD, CD, OPCODE, QR, RA, RD, TC, TYPES

FLAGS = {"QR": QR, "AA": AA, "TC": TC, "RD": RD, "RA": RA, "Z": 0x40, "AD": AD, "CD": CD, "opcode": OPCODE}
BROKEN_FORMS = {"cut", "trailing", "no question", "two questions", "counts", "pointer", "label", "long"}
BROKEN_EDNS = {"two", "bad option", "cut", "owner", "place"}
NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED, NOTAUTH, BADVERS = 0, 1, 3, 4, 5, 9, 16
ADDRESSES = {TYPES["A"], TYPES["AAAA"]}
TRANSFERS = {TYPES["AXFR"], TYPES["IXFR"]}
# Addresses in an answer over UDP.
MOST_ADDRESSES = 16


def differences(ours, theirs):
    """The parts that differ, by name."""
    if (ours is None) != (theirs is None):
        return ["silence"]
    if ours is None:
        return []
    found = [] if ours.rcode == theirs.rcode else ["rcode"]
    if changed := (ours.flags ^ theirs.flags) & 0xFFF0:
        found += [flag for flag, bits in FLAGS.items() if changed & bits]
    if ours.question != theirs.question:
        found.append("question")
    for section in ("answer", "authority", "additional"):
        one, other = getattr(ours, section), getattr(theirs, section)
        if one != other and (len(one) != len(other) or set(one) != set(other)):
            found.append(section)
    if (ours.opt is None) != (theirs.opt is None):
        found.append("OPT")
    elif ours.opt is not None:
        found += [part for part, one, other in zip(("payload", "version", "EDNS flags", "options"),
                                                   ours.opt, theirs.opt) if one != other]
    return found


def broken(query):
    return query.form in BROKEN_FORMS or query.edns in BROKEN_EDNS


def odd(query):
    """Bits of an answer in a question: TC, AA, RA, Z, or a code."""
    return query.flags & 0x06CF


def heard(query):
    """Nobody is silent about such a query."""
    return not (query.form in ("records", "silent") or query.opcode or broken(query) or odd(query))


@dataclasses.dataclass
class Case:
    """One question with our answer and another server's."""

    query: object
    ours: object
    theirs: object
    server: str
    zone: object

    @property
    def broken(self):
        return broken(self.query)

    @property
    def name(self):
        return b".".join(self.query.labels).lower()

    @property
    def bare(self):
        return self.zone.bare

    def addresses(self):
        return self.zone.addresses

    def fault_named(self):
        """Ours names what is wrong with it, as the rules demand."""
        return self.ours is not None and self.ours.rcode == (NOTIMP if self.query.opcode else FORMERR)

    def both(self, rcode):
        return self.ours.rcode == self.theirs.rcode == rcode


@dataclasses.dataclass(frozen=True)
class Rule:
    name: str
    parts: frozenset
    why: str
    holds: typing.Callable
    servers: tuple = ("knot", "nsd")


def rule(name, parts, why, holds, servers=("knot", "nsd")):
    return Rule(name, frozenset(parts.split(",")), why, holds, servers)


def without(options, codes):
    """Options but those."""
    kept = b""
    while len(options) >= 4:
        end = 4 + int.from_bytes(options[2:4], "big")
        if int.from_bytes(options[:2], "big") not in codes:
            kept += options[:end]
        options = options[end:]
    return kept


# Of an answer that has come.
EVERYTHING = ("rcode,AA,RD,AD,CD,TC,opcode,Z,RA,question,answer,authority,additional,OPT,payload,version,EDNS flags,"
              "options")

def _elsewhere(case):
    """No zone here: outside, or of another class."""
    return case.ours.rcode == REFUSED


def _part_of(case):
    """Ours has some of what theirs has."""
    return set(case.ours.answer) <= set(case.theirs.answer)


# Of each rule: whose answers, which parts, why, and when.
RULES = (
    rule("broken: silence", "silence",
         "a broken message that has a header is answered here (never silence); they drop some of those",
         lambda case: case.broken and case.theirs is None and case.fault_named()),
    rule("broken: bare header", "question,OPT,RD,CD",
         "they answer FORMERR with less: without the question, or without an OPT although RFC 6891 (7) wants one; "
         "NSD leaves RD out or copies CD",
         lambda case: case.broken and case.fault_named() and case.theirs.rcode in (FORMERR, NOTIMP)
         and (case.theirs.opt is None or case.ours.opt is not None)),
    rule("broken: tolerated", EVERYTHING,
         "octets after the message, no or two questions, an OPT with an owner or in another section: FORMERR here "
         "(RFC 9619, RFC 6891); each of them overlooks some of that",
         lambda case: case.broken and case.fault_named() and case.theirs.rcode != case.ours.rcode),
    rule("operation", "silence,rcode,question,OPT,options,EDNS flags,AA,CD,authority",
         "of operations there is QUERY alone, all others are NOTIMP whatever they hold; NOTIFY and UPDATE mean "
         "something to the others, and NSD leaves out the question or drops them",
         lambda case: case.query.opcode and case.ours.rcode == NOTIMP),
    rule("transfer", "rcode,question,OPT,options,AA,authority,answer,additional,TC",
         "nobody is given a transfer: NOTIMP here, of another class REFUSED; NOTAUTH, NOTIMP, REFUSED, FORMERR or a "
         "single SOA there",
         lambda case: case.query.qtype in TRANSFERS and case.ours.rcode in (NOTIMP, REFUSED) and not case.ours.answer
         and case.theirs is not None and len(case.theirs.answer) <= 1),
    rule("bare names", "rcode,authority",
         "dns.<zone> and ns.dns.<zone> exist without a record, which a master file cannot hold",
         lambda case: case.name in case.bare and case.ours.rcode == NOERROR and case.theirs.rcode == NXDOMAIN
         and set(case.ours.authority) == set(case.theirs.authority)),
    rule("NS in authority", "authority",
         "answers here are minimal: no NS beside an answer",
         lambda case: case.both(NOERROR) and case.ours.answer and not case.ours.authority
         and all(record[1] == TYPES["NS"] for record in case.theirs.authority), ("nsd",)),
    rule("addresses beside SRV", "additional",
         "the target's addresses are a courtesy (RFC 2782): once each here, as many as fit; each is one of the zone",
         lambda case: case.both(NOERROR) and {record[1] for record in case.ours.answer} <= {TYPES["SRV"]}
         and set(case.ours.additional) <= case.addresses()),
    rule("extended error", "options",
         "they say why they refuse (RFC 8914)",
         lambda case: _elsewhere(case) and case.theirs.opt[3] != b"" and without(case.theirs.opt[3], {15}) == b""),
    rule("options understood", "options",
         "options in a question are ignored here; they answer NSID, EXPIRE and others",
         lambda case: case.query.edns == "options" and case.ours.opt[3] == b""),
    rule("no question of another class", "question",
         "NSD leaves out the question of what it refuses",
         lambda case: case.both(REFUSED) and not case.theirs.question and case.query.qclass != 1, ("nsd",)),
    rule("class ANY", "AA,authority,rcode,answer,additional",
         "class ANY is answered as IN; NSD does so without authority, and Knot as another class",
         lambda case: case.query.qclass == 255 and not case.theirs.flags & AA
         and (not case.theirs.answer or _part_of(case))),
    rule("CHAOS", "rcode,AA,question,answer,options",
         "nothing is told of the server itself: class CH is REFUSED here, whatever is asked",
         lambda case: case.query.qclass == 3 and case.ours.rcode == REFUSED
         and case.theirs.rcode in (NOERROR, NXDOMAIN)),
    rule("odd flags copied", "AA,TC,RA,Z",
         "NSD's errors have flags of the question that mean nothing there",
         lambda case: odd(case.query) and case.ours.rcode in (NOTIMP, BADVERS), ("nsd",)),
    rule("version: flags", "CD,EDNS flags",
         "BADVERS copies DO and clears CD here as any other answer does; NSD does neither",
         lambda case: case.both(BADVERS), ("nsd",)),
    rule("payload below 512", "rcode,AA,authority,answer,additional,OPT,question,TC",
         "it counts as 512 (RFC 6891, 6.2.3); Knot calls it malformed",
         lambda case: case.query.edns == "payload" and case.query.payload < 512 and case.theirs.rcode == FORMERR,
         ("knot",)),
    rule("odd flags", EVERYTHING + ",silence",
         "flags that mean nothing in a question are ignored; NSD drops or refuses some of those",
         lambda case: odd(case.query) and (case.theirs is None or case.theirs.rcode == FORMERR), ("nsd",)),
    rule("records in a question", EVERYTHING + ",silence",
         "records beside the question are skipped; they drop or refuse some of those",
         lambda case: case.query.form == "records"
         and (case.theirs is None or case.theirs.rcode in (FORMERR, NOTAUTH))),
    rule("ANY: one set", "answer,authority,additional,TC",
         "type ANY gets one set of records (RFC 8482), over UDP in at most four times the question's octets; it is "
         "not always Knot's one",
         lambda case: case.query.qtype == TYPES["ANY"] and case.both(NOERROR)
         and len({record[1] for record in case.ours.answer}) <= 1
         and (_part_of(case) or case.theirs.flags & TC
              or not {record[1] for record in case.ours.answer} & {record[1] for record in case.theirs.answer})),
    rule("16 addresses", "answer,TC,authority",
         "over UDP at most 16 addresses, any of a name that may be rotated; a headless one says with TC that there "
         "are more",
         lambda case: not case.query.tcp and case.query.qtype in ADDRESSES and case.both(NOERROR)
         and len(case.ours.answer) == MOST_ADDRESSES and (_part_of(case) or case.theirs.flags & TC)),
)
