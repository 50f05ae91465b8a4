//! Writing one answer: the header, the question's octets as they came, records, OPT.

use super::answers::Answers;
use super::encode::{option, record_octets, rtype};
use super::packed::Set;
use super::query::{HEADER_OCTETS, Query};

/// The largest UDP answer we send, and what our OPT says (DNS flag day 2020: no fragments).
pub(super) const MAX_UDP_OCTETS: u16 = 1232;
/// Octets of an OPT record without options.
const OPT_OCTETS: usize = 11;
/// Octets of an option's code and length.
const OPTION_HEAD_OCTETS: usize = 4;
/// Octets of an extended error without a text.
const EXTENDED_ERROR_OCTETS: usize = OPTION_HEAD_OCTETS + 2;
/// Where a client subnet's scope stands in its octets.
const SCOPE_AT: usize = 3;
/// Over UDP an answer holds at most so many addresses.
const MAX_UDP_ADDRESSES: u32 = 16;
/// Bits of the header's third octet: QR, AA, TC.
const RESPONSE: u8 = 0x80;
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
/// What is copied from the query's: opcode and RD.
const COPIED: u8 = 0x79;

/// What an answer says besides the question.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content<'a> {
    /// An error, or what is not ours: nothing.
    Nothing,
    /// Something of the zone, over TCP.
    Elsewhere,
    /// The SOA; the zone's name begins there within the question's.
    Negative(usize),
    /// These.
    Records(Set<'a>),
}

/// How the answer is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope<'d> {
    /// The response code; its high bits go into the OPT.
    pub(super) code: u16,
    /// The TTL of all records, seconds.
    pub(super) ttl: u32,
    /// The most octets.
    pub(super) limit: usize,
    /// Over UDP: there is TCP for what does not fit. Else this is the last word, and of records
    /// that cannot all be sent those that fit are.
    pub(super) datagram: bool,
    /// The client subnet that was heeded, as it came, and so many bits of it the answer is for.
    pub(super) told: Option<(&'d [u8], u8)>,
    /// An extended error (RFC 8914). It is left out rather than anything else.
    pub(super) extended: Option<u16>,
}

/// Writes the answer to `query` into `out`. If answer and authority do not fit whole, TC is set
/// and neither is sent, as Knot and NSD do: a client must not use part of a set of records
/// (RFC 2181, section 9). Where that was the last word (a headless name with thousands of pods
/// over TCP), the nearest that fit are all that anybody can have.
pub(super) fn write(
    query: &Query<'_>,
    content: Content<'_>,
    answers: &Answers,
    envelope: Envelope<'_>,
    out: &mut Vec<u8>,
) {
    out.clear();
    out.extend_from_slice(&[0; HEADER_OCTETS]);
    let mut counts = [0u16; 4];
    if let Some(asked) = &query.asked {
        out.extend_from_slice(asked.octets);
        counts[0] = 1;
    }
    let told = envelope.told.map_or(0, |(octets, _)| OPTION_HEAD_OCTETS + octets.len());
    let reserved = if query.edns.is_some() { OPT_OCTETS + told } else { 0 };
    let limit = envelope.limit.saturating_sub(reserved);
    let end = out.len();
    let mut truncated = false;
    match content {
        Content::Nothing => {}
        Content::Elsewhere => truncated = true,
        Content::Negative(apex) => {
            answers.soa().push(HEADER_OCTETS + apex, envelope.ttl, answers.serial(), out);
            counts[2] = 1;
        }
        Content::Records(set) if set.qtype == rtype::SOA => {
            answers.soa().push(HEADER_OCTETS, envelope.ttl, answers.serial(), out);
            counts[1] = 1;
        }
        Content::Records(set) => {
            let mut records = Records { set, ttl: envelope.ttl, limit, out };
            truncated = records.write(query.id, envelope.datagram, &mut counts);
        }
    }
    if out.len() > limit {
        out.truncate(end);
        counts = [counts[0], 0, 0, 0];
        truncated = true;
    }
    if let Some(edns) = query.edns {
        let room = out.len() + EXTENDED_ERROR_OCTETS <= limit;
        let extended = envelope.extended.filter(|_| room);
        write_opt(Envelope { extended, ..envelope }, edns.dnssec_ok, out);
        counts[3] += 1;
    }
    let mut flags = RESPONSE | query.flags & COPIED;
    if !matches!(content, Content::Nothing) {
        flags |= AUTHORITATIVE;
    }
    if truncated {
        flags |= TRUNCATED;
    }
    out[..2].copy_from_slice(&query.id.to_be_bytes());
    // RA, Z, AD, CD are 0: nothing is recursed and nothing validated (RFC 4035, section 3.1.6).
    out[2..4].copy_from_slice(&[flags, low(envelope.code)]);
    for (at, count) in counts.into_iter().enumerate() {
        out[4 + 2 * at..6 + 2 * at].copy_from_slice(&count.to_be_bytes());
    }
}

/// The four bits of the code that stand in the header.
fn low(code: u16) -> u8 {
    code.to_be_bytes()[1] & 0x0F
}

fn write_opt(envelope: Envelope<'_>, dnssec_ok: bool, out: &mut Vec<u8>) {
    let [payload_high, payload_low] = MAX_UDP_OCTETS.to_be_bytes();
    let [_, opt] = rtype::OPT.to_be_bytes();
    let [_, code_high] = (envelope.code >> 4).to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    let length = envelope.told.map_or(0, |(octets, _)| OPTION_HEAD_OCTETS + octets.len())
        + envelope.extended.map_or(0, |_| EXTENDED_ERROR_OCTETS);
    // At most 30 octets.
    let length = u8::try_from(length).unwrap_or(0);
    out.extend_from_slice(&[
        0,
        0,
        opt,
        payload_high,
        payload_low,
        code_high,
        0,
        flags,
        0,
        0,
        length,
    ]);
    if let Some((octets, scope)) = envelope.told {
        write_option(option::CLIENT_SUBNET, octets, out);
        let at = out.len() - octets.len() + SCOPE_AT;
        out[at] = scope;
    }
    if let Some(error) = envelope.extended {
        write_option(option::EXTENDED_ERROR, &error.to_be_bytes(), out);
    }
}

fn write_option(code: u16, data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(data);
}

/// Copies the records of a set.
struct Records<'a> {
    set: Set<'a>,
    ttl: u32,
    limit: usize,
    out: &'a mut Vec<u8>,
}

impl Records<'_> {
    /// Whether more exists than is given; whoever calls looks at the length.
    ///
    /// Where order carries no meaning the records are rotated by the query's id, which clients
    /// draw at random. Over UDP at most 16 addresses go out. Of an unordered answer 16 are as good
    /// as all; a headless name owes all of its addresses, so there TC sends the client to TCP for
    /// the rest, and one that cannot follow still has the nearest 16.
    fn write(&mut self, id: u16, datagram: bool, counts: &mut [u16; 4]) -> bool {
        let set = self.set;
        let addresses = matches!(set.qtype, rtype::A | rtype::AAAA);
        let most = if addresses && datagram { MAX_UDP_ADDRESSES } else { u32::MAX };
        let most = most.min(set.answer_count);
        let mut rest = set.answers;
        if !set.ordered && set.answer_count > 1 {
            rest = rotated(set, u32::from(id) % set.answer_count);
        }
        for _ in 0..most {
            if rest.is_empty() {
                rest = set.answers;
            }
            let taken = self.record(rest);
            rest = &rest[taken..];
            if self.out.len() > self.limit {
                if datagram || counts[1] == 0 {
                    return true;
                }
                self.out.truncate(self.out.len() - taken);
                break;
            }
            counts[1] += 1;
        }
        if set.ordered && most < set.answer_count {
            return true;
        }
        rest = set.additional;
        for _ in 0..set.additional_count {
            let taken = self.record(rest);
            rest = &rest[taken..];
            if self.out.len() > self.limit {
                self.out.truncate(self.out.len() - taken);
                break;
            }
            counts[3] += 1;
        }
        false
    }

    /// Appends the record at the beginning of `octets` with the TTL in force; its length.
    fn record(&mut self, octets: &[u8]) -> usize {
        let (owner, length) = record_octets(octets);
        let at = self.out.len() + owner + 4;
        self.out.extend_from_slice(&octets[..length]);
        self.out[at..at + 4].copy_from_slice(&self.ttl.to_be_bytes());
        length
    }
}

/// The answer section's octets from its nth record on.
fn rotated(set: Set<'_>, nth: u32) -> &[u8] {
    let mut rest = set.answers;
    // Addresses under the question's name are all equally long.
    let (_, each) = record_octets(rest);
    let nth = usize::try_from(nth).unwrap_or(0);
    if matches!(set.qtype, rtype::A | rtype::AAAA) {
        return rest.get(nth * each..).unwrap_or(rest);
    }
    for _ in 0..nth {
        rest = &rest[record_octets(rest).1..];
    }
    rest
}
