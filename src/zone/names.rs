//! Every name that a service gives the zone, with all that it answers: what is compiled once per
//! change instead of being worked out per question. A property test holds it equal to
//! [`super::answer`].

use std::collections::BTreeSet;

use super::answer::{QueryType, Record, ZoneConfig};
use super::name;
use super::records::{self, Node};
use crate::model::Protocol;
use crate::routes::Route;

/// The types that a name can have records of, in the order in which ANY looks for one.
const TYPES: [QueryType; 6] =
    [QueryType::A, QueryType::Aaaa, QueryType::Srv, QueryType::Txt, QueryType::Soa, QueryType::Ns];

/// A name that exists, and its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The labels left of the service's own (for the zone's own names: left of the apex),
    /// lower case, leftmost first.
    pub labels: Vec<Box<str>>,
    /// The sets of records, at most one of a type; ANY gets the first. Empty: the name exists
    /// without records.
    pub sets: Vec<RecordSet>,
}

/// All records of one type at one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSet {
    /// The type.
    pub qtype: QueryType,
    /// The answer section, never empty.
    pub records: Vec<Record>,
    /// The additional section.
    pub additional: Vec<Record>,
    /// The order of the records means nearest first.
    pub ordered: bool,
}

/// The names of a service; those for clients elsewhere are those of the route as
/// [`crate::routes::RouteTable::seen_from`] gives it. None where its own name would be longer than DNS allows, and for a
/// headless service with nothing ready.
#[must_use]
pub fn service_names(route: &Route, config: &ZoneConfig) -> Vec<Name> {
    let zone = &config.zone;
    let mut names = Vec::new();
    if name::service_name(&route.key, zone).is_none() {
        return names;
    }
    let mut add = |labels: Vec<Box<str>>, node: Option<Node>| {
        names.extend(node.map(|node| Name { labels, sets: sets(&node, config, 0) }));
    };
    add(Vec::new(), records::service(route, QueryType::Any, zone));
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let below: Box<str> = format!("_{}", protocol.label()).into();
        let ports: BTreeSet<String> = records::named_ports(route, protocol)
            .map(|(port, _)| port.to_ascii_lowercase())
            .collect();
        for port in ports {
            let labels = vec![format!("_{port}").into(), below.clone()];
            add(labels, records::port(route, protocol, &port, zone));
        }
        add(vec![below], records::protocol(route, protocol, zone));
    }
    for (cluster, hosts) in records::pods(route) {
        for (host, addresses) in hosts {
            add(vec![host, cluster.as_str().into()], Some(Node::pod(addresses)));
        }
        add(vec![cluster.as_str().into()], Some(Node::Bare));
    }
    names
}

/// The zone's own names, whatever is imported; labels are left of the apex.
#[must_use]
pub fn zone_names(config: &ZoneConfig, serial: u32) -> Vec<Name> {
    let [ns, dns] = name::SERVER;
    let labels = |labels: &[&str]| labels.iter().map(|label| Box::from(*label)).collect();
    [
        (labels(&[]), Node::Apex),
        (labels(&[name::VERSION]), Node::Version),
        (labels(&[name::SERVICES]), Node::Bare),
        (labels(&[dns]), Node::Bare),
        (labels(&[ns, dns]), Node::Bare),
    ]
    .into_iter()
    .map(|(labels, node)| Name { labels, sets: sets(&node, config, serial) })
    .collect()
}

fn sets(node: &Node, config: &ZoneConfig, serial: u32) -> Vec<RecordSet> {
    let mut sets = Vec::new();
    for qtype in TYPES {
        let records = node.records(qtype, config, serial);
        if records.is_empty() {
            continue;
        }
        let additional = if qtype == QueryType::Srv { node.additional() } else { Vec::new() };
        sets.push(RecordSet { qtype, records, additional, ordered: node.ordered() });
    }
    sets
}
