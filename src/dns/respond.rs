//! One message in, one message out: everything between the socket and the zone.
//!
//! Pure but for the limiter, so that every rule on the wire is tested on raw octets.

use std::net::IpAddr;
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use ipnet::IpNet;

use super::answers::{Answers, Found};
use super::encode::{CLASS_IN, rtype};
use super::limit::Limiter;
use super::localities::Client;
use super::query::{Asked, Fault, Query, Subnet};
use super::reply::{self, Content, Envelope, MAX_UDP_OCTETS};
use crate::model::canonical;

/// The UDP limit of a client without EDNS, and the least anyone can ask for (RFC 6891, 6.2.3).
const MIN_UDP_OCTETS: u16 = 512;
/// An answer to ANY over UDP has at most so many times the question's octets.
const MAX_ANY_AMPLIFICATION: usize = 4;
/// Extended errors (RFC 8914, section 4).
const STALE_ANSWER: u16 = 3;
const STALE_NXDOMAIN_ANSWER: u16 = 19;
/// The class ANY.
const CLASS_ANY: u16 = 255;

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// In one datagram.
    Udp,
    /// In one frame of a connection (without its length).
    Tcp,
    /// The same, of a connection over TLS.
    Tls,
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

/// Who is answered, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// TTL of positive answers and of the SOA minimum, seconds.
    pub ttl_seconds: u32,
    /// Sources that may ask; empty is everybody.
    pub allow: Vec<IpNet>,
    /// Known resolvers: never limited, though outside the private ranges, and believed about the
    /// subnets of their clients.
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
    answers: &Answers,
    limiter: Option<&mut Limiter>,
    out: &mut Vec<u8>,
) -> Option<Responded> {
    out.clear();
    let query = Query::read(received.message)?;
    let source = canonical(received.source);
    let judged = judge(&query, &policy.allow, source);
    let told = query
        .subnet
        .filter(|_| judged.is_ok() && answers.knows_places() && policy.forwards(source));
    let found =
        judged.map(|asked| answers.find(asked.name(), asked.qtype, client(source, told.as_ref())));
    let (code, mut content) = match found {
        Err(code) => (code, Content::Nothing),
        Ok((Found::Outside, _)) => (ResponseCode::Refused, Content::Nothing),
        Ok((Found::NoName(apex), _)) => (ResponseCode::NXDomain, Content::Negative(apex)),
        Ok((Found::NoData(apex), _)) => (ResponseCode::NoError, Content::Negative(apex)),
        Ok((Found::Set(set), _)) => (ResponseCode::NoError, Content::Records(set)),
    };
    if let Some(limiter) = limiter.filter(|_| matches!(content, Content::Records(_)))
        && !policy.trusts(source)
        && !limiter.admit(source, received.now)
    {
        content = Content::Elsewhere;
    }
    let scope = found.map_or(0, |(_, scope)| scope);
    let envelope = Envelope {
        code: code.into(),
        ttl: policy.ttl_seconds,
        limit: limit(&query, &received),
        datagram: received.transport == Transport::Udp,
        told: told.map(|subnet| (subnet.octets, if subnet.client.known == 0 { 0 } else { scope })),
        extended: extended_error(content, code).filter(|_| answers.are_stale()),
    };
    reply::write(&query, content, answers, envelope, out);
    Some(Responded { qtype: query.asked.map(|asked| asked.qtype), code })
}

impl Policy {
    /// Whether a source asks for others, and says for whom.
    fn forwards(&self, source: IpAddr) -> bool {
        self.forwarders.iter().any(|net| net.contains(&source))
    }

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
        private || self.forwards(source)
    }
}

/// Whom the answer is for. A subnet of no bits says that the client is not to be told apart: then
/// it is for who asks (RFC 7871, section 7.1.2).
fn client(source: IpAddr, told: Option<&Subnet<'_>>) -> Client {
    match told {
        Some(subnet) if subnet.client.known > 0 => subnet.client,
        _ => Client { address: source, known: u8::MAX },
    }
}

/// What stale answers say (RFC 8914): an error, and what is only cut short, is not out of date.
fn extended_error(content: Content<'_>, code: ResponseCode) -> Option<u16> {
    match content {
        Content::Nothing | Content::Elsewhere => None,
        Content::Negative(_) if code == ResponseCode::NXDomain => Some(STALE_NXDOMAIN_ANSWER),
        Content::Negative(_) | Content::Records(_) => Some(STALE_ANSWER),
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
    if !matches!(asked.qclass, CLASS_IN | CLASS_ANY) {
        return Err(ResponseCode::Refused);
    }
    match asked.qtype {
        rtype::AXFR | rtype::IXFR => Err(ResponseCode::NotImp),
        _ => Ok(asked),
    }
}

/// The most octets that the answer may have.
fn limit(query: &Query<'_>, received: &Received<'_>) -> usize {
    if received.transport != Transport::Udp {
        return u16::MAX.into();
    }
    let payload = query.edns.map_or(MIN_UDP_OCTETS, |edns| edns.payload);
    let limit = usize::from(payload.clamp(MIN_UDP_OCTETS, MAX_UDP_OCTETS));
    let any = query.asked.is_some_and(|asked| asked.qtype == rtype::ANY);
    if any { limit.min(MAX_ANY_AMPLIFICATION * received.message.len()) } else { limit }
}
