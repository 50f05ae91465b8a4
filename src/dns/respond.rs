//! One message in, one message out: everything between the socket and the zone.
//!
//! Pure but for the limiter, so that every rule on the wire is tested on raw octets.

use std::net::IpAddr;
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, RecordType};
use ipnet::IpNet;
use smallvec::SmallVec;

use super::encode::{Content, MAX_UDP_OCTETS, encode};
use super::limit::Limiter;
use super::query::{Asked, Fault, Query};
use crate::model::canonical;
use crate::routes::RouteTable;
use crate::zone::{Answer, Outcome, RecordData, ZoneConfig, answer};

/// The UDP limit of a client without EDNS, and the least anyone can ask for (RFC 6891, 6.2.3).
const MIN_UDP_OCTETS: u16 = 512;
/// Over UDP an answer holds at most so many addresses.
const MAX_UDP_ADDRESSES: usize = 16;
/// An answer to ANY over UDP has at most so many times the question's octets.
const MAX_ANY_AMPLIFICATION: usize = 4;

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// In one datagram.
    Udp,
    /// In one frame of a connection (without its length).
    Tcp,
}

/// One message as it came.
#[derive(Debug, Clone, Copy)]
pub struct Received<'d> {
    /// Its octets.
    pub message: &'d [u8],
    /// How it came.
    pub transport: Transport,
    /// From whom.
    pub source: IpAddr,
    /// When.
    pub now: Instant,
}

/// Who is answered, and with which zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The zone.
    pub zone: ZoneConfig,
    /// Sources that may ask; empty is everybody.
    pub allow: Vec<IpNet>,
    /// Sources outside the private ranges that are known resolvers and are never limited.
    pub forwarders: Vec<IpNet>,
}

/// What was asked and how it ended, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Responded {
    /// The type asked for, where a question could be read.
    pub qtype: Option<u16>,
    /// The response code.
    pub code: ResponseCode,
}

/// Writes the answer to one message into `out` (cleared first). `None` leaves it empty: the
/// message gets no answer. Without a limiter nobody is limited: over TCP the source is proven.
pub fn respond(
    received: Received<'_>,
    policy: &Policy,
    table: &RouteTable,
    limiter: Option<&mut Limiter>,
    out: &mut Vec<u8>,
) -> Option<Responded> {
    out.clear();
    let query = Query::read(received.message)?;
    let source = canonical(received.source);
    let (code, answer) = match judge(&query, &policy.allow, source) {
        Ok(asked) => {
            let answer = answer(table, &policy.zone, &asked.question());
            (response_code(answer.outcome), Some(answer))
        }
        Err(code) => (code, None),
    };
    let mut content = match &answer {
        Some(answer) => content(answer, received.transport, query.metadata.id),
        None => Content::default(),
    };
    if let Some(limiter) = limiter.filter(|_| !content.records.is_empty())
        && !policy.trusts(source)
        && !limiter.admit(source, received.now)
    {
        content = Content { authoritative: true, truncated: true, ..Content::default() };
    }
    encode(&query, code, &content, &policy.zone, limit(&query, &received), out);
    Some(Responded { qtype: query.asked.map(|asked| asked.qtype), code })
}

impl Policy {
    /// Whether a source is beyond doubt: a UDP source can be forged, but not usefully from
    /// outside to an address that only the own networks reach.
    fn trusts(&self, source: IpAddr) -> bool {
        let private = match source {
            IpAddr::V4(v4) => {
                // 100.64.0.0/10 (RFC 6598) is where several clouds put their pods.
                let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xC0 == 64;
                v4.is_loopback() || v4.is_private() || v4.is_link_local() || shared
            }
            IpAddr::V6(v6) => {
                v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()
            }
        };
        private || self.forwarders.iter().any(|net| net.contains(&source))
    }
}

/// The question to answer, or why there is none. The order is the order of blame: the message's
/// form, who asks, what for. Zone transfers are not implemented on either transport.
fn judge<'q>(
    query: &'q Query<'_>,
    allow: &[IpNet],
    source: IpAddr,
) -> Result<&'q Asked<'q>, ResponseCode> {
    match query.fault {
        Some(Fault::Opcode) => return Err(ResponseCode::NotImp),
        Some(Fault::Format) => return Err(ResponseCode::FormErr),
        Some(Fault::EdnsVersion) => return Err(ResponseCode::BADVERS),
        None => {}
    }
    let asked = query.asked.as_ref().ok_or(ResponseCode::FormErr)?;
    if !allow.is_empty() && !allow.iter().any(|net| net.contains(&source)) {
        return Err(ResponseCode::Refused);
    }
    if !matches!(DNSClass::from(asked.qclass), DNSClass::IN | DNSClass::ANY) {
        return Err(ResponseCode::Refused);
    }
    match RecordType::from(asked.qtype) {
        RecordType::AXFR | RecordType::IXFR => Err(ResponseCode::NotImp),
        _ => Ok(asked),
    }
}

fn response_code(outcome: Outcome) -> ResponseCode {
    match outcome {
        Outcome::Found | Outcome::NoData => ResponseCode::NoError,
        Outcome::NoName => ResponseCode::NXDomain,
        Outcome::Outside => ResponseCode::Refused,
    }
}

/// The sections of an answer, with the records chosen and in the order of sending.
///
/// Where order carries no meaning the records are rotated by the query's id, which clients draw
/// at random. Over UDP at most 16 addresses go out. Of an unordered answer 16 are as good as all;
/// a headless name owes all of its addresses, so there TC sends the client to TCP for the rest,
/// and one that cannot follow still has the nearest 16.
fn content(answer: &Answer, transport: Transport, id: u16) -> Content<'_> {
    let negative = matches!(answer.outcome, Outcome::NoData | Outcome::NoName);
    let records = &answer.records;
    let first = if answer.ordered { 0 } else { usize::from(id) % records.len().max(1) };
    let addresses = matches!(
        records.first().map(|record| &record.data),
        Some(RecordData::A(_) | RecordData::Aaaa(_))
    );
    let capped = addresses && transport == Transport::Udp;
    let most = if capped { MAX_UDP_ADDRESSES } else { records.len() };
    let (before, from) = records.split_at(first);
    let records: SmallVec<_> = from.iter().chain(before).take(most).collect();
    Content {
        authoritative: answer.outcome != Outcome::Outside,
        truncated: answer.ordered && records.len() < answer.records.len(),
        records,
        last_word: transport == Transport::Tcp,
        authority: negative.then_some(answer.serial),
        additional: &answer.additional,
    }
}

/// The most octets that the answer may have.
fn limit(query: &Query<'_>, received: &Received<'_>) -> usize {
    if received.transport == Transport::Tcp {
        return u16::MAX.into();
    }
    let payload = query.edns.map_or(MIN_UDP_OCTETS, |edns| edns.payload);
    let limit = usize::from(payload.clamp(MIN_UDP_OCTETS, MAX_UDP_OCTETS));
    let any = query.asked.is_some_and(|asked| asked.qtype == u16::from(RecordType::ANY));
    if any { limit.min(MAX_ANY_AMPLIFICATION * received.message.len()) } else { limit }
}
