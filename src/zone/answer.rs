//! Questions and answers as data.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::model::DnsName;

/// The types the zone knows; everything else exists for no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueryType {
    /// A.
    A,
    /// AAAA.
    Aaaa,
    /// SRV.
    Srv,
    /// TXT.
    Txt,
    /// SOA.
    Soa,
    /// NS.
    Ns,
    /// ANY (RFC 8482: one RRset is enough).
    Any,
    /// Any other type.
    Other(u16),
}

/// A parsed question: the labels of the name, lower case, leftmost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Labels as raw octets, lower-cased; a label may hold any octet.
    pub labels: Vec<Vec<u8>>,
    /// The type asked for.
    pub qtype: QueryType,
}

/// What a record holds. Names are relative to nothing: full names without the final dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordData {
    /// A.
    A(Ipv4Addr),
    /// AAAA.
    Aaaa(Ipv6Addr),
    /// SRV.
    Srv {
        /// Priority: nearer clusters first for headless names.
        priority: u16,
        /// Weight.
        weight: u16,
        /// The port.
        port: u16,
        /// The target name.
        target: Box<str>,
    },
    /// TXT, one character-string.
    Txt(Box<str>),
    /// SOA.
    Soa {
        /// Moves with the snapshot.
        serial: u32,
    },
    /// NS.
    Ns(Box<str>),
}

/// One record of an answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    /// The owner; `None` is the question's name.
    pub owner: Option<Box<str>>,
    /// The data.
    pub data: RecordData,
}

/// How a question ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// NOERROR with records.
    Found,
    /// NOERROR, SOA in authority: the name exists, the type does not.
    NoData,
    /// NXDOMAIN, SOA in authority.
    NoName,
    /// REFUSED: outside the zone.
    Outside,
}

/// An answer as data; SOA in authority follows from the outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it ends.
    pub outcome: Outcome,
    /// The answer section.
    pub records: Vec<Record>,
    /// The additional section (SRV targets' addresses).
    pub additional: Vec<Record>,
    /// The order of the records means nearest first: never rotate them.
    pub ordered: bool,
    /// Serial of the SOA record wherever one is needed.
    pub serial: u32,
}

/// What the zone is called and how long its answers live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneConfig {
    /// The apex, `clusterset.local` by default.
    pub zone: DnsName,
    /// TTL of positive answers and of the SOA minimum, seconds.
    pub ttl_seconds: u32,
}
