//! Writing an answer: the header, the question's octets as they came, records, OPT.
//!
//! Names are compressed against the question only: owners become a pointer to it (0xC00C), other
//! names share its longest common suffix. SRV targets are written out (RFC 2782).

use hickory_proto::op::{Edns, Header, HeaderCounts, Metadata, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use smallvec::SmallVec;

use super::query::{HEADER_OCTETS, Query};
use crate::zone::{Record, RecordData, ZoneConfig, server_name};

/// The largest UDP answer we send, and what our OPT says (DNS flag day 2020: no fragments).
pub(super) const MAX_UDP_OCTETS: u16 = 1232;
/// Octets of an OPT record without options.
const OPT_OCTETS: usize = 11;
/// A pointer to the question's name, which begins right after the header (RFC 1035, 4.1.4).
const QUESTION_POINTER: u16 = 0xC00C;
/// The two high bits that mark a pointer.
const POINTER: u16 = 0xC000;

/// The SOA's mailbox label; nobody reads it.
const MAILBOX: &str = "hostmaster";
/// SOA refresh, retry and expire in seconds: for secondaries, of which there are none.
const SOA_TIMES: [u32; 3] = [7200, 1800, 86_400];

/// What an answer says besides the question.
#[derive(Debug, Default)]
pub(super) struct Content<'a> {
    /// Set on data of the zone.
    pub(super) authoritative: bool,
    /// Set before anything is written: more exists than is given here.
    pub(super) truncated: bool,
    /// The answer section.
    pub(super) records: SmallVec<[&'a Record; 16]>,
    /// There is no larger answer to send the client to: of the records those that fit are sent.
    pub(super) last_word: bool,
    /// The SOA serial, where the authority section holds one.
    pub(super) authority: Option<u32>,
    /// The additional section; what does not fit is left out without a word.
    pub(super) additional: &'a [Record],
}

/// Writes the answer to `query` into `out`, at most `limit` octets. If answer and authority do not
/// fit whole, TC is set and neither is sent, as Knot and NSD do: a client must not use part of a
/// set of records (RFC 2181, section 9). Where that was the last word (a headless name
/// with thousands of pods over TCP), the nearest that fit are all that anybody can have.
pub(super) fn encode(
    query: &Query<'_>,
    code: ResponseCode,
    content: &Content<'_>,
    zone: &ZoneConfig,
    limit: usize,
    out: &mut Vec<u8>,
) {
    out.clear();
    out.resize(HEADER_OCTETS, 0);
    let mut metadata = Metadata::response_from_request(&query.metadata);
    metadata.response_code = code;
    metadata.authoritative = content.authoritative;
    metadata.truncation = content.truncated;
    // Nothing is validated here (RFC 4035, section 3.1.6).
    metadata.checking_disabled = false;
    let mut counts = HeaderCounts::default();
    if let Some(asked) = &query.asked {
        out.extend_from_slice(asked.octets);
        counts.queries = 1;
    }
    let end = out.len();
    let reserved = if query.edns.is_some() { OPT_OCTETS } else { 0 };
    let mut writer = Writer::new(query, zone, limit.saturating_sub(reserved), out);
    if writer.sections(content, &mut counts).is_none() {
        metadata.truncation = true;
        out.truncate(end);
        counts = HeaderCounts { queries: counts.queries, ..HeaderCounts::default() };
    }
    if let Some(edns) = query.edns {
        counts.additionals += 1;
        write_opt(code, edns.dnssec_ok, out);
    }
    let mut encoder = BinEncoder::with_offset(out, 0);
    Header { metadata, counts }.emit(&mut encoder).expect("twelve octets were set aside");
}

fn write_opt(code: ResponseCode, dnssec_ok: bool, out: &mut Vec<u8>) {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_OCTETS).set_dnssec_ok(dnssec_ok).set_rcode_high(code.high());
    let at = u32::try_from(out.len()).expect("a message is shorter than 64 KiB");
    let mut encoder = BinEncoder::with_offset(out, at);
    edns.emit(&mut encoder).expect("its eleven octets were set aside");
}

/// Appends records, each whole or not at all.
struct Writer<'o> {
    out: &'o mut Vec<u8>,
    limit: usize,
    zone: &'o ZoneConfig,
    /// Where each label of the question's name begins, leftmost first.
    question: SmallVec<[u16; 12]>,
}

impl<'o> Writer<'o> {
    fn new(query: &Query<'_>, zone: &'o ZoneConfig, limit: usize, out: &'o mut Vec<u8>) -> Self {
        let mut question = SmallVec::new();
        let mut at = HEADER_OCTETS;
        for label in query.asked.iter().flat_map(|asked| asked.labels()) {
            question.push(u16::try_from(at).expect("a name ends within 255 octets"));
            at += 1 + label.len();
        }
        Self { out, limit, zone, question }
    }

    /// Answer and authority whole, or `None`; of the additional section what fits.
    fn sections(&mut self, content: &Content<'_>, counts: &mut HeaderCounts) -> Option<()> {
        for record in &content.records {
            if !self.record(record) {
                if content.last_word && counts.answers > 0 {
                    break;
                }
                return None;
            }
            counts.answers += 1;
        }
        if let Some(serial) = content.authority {
            let owner = Some(self.zone.zone.as_str().into());
            let soa = Record { owner, data: RecordData::Soa { serial } };
            self.record(&soa).then_some(())?;
            counts.authorities = 1;
        }
        if !content.truncated {
            let fitting = content.additional.iter().take_while(|record| self.record(record));
            counts.additionals = u16::try_from(fitting.count()).ok()?;
        }
        Some(())
    }

    /// Whether the record fitted.
    fn record(&mut self, record: &Record) -> bool {
        let start = self.out.len();
        match &record.owner {
            Some(owner) => self.name(owner),
            None => self.u16(QUESTION_POINTER),
        }
        self.u16(record_type(&record.data).into());
        self.u16(DNSClass::IN.into());
        self.u32(self.zone.ttl_seconds);
        let length = self.out.len();
        self.u16(0);
        self.data(&record.data);
        let octets = u16::try_from(self.out.len() - length - 2);
        let fits = self.out.len() <= self.limit;
        match octets {
            Ok(octets) if fits => {
                self.out[length..length + 2].copy_from_slice(&octets.to_be_bytes());
                true
            }
            _ => {
                self.out.truncate(start);
                false
            }
        }
    }

    fn data(&mut self, data: &RecordData) {
        match data {
            RecordData::A(address) => self.out.extend_from_slice(&address.octets()),
            RecordData::Aaaa(address) => self.out.extend_from_slice(&address.octets()),
            RecordData::Srv { priority, weight, port, target } => {
                [priority, weight, port].into_iter().for_each(|number| self.u16(*number));
                target.split('.').for_each(|label| self.label(label));
                self.out.push(0);
            }
            RecordData::Txt(text) => {
                let octets = text.as_bytes();
                let length = u8::try_from(octets.len()).unwrap_or(u8::MAX);
                self.out.push(length);
                self.out.extend_from_slice(&octets[..usize::from(length)]);
            }
            RecordData::Soa { serial } => {
                let zone = &self.zone.zone;
                let (server, mailbox) = (server_name(zone), format!("{MAILBOX}.{zone}"));
                self.name(&server);
                self.name(&mailbox);
                self.u32(*serial);
                SOA_TIMES.into_iter().for_each(|seconds| self.u32(seconds));
                self.u32(self.zone.ttl_seconds);
            }
            RecordData::Ns(server) => self.name(server),
        }
    }

    /// A name, its longest suffix in common with the question's written as a pointer.
    fn name(&mut self, name: &str) {
        let labels: SmallVec<[&str; 12]> = name.split('.').collect();
        let pairs = labels.iter().rev().zip(self.question.iter().rev());
        let common = pairs.take_while(|(label, at)| self.has_label(**at, label)).count();
        for label in &labels[..labels.len() - common] {
            self.label(label);
        }
        match common {
            0 => self.out.push(0),
            _ => self.u16(POINTER | self.question[self.question.len() - common]),
        }
    }

    fn has_label(&self, at: u16, label: &str) -> bool {
        let Some((length, rest)) = self.out.get(usize::from(at)..).and_then(<[u8]>::split_first)
        else {
            return false;
        };
        let found = rest.get(..usize::from(*length));
        found.is_some_and(|found| found.eq_ignore_ascii_case(label.as_bytes()))
    }

    fn label(&mut self, label: &str) {
        self.out.push(u8::try_from(label.len()).expect("labels have at most 63 octets"));
        self.out.extend_from_slice(label.as_bytes());
    }

    fn u16(&mut self, number: u16) {
        self.out.extend_from_slice(&number.to_be_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.out.extend_from_slice(&number.to_be_bytes());
    }
}

fn record_type(data: &RecordData) -> RecordType {
    match data {
        RecordData::A(_) => RecordType::A,
        RecordData::Aaaa(_) => RecordType::AAAA,
        RecordData::Srv { .. } => RecordType::SRV,
        RecordData::Txt(_) => RecordType::TXT,
        RecordData::Soa { .. } => RecordType::SOA,
        RecordData::Ns(_) => RecordType::NS,
    }
}
