//! Bodies of control frames. Field numbers are for ever: never reused, new ones are added.

use std::net::{IpAddr, SocketAddr};

use prost::Message;

use crate::model::{
    Callee, HostLabel, PortKey, PortNumber, Protocol, ReplicaId, ServiceKey, canonical,
};

/// Longest namespace or service account sent or believed, in octets (RFC 1123 subdomain).
const MAX_ACCOUNT_OCTETS: usize = 253;
/// The name that answers probes by echoing; told from a service by its port, which is 0.
const ECHO: &str = "portolan/echo";

/// The acceptor's first frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Which replica accepted.
    pub replica: ReplicaId,
}

/// What an `OPEN` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A port of a service, by name and Service port number, never by address.
    Port(ServiceKey, PortKey),
    /// The same of one pod, by its hostname at the acceptor's.
    Pod(ServiceKey, HostLabel, PortKey),
    /// The echo that answers fresh probes.
    Echo,
    /// Something that is no name or no port: refused like a name that is not exported, so that
    /// odd spellings learn nothing.
    Nothing,
}

impl Asked {
    /// A port of what is called.
    #[must_use]
    pub fn of(callee: &Callee, port: PortKey) -> Self {
        let key = callee.service.clone();
        match &callee.pod {
            Some(pod) => Self::Pod(key, pod.hostname.clone(), port),
            None => Self::Port(key, port),
        }
    }
}

/// The client, as the importing cluster vouches for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Client {
    /// Its address.
    pub address: Option<SocketAddr>,
    /// Its namespace, where known.
    pub namespace: Option<Box<str>>,
    /// Its service account, where known.
    pub service_account: Option<Box<str>>,
}

/// The opener asks for a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its number on this connection, from 1, rising.
    pub stream: u64,
    /// What it asks for.
    pub asked: Asked,
    /// Gateways passed before this one; more than 2 are refused.
    pub hops: u32,
    /// On whose behalf.
    pub client: Client,
    /// Joins the access lines of all gateways on the way.
    pub trace: [u8; 16],
    /// How long the opener still waits, in milliseconds; 0 is not said.
    pub deadline_ms: u32,
    /// Whether payload follows at once, before the `REPLY` ([`MAX_EARLY`](super::MAX_EARLY)).
    pub early: bool,
}

/// What became of an `OPEN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The backend is connected.
    Accepted,
    /// Not exported, or not for this caller: told apart by nobody.
    NotExported,
    /// Exported, but no endpoint could be reached.
    NoEndpoint,
    /// This replica is shutting down.
    Draining,
    /// This replica has no room.
    Overloaded,
    /// A refusal of a later version.
    Refused,
}

impl Verdict {
    /// The label in metrics and access lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::NotExported => "not_exported",
            Self::NoEndpoint => "no_endpoint",
            Self::Draining => "draining",
            Self::Overloaded => "overloaded",
            Self::Refused => "refused",
        }
    }

    fn code(self) -> u32 {
        match self {
            Self::Refused => 0,
            Self::Accepted => 1,
            Self::NotExported => 2,
            Self::NoEndpoint => 3,
            Self::Draining => 4,
            Self::Overloaded => 5,
        }
    }

    fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Accepted,
            2 => Self::NotExported,
            3 => Self::NoEndpoint,
            4 => Self::Draining,
            5 => Self::Overloaded,
            _ => Self::Refused,
        }
    }
}

/// The verdict on one `OPEN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Which `OPEN`.
    pub stream: u64,
    /// What became of it.
    pub verdict: Verdict,
}

/// Why a stream was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResetReason {
    /// The application or its connection ended abnormally; the connection is closed after it.
    Aborted,
    /// The answer to a `CANCEL`; the connection is idle again.
    Cancelled,
}

/// The abnormal end of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// Which stream.
    pub stream: u64,
    /// Why.
    pub reason: ResetReason,
}

#[derive(Clone, PartialEq, Message)]
struct NumberBody {
    #[prost(uint64, tag = "1")]
    number: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PairBody {
    #[prost(uint64, tag = "1")]
    stream: u64,
    #[prost(uint32, tag = "2")]
    code: u32,
}

#[derive(Clone, PartialEq, Message)]
struct OpenBody {
    #[prost(uint64, tag = "1")]
    stream: u64,
    /// `namespace/name`; `namespace/name/hostname` for one pod alone. A gateway that knows of no
    /// pods finds no name in that and refuses: any other pod would be the wrong one.
    #[prost(string, tag = "2")]
    service: String,
    /// 1 TCP, 2 UDP, 3 SCTP.
    #[prost(uint32, tag = "3")]
    protocol: u32,
    #[prost(uint32, tag = "4")]
    port: u32,
    #[prost(uint32, tag = "5")]
    hops: u32,
    /// 4 or 16 octets.
    #[prost(bytes = "vec", tag = "6")]
    client_ip: Vec<u8>,
    #[prost(uint32, tag = "7")]
    client_port: u32,
    #[prost(string, optional, tag = "8")]
    namespace: Option<String>,
    #[prost(string, optional, tag = "9")]
    service_account: Option<String>,
    #[prost(bytes = "vec", tag = "10")]
    trace: Vec<u8>,
    #[prost(uint32, tag = "11")]
    deadline_ms: u32,
    #[prost(bool, tag = "12")]
    early: bool,
}

impl OpenBody {
    fn fill_port(&mut self, port: PortKey) {
        self.port = port.port.get().into();
        self.protocol = match port.protocol {
            Protocol::Tcp => 1,
            Protocol::Udp => 2,
            Protocol::Sctp => 3,
        };
    }
}

fn append(body: &impl Message, out: &mut Vec<u8>) {
    body.encode(out).expect("a Vec grows as needed");
}

pub(super) fn encode_number(number: u64, out: &mut Vec<u8>) {
    append(&NumberBody { number }, out);
}

pub(super) fn decode_number(octets: &[u8]) -> Option<u64> {
    NumberBody::decode(octets).ok().map(|body| body.number)
}

impl Ready {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        encode_number(self.replica.as_u64(), out);
    }

    pub(super) fn decode(octets: &[u8]) -> Option<Self> {
        decode_number(octets).map(|id| Self { replica: ReplicaId::from_u64(id) })
    }
}

impl Reply {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        append(&PairBody { stream: self.stream, code: self.verdict.code() }, out);
    }

    pub(super) fn decode(octets: &[u8]) -> Option<Self> {
        let body = PairBody::decode(octets).ok()?;
        Some(Self { stream: body.stream, verdict: Verdict::from_code(body.code) })
    }
}

impl Reset {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let code = match self.reason {
            ResetReason::Aborted => 0,
            ResetReason::Cancelled => 1,
        };
        append(&PairBody { stream: self.stream, code }, out);
    }

    pub(super) fn decode(octets: &[u8]) -> Option<Self> {
        let body = PairBody::decode(octets).ok()?;
        let reason = match body.code {
            1 => ResetReason::Cancelled,
            _ => ResetReason::Aborted,
        };
        Some(Self { stream: body.stream, reason })
    }
}

impl Asked {
    fn parse(body: &OpenBody) -> Self {
        if body.service == ECHO && body.port == 0 {
            return Self::Echo;
        }
        let protocol = match body.protocol {
            1 => Protocol::Tcp,
            2 => Protocol::Udp,
            3 => Protocol::Sctp,
            _ => return Self::Nothing,
        };
        let Ok(port) = PortNumber::new(body.port) else { return Self::Nothing };
        let port = PortKey::new(protocol, port);
        if let Ok(key) = ServiceKey::parse(&body.service) {
            return Self::Port(key, port);
        }
        let pod = body.service.rsplit_once('/');
        let pod = pod.map(|(key, host)| (ServiceKey::parse(key), HostLabel::parse(host)));
        match pod {
            Some((Ok(key), Ok(host))) => Self::Pod(key, host, port),
            _ => Self::Nothing,
        }
    }

    fn fill(&self, body: &mut OpenBody) {
        match self {
            Self::Port(key, port) => {
                body.service = key.to_string();
                body.fill_port(*port);
            }
            Self::Pod(key, host, port) => {
                body.service = format!("{key}/{host}");
                body.fill_port(*port);
            }
            Self::Echo => body.service = ECHO.to_owned(),
            Self::Nothing => {}
        }
    }
}

fn client_address(ip: &[u8], port: u32) -> Option<SocketAddr> {
    let ip = match (<[u8; 4]>::try_from(ip), <[u8; 16]>::try_from(ip)) {
        (Ok(v4), _) => IpAddr::from(v4),
        (_, Ok(v6)) => canonical(IpAddr::from(v6)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}

/// An over-long name is as good as unknown: it would match no rule anyway.
fn account(text: &str) -> Option<String> {
    (!text.is_empty() && text.len() <= MAX_ACCOUNT_OCTETS).then(|| text.to_owned())
}

impl Open {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut body = OpenBody {
            stream: self.stream,
            hops: self.hops,
            namespace: self.client.namespace.as_deref().and_then(account),
            service_account: self.client.service_account.as_deref().and_then(account),
            trace: self.trace.to_vec(),
            deadline_ms: self.deadline_ms,
            early: self.early,
            ..OpenBody::default()
        };
        self.asked.fill(&mut body);
        if let Some(address) = self.client.address {
            body.client_port = address.port().into();
            body.client_ip = match address.ip() {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
        }
        append(&body, out);
    }

    pub(super) fn decode(octets: &[u8]) -> Option<Self> {
        let body = OpenBody::decode(octets).ok()?;
        Some(Self {
            stream: body.stream,
            asked: Asked::parse(&body),
            hops: body.hops,
            client: Client {
                address: client_address(&body.client_ip, body.client_port),
                namespace: body.namespace.as_deref().and_then(account).map(Into::into),
                service_account: body.service_account.as_deref().and_then(account).map(Into::into),
            },
            trace: body.trace.try_into().unwrap_or_default(),
            deadline_ms: body.deadline_ms,
            early: body.early,
        })
    }
}
