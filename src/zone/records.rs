//! The record shapes of the Multi-Cluster Services API (KEP-1645, specification.md, section 2).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use smallvec::SmallVec;

use super::answer::{QueryType, Record, RecordData, SCHEMA_VERSION, ZoneConfig};
use super::name;
use crate::catalog::{DnsMode, ExportedEndpoint, ServiceType};
use crate::model::{ClusterId, DnsName, PortKey, Protocol};
use crate::routes::{DirectEndpoints, Route};

/// All targets of one place share the load evenly.
const SRV_WEIGHT: u16 = 100;

/// What stands at a name that exists.
#[derive(Debug)]
pub(super) enum Node {
    /// SOA and NS.
    Apex,
    /// The schema version.
    Version,
    /// Nothing: an empty non-terminal, or a name kept without records.
    Bare,
    /// Addresses, and SRV records under the same name.
    Service {
        /// In the order of the answer.
        addresses: Vec<IpAddr>,
        /// Nearest first.
        targets: Vec<Target>,
        /// The order means nearest first.
        ordered: bool,
    },
}

/// One SRV target with its addresses.
#[derive(Debug)]
pub(super) struct Target {
    name: Box<str>,
    priority: u16,
    ports: Vec<u16>,
    addresses: Vec<IpAddr>,
}

impl Node {
    /// One pod of a headless service.
    pub(super) fn pod(addresses: Vec<IpAddr>) -> Self {
        Self::Service { addresses, targets: Vec::new(), ordered: false }
    }

    /// The records of that type, for ANY those of the first type that has some.
    pub(super) fn records(
        &self,
        qtype: QueryType,
        config: &ZoneConfig,
        serial: u32,
    ) -> Vec<Record> {
        let data = match (self, qtype) {
            (Self::Apex, QueryType::Soa | QueryType::Any) => vec![RecordData::Soa { serial }],
            (Self::Apex, QueryType::Ns) => vec![RecordData::Ns(name::server_name(&config.zone))],
            (Self::Version, QueryType::Txt | QueryType::Any) => {
                vec![RecordData::Txt(SCHEMA_VERSION.into())]
            }
            (Self::Service { addresses, .. }, QueryType::A) => {
                address_data(addresses, IpAddr::is_ipv4)
            }
            (Self::Service { addresses, .. }, QueryType::Aaaa) => {
                address_data(addresses, IpAddr::is_ipv6)
            }
            (Self::Service { targets, .. }, QueryType::Srv) => srv_data(targets),
            (Self::Service { .. }, QueryType::Any) => {
                return [QueryType::A, QueryType::Aaaa, QueryType::Srv]
                    .into_iter()
                    .map(|one| self.records(one, config, serial))
                    .find(|records| !records.is_empty())
                    .unwrap_or_default();
            }
            _ => Vec::new(),
        };
        data.into_iter().map(|data| Record { owner: None, data }).collect()
    }

    /// The addresses of the SRV targets.
    pub(super) fn additional(&self) -> Vec<Record> {
        let Self::Service { targets, .. } = self else { return Vec::new() };
        let mut records = Vec::new();
        for target in targets {
            records.extend(target.addresses.iter().map(|address| Record {
                owner: Some(target.name.clone()),
                data: RecordData::from(*address),
            }));
        }
        records
    }

    /// Whether the order of the records means nearest first.
    pub(super) fn ordered(&self) -> bool {
        matches!(self, Self::Service { ordered: true, .. })
    }
}

impl From<IpAddr> for RecordData {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::A(address),
            IpAddr::V6(address) => Self::Aaaa(address),
        }
    }
}

fn address_data(addresses: &[IpAddr], family: fn(&IpAddr) -> bool) -> Vec<RecordData> {
    addresses.iter().filter(|a| family(a)).map(|a| RecordData::from(*a)).collect()
}

/// One record per target and port; `ports` of a target are distinct already.
fn srv_data(targets: &[Target]) -> Vec<RecordData> {
    let mut records = Vec::new();
    for target in targets {
        records.extend(target.ports.iter().map(|port| RecordData::Srv {
            priority: target.priority,
            weight: SRV_WEIGHT,
            port: *port,
            target: target.name.clone(),
        }));
    }
    records
}

/// The addresses behind a service's name, each once.
///
/// Headless: the ready endpoints of all clusters, nearest first. `dns: endpoints`: those of the
/// nearest cluster that has any; both families come from that one cluster. Where clients reach no
/// endpoint directly, and by default: the clusterset addresses, with or without a candidate.
pub(super) fn service_addresses(route: &Route) -> Vec<IpAddr> {
    let direct = || route.direct.iter().filter(|direct| !direct.endpoints.is_empty());
    let endpoints: Vec<&ExportedEndpoint> = match (route.service_type, route.dns) {
        (ServiceType::Headless, _) => direct().flat_map(|direct| &direct.endpoints).collect(),
        (ServiceType::ClusterSetIp, DnsMode::Endpoints) => {
            direct().take(1).flat_map(|direct| &direct.endpoints).collect()
        }
        (ServiceType::ClusterSetIp, DnsMode::Vip) => Vec::new(),
    };
    if endpoints.is_empty() {
        // A headless route has none, so a headless name with nothing ready stays empty.
        return route.vips.clone();
    }
    let mut seen = HashSet::new();
    endpoints.into_iter().map(|e| e.address).filter(|address| seen.insert(*address)).collect()
}

/// `<service>.<ns>.svc.<zone>`. A headless name with nothing ready does not exist. The targets
/// are made only for a question that can see them: a headless name may have thousands.
pub(super) fn service(route: &Route, qtype: QueryType, zone: &DnsName) -> Option<Node> {
    let addresses = service_addresses(route);
    if headless(route) && addresses.is_empty() {
        return None;
    }
    let seen = matches!(qtype, QueryType::Srv | QueryType::Any);
    let targets = if seen {
        let all: Vec<PortKey> = route.ports.iter().map(|port| port.spec.key()).collect();
        targets(route, &all, zone)
    } else {
        Vec::new()
    };
    Some(Node::Service { addresses, targets, ordered: headless(route) })
}

/// `_<port>._<proto>.<service>…`: SRV records only. Unnamed ports have no such name.
pub(super) fn port(route: &Route, protocol: Protocol, name: &str, zone: &DnsName) -> Option<Node> {
    let named: Vec<PortKey> = named_ports(route, protocol)
        .filter(|(port, _)| port.eq_ignore_ascii_case(name))
        .map(|(_, key)| key)
        .collect();
    let targets = targets(route, &named, zone);
    let exists = targets.iter().any(|target| !target.ports.is_empty());
    exists.then(|| Node::Service { addresses: Vec::new(), targets, ordered: headless(route) })
}

/// `_<proto>.<service>…`: exists while a port's name stands below it.
pub(super) fn protocol(route: &Route, protocol: Protocol, zone: &DnsName) -> Option<Node> {
    let named: Vec<PortKey> = named_ports(route, protocol).map(|(_, key)| key).collect();
    targets(route, &named, zone).iter().any(|target| !target.ports.is_empty()).then_some(Node::Bare)
}

/// `<clusterid>.<service>…`: KEP-1645 gives it no record, so that nobody aims at one cluster; it
/// exists, empty, while names of pods stand below it (RFC 8020).
pub(super) fn cluster(route: &Route, cluster: &str) -> Option<Node> {
    headless_endpoints(route, cluster).next().map(|_| Node::Bare)
}

/// `<hostname>.<clusterid>.<service>…` of a headless service.
pub(super) fn pod(route: &Route, cluster: &str, host: &str) -> Option<Node> {
    let mut addresses: Vec<IpAddr> = headless_endpoints(route, cluster)
        .filter(|endpoint| is_host(endpoint, host))
        .map(|endpoint| endpoint.address)
        .collect();
    addresses.dedup();
    (!addresses.is_empty()).then(|| Node::pod(addresses))
}

/// Addresses by pod's label.
pub(super) type Hosts = BTreeMap<Box<str>, Vec<IpAddr>>;

/// What [`pod`] finds, for all pods of a headless service at once: by cluster, then by label.
pub(super) fn pods(route: &Route) -> Vec<(&ClusterId, Hosts)> {
    let direct = route.direct.iter().filter(|d| headless(route) && !d.endpoints.is_empty());
    let hosts = |direct: &DirectEndpoints| {
        let mut hosts = Hosts::new();
        for endpoint in &direct.endpoints {
            hosts.entry(host(endpoint)).or_default().push(endpoint.address);
        }
        hosts.values_mut().for_each(Vec::dedup);
        hosts
    };
    direct.map(|direct| (&direct.cluster, hosts(direct))).collect()
}

fn headless(route: &Route) -> bool {
    route.service_type == ServiceType::Headless
}

fn headless_endpoints<'r>(
    route: &'r Route,
    cluster: &str,
) -> impl Iterator<Item = &'r ExportedEndpoint> {
    let direct = route.direct.iter().filter(|_| headless(route));
    direct.filter(move |direct| direct.cluster.as_str() == cluster).flat_map(|d| &d.endpoints)
}

pub(super) fn named_ports(
    route: &Route,
    protocol: Protocol,
) -> impl Iterator<Item = (&str, PortKey)> {
    let ports = route.ports.iter().map(|port| &port.spec);
    ports
        .filter(move |spec| spec.protocol == protocol && !spec.name.is_empty())
        .map(|spec| (&*spec.name, spec.key()))
}

/// The SRV targets for these ports. A target whose name would be longer than DNS allows is left
/// out: no client could ask for its addresses.
fn targets(route: &Route, ports: &[PortKey], zone: &DnsName) -> Vec<Target> {
    let Some(service) = name::service_name(&route.key, zone) else { return Vec::new() };
    if headless(route) {
        return pod_targets(route, ports, &service);
    }
    let mut numbers: Vec<u16> = Vec::new();
    ports.iter().for_each(|key| push_once(&mut numbers, key.port.get()));
    let addresses = service_addresses(route);
    vec![Target { name: service, priority: 0, ports: numbers, addresses }]
}

/// One target per pod's name, the nearest cluster's first and with the smallest priority.
fn pod_targets(route: &Route, ports: &[PortKey], service: &str) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    let ranks: HashMap<PortKey, usize> = ports.iter().copied().zip(0..).collect();
    let mut known = HashSet::new();
    let clusters = route.direct.iter().filter(|direct| !direct.endpoints.is_empty());
    for (priority, direct) in (0..=u16::MAX).zip(clusters) {
        let mut by_host: HashMap<Box<str>, usize> = HashMap::new();
        for endpoint in &direct.endpoints {
            let host = host(endpoint);
            let Some(name) = name::pod_name(&host, direct.cluster.as_str(), service) else {
                continue;
            };
            let at = *by_host.entry(host).or_insert(targets.len());
            if at == targets.len() {
                let (ports, addresses) = (Vec::new(), Vec::new());
                targets.push(Target { name, priority, ports, addresses });
            }
            let target = &mut targets[at];
            if known.insert((at, endpoint.address)) {
                target.addresses.push(endpoint.address);
            }
            // In the import's order.
            let found =
                endpoint.ports.iter().filter_map(|port| Some((*ranks.get(&port.key)?, port)));
            let mut found: SmallVec<[_; 4]> =
                found.map(|(rank, port)| (rank, port.number())).collect();
            found.sort_unstable();
            for (_, number) in found {
                push_once(&mut target.ports, number.get());
            }
        }
    }
    targets.retain(|target| !target.ports.is_empty());
    targets
}

/// Equal records are merged: a TCP and a UDP port of one number make one.
fn push_once<T: PartialEq>(items: &mut Vec<T>, item: T) {
    if !items.contains(&item) {
        items.push(item);
    }
}

/// The pod's label: its hostname, else its address with `.` and `:` turned into `-`.
fn host(endpoint: &ExportedEndpoint) -> Box<str> {
    match &endpoint.hostname {
        Some(host) => host.as_str().into(),
        None => endpoint.address.to_string().replace(['.', ':'], "-").into(),
    }
}

fn is_host(endpoint: &ExportedEndpoint, label: &str) -> bool {
    match &endpoint.hostname {
        Some(host) => host.as_str() == label,
        None => *host(endpoint) == *label,
    }
}
