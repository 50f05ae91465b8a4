//! Questions and answers as data, and the one function between them.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::{self, Denoted, Under};
use super::records::{self, Node};
use crate::model::{DnsName, Locality, ServiceKey};
use crate::routes::{Route, RouteTable};

/// The version of the schema of names (KEP-1645 specification.md, section 1), answered as TXT at
/// `dns-version.<zone>`.
pub const SCHEMA_VERSION: &str = "1.0.0";

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

impl Answer {
    fn empty(outcome: Outcome, serial: u32) -> Self {
        Self { outcome, records: Vec::new(), additional: Vec::new(), ordered: false, serial }
    }
}

/// Answers one question from one table.
///
/// An ANY question gets the first RRset that the name has (RFC 8482, section 4.1). A namespace
/// exists while at least one service in it is imported.
#[must_use]
pub fn answer(table: &RouteTable, config: &ZoneConfig, question: &Question) -> Answer {
    answer_at(table, config, question, None)
}

/// As [`answer`], for a client whose place is known: where the answer depends on which cluster is
/// nearest, it is the one nearest to that place ([`RouteTable::seen_from`]). The names that exist
/// and the clusterset addresses are the same everywhere.
#[must_use]
pub fn answer_at(
    table: &RouteTable,
    config: &ZoneConfig,
    question: &Question,
    place: Option<&Locality>,
) -> Answer {
    let serial = serial(table);
    let denoted = name::denote(&question.labels, &config.zone);
    if denoted == Denoted::Outside {
        return Answer::empty(Outcome::Outside, serial);
    }
    let routes = Routes { table, place };
    let Some(node) = node(routes, config, denoted, question.qtype) else {
        return Answer::empty(Outcome::NoName, serial);
    };
    let records = node.records(question.qtype, config, serial);
    if records.is_empty() {
        return Answer::empty(Outcome::NoData, serial);
    }
    let additional = match records.first() {
        Some(Record { data: RecordData::Srv { .. }, .. }) => node.additional(),
        _ => Vec::new(),
    };
    Answer { outcome: Outcome::Found, records, additional, ordered: node.ordered(), serial }
}

/// The addresses that a service's name answers now, of both families; what `explain` shows.
/// Over UDP a question gets at most 16 of them.
#[must_use]
pub fn addresses(table: &RouteTable, config: &ZoneConfig, key: &ServiceKey) -> Vec<IpAddr> {
    let too_long = name::service_name(key, &config.zone).is_none();
    match table.services.get(key) {
        Some(route) if !too_long => records::service_addresses(route),
        _ => Vec::new(),
    }
}

/// The SOA serial: the low half of the table's revision. It moves with every published table and,
/// as serials compare (RFC 1982: it wraps after some seven years), never goes back, over a restart
/// of the process neither (see [`RouteTable::first_revision`]).
#[must_use]
pub fn serial(table: &RouteTable) -> u32 {
    u32::try_from(table.revision & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// What stands at a name; `None` where nothing does.
fn node(
    routes: Routes<'_>,
    config: &ZoneConfig,
    denoted: Denoted<'_>,
    qtype: QueryType,
) -> Option<Node> {
    match denoted {
        Denoted::Outside | Denoted::Nothing => None,
        Denoted::Apex => Some(Node::Apex),
        Denoted::Version => Some(Node::Version),
        Denoted::Bare => Some(Node::Bare),
        Denoted::Namespace(namespace) => routes
            .table
            .services
            .keys()
            .any(|key| key.namespace.as_str() == namespace)
            .then_some(Node::Bare),
        Denoted::Service(under) => records::service(&*routes.get(under)?, qtype, &config.zone),
        Denoted::Protocol(under, protocol) => {
            records::protocol(&*routes.get(under)?, protocol, &config.zone)
        }
        Denoted::Port(under, protocol, port) => {
            records::port(&*routes.get(under)?, protocol, port, &config.zone)
        }
        Denoted::Cluster(under, cluster) => records::cluster(&*routes.get(under)?, cluster),
        Denoted::Pod(under, cluster, host) => records::pod(&*routes.get(under)?, cluster, host),
    }
}

/// The routes as one client has them.
#[derive(Debug, Clone, Copy)]
struct Routes<'t> {
    table: &'t RouteTable,
    place: Option<&'t Locality>,
}

impl<'t> Routes<'t> {
    fn get(self, under: Under<'_>) -> Option<Cow<'t, Route>> {
        let route = self.table.services.get(&under.key()?)?;
        let seen = self.place.and_then(|place| self.table.seen_from(route, place));
        Some(seen.map_or(Cow::Borrowed(route), Cow::Owned))
    }
}
