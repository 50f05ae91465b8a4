//! Turns a source's objects into what this cluster exports.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::annotations::{Wishes, parse_settings};
use super::export::{EndpointPort, Export, ExportedEndpoint, ExportedPort, IpFamily, ServiceType};
use super::guidance::Guidance;
use super::local::{Backend, ExportProblem, LocalExport};
use super::object::{
    ExportObject, ObjectKind, ServiceObject, SliceEndpoint, SliceObject, SliceObjectKey,
    SourceEvent,
};
use super::reserved;
use super::settings::{DnsMode, Share};
use crate::model::{HostLabel, PortSpec, ServiceKey};

/// How many dropped label keys a problem names.
const NAMED_KEYS: usize = 5;

/// Why a ServiceExport exports nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotExported {
    /// No Service of that name: it may come later.
    NoService,
    /// The Service is of type ExternalName.
    InvalidServiceType,
}

impl NotExported {
    /// The reason of the condition `Valid=False`, in the spelling of the MCS API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoService => "NoService",
            Self::InvalidServiceType => "InvalidServiceType",
        }
    }
}

impl fmt::Display for NotExported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoService => "there is no Service of this name; create it to export it",
            Self::InvalidServiceType => {
                "a Service of type ExternalName cannot be exported; use ClusterIP"
            }
        })
    }
}

/// Holds a source's objects and keeps the exports that follow from them. A change costs what the
/// touched services cost, however many others there are.
#[derive(Debug, Default)]
pub struct Assembly {
    services: HashMap<ServiceKey, ServiceObject>,
    slices: HashMap<SliceObjectKey, Arc<SliceObject>>,
    /// Which slices belong to a service; never an empty set.
    slices_of: HashMap<ServiceKey, BTreeSet<SliceObjectKey>>,
    wanted: HashMap<ServiceKey, ExportObject>,
    exports: BTreeMap<ServiceKey, Arc<LocalExport>>,
    refused: BTreeMap<ServiceKey, NotExported>,
}

impl Assembly {
    /// Without any object.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes objects as they are now, in order; returns the names whose export came, went or
    /// changed, or is refused for another reason than before.
    pub fn apply(&mut self, events: Vec<SourceEvent>) -> BTreeSet<ServiceKey> {
        let mut touched = BTreeSet::new();
        for event in events {
            match event {
                SourceEvent::Service(key, object) => {
                    put(&mut self.services, key.clone(), object);
                    touched.insert(key);
                }
                SourceEvent::Export(key, object) => {
                    put(&mut self.wanted, key.clone(), object);
                    touched.insert(key);
                }
                SourceEvent::Slice(key, object) => {
                    touched.extend(self.put_slice(key, object));
                }
            }
        }
        touched.retain(|key| self.rebuild(key));
        touched
    }

    /// The export of that name.
    #[must_use]
    pub fn export(&self, key: &ServiceKey) -> Option<Arc<LocalExport>> {
        self.exports.get(key).cloned()
    }

    /// All exports.
    #[must_use]
    pub fn exports(&self) -> BTreeMap<ServiceKey, Arc<LocalExport>> {
        self.exports.clone()
    }

    /// The ServiceExports that export nothing, and why.
    #[must_use]
    pub fn refused(&self) -> &BTreeMap<ServiceKey, NotExported> {
        &self.refused
    }

    /// Everything that owners of exports should know: what is refused, then what was not
    /// understood in those that are exported.
    pub fn problems(&self) -> impl Iterator<Item = (&ServiceKey, ExportProblem)> {
        let refused = self.refused.iter().map(|(key, why)| {
            let message = why.to_string().into();
            (key, ExportProblem { field: why.as_str().into(), message })
        });
        let noted = self.exports.iter().flat_map(|(key, local)| {
            local.problems.iter().map(move |problem| (key, problem.clone()))
        });
        refused.chain(noted)
    }

    /// Puts or removes a slice; returns the services it belonged and belongs to.
    fn put_slice(&mut self, key: SliceObjectKey, object: Option<SliceObject>) -> Vec<ServiceKey> {
        let now = object.as_ref().map(|slice| slice.service.clone());
        let before = put(&mut self.slices, key.clone(), object.map(Arc::new))
            .map(|slice| slice.service.clone());
        if let Some(service) = &before
            && before != now
            && let Some(set) = self.slices_of.get_mut(service)
        {
            set.remove(&key);
            if set.is_empty() {
                self.slices_of.remove(service);
            }
        }
        if let Some(service) = &now {
            self.slices_of.entry(service.clone()).or_default().insert(key);
        }
        before.into_iter().chain(now).collect()
    }

    /// Derives one export again; whether it changed.
    fn rebuild(&mut self, key: &ServiceKey) -> bool {
        let built = match (self.wanted.get(key), self.services.get(key)) {
            (None, _) => None,
            (Some(_), None) => Some(Err(NotExported::NoService)),
            (Some(_), Some(service)) if service.kind == ObjectKind::ExternalName => {
                Some(Err(NotExported::InvalidServiceType))
            }
            (Some(wanted), Some(service)) => {
                let slices = self.slices_of.get(key).into_iter().flatten();
                let slices: Vec<_> = slices.filter_map(|name| self.slices.get(name)).collect();
                Some(Ok(build(key, service, wanted, &slices)))
            }
        };
        let refused = match built {
            Some(Err(why)) => self.refused.insert(key.clone(), why) != Some(why),
            _ => self.refused.remove(key).is_some(),
        };
        let exported = match built {
            Some(Ok(mut local)) => {
                let before = self.exports.get(key);
                if before.is_some_and(|before| **before == local) {
                    return refused;
                }
                if let Some(before) = before
                    && before.export == local.export
                {
                    // The same value at the same place: whoever compares pointers sees no change.
                    local.export = Arc::clone(&before.export);
                }
                self.exports.insert(key.clone(), Arc::new(local));
                true
            }
            _ => self.exports.remove(key).is_some(),
        };
        exported || refused
    }
}

/// Puts an object as it is now; returns what was there.
fn put<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

fn build(
    key: &ServiceKey,
    service: &ServiceObject,
    wanted: &ExportObject,
    slices: &[&Arc<SliceObject>],
) -> LocalExport {
    let Wishes { settings, clusters, allow, most_streams, steer, mut problems } =
        parse_settings(&wanted.settings);
    let labels = without_reserved(&wanted.exported_labels, "exportedLabels", &mut problems);
    let annotations =
        without_reserved(&wanted.exported_annotations, "exportedAnnotations", &mut problems);
    let ports = distinct_ports(&service.ports, &mut problems);
    let backends: BTreeMap<_, _> =
        ports.iter().map(|spec| (spec.key(), backends(spec, slices))).collect();
    let service_type = match service.kind {
        ObjectKind::Headless => ServiceType::Headless,
        ObjectKind::ClusterIp | ObjectKind::ExternalName => ServiceType::ClusterSetIp,
    };
    let travel = service_type == ServiceType::Headless || settings.dns == DnsMode::Endpoints;
    let endpoints = if travel { endpoints(&ports, slices) } else { Vec::new() };
    let exported = |spec: PortSpec| {
        let count = backends.get(&spec.key()).map_or(0, Vec::len);
        ExportedPort { spec, ready: u32::try_from(count).unwrap_or(u32::MAX) }
    };
    let export = Export {
        key: key.clone(),
        created_ms: wanted.created_ms,
        service_type,
        ports: ports.into_iter().map(exported).collect(),
        session_affinity: service.session_affinity,
        ip_families: families(service, slices),
        internal_traffic_policy: service.internal_traffic_policy.clone(),
        traffic_distribution: service.traffic_distribution.clone(),
        labels,
        annotations,
        settings,
        endpoints,
        hosts: Vec::new(),
    };
    let slices = slices.iter().map(|slice| Arc::clone(slice)).collect();
    LocalExport {
        export: Arc::new(export),
        clusters,
        allow,
        most_streams,
        steer,
        direct_share: Share::FULL,
        guidance: Guidance::parse(&wanted.settings).0,
        backends,
        slices,
        problems,
    }
}

/// What may travel of exported labels or annotations; the rest is named in one problem.
fn without_reserved(
    map: &BTreeMap<Box<str>, Box<str>>,
    field: &str,
    problems: &mut Vec<ExportProblem>,
) -> BTreeMap<Box<str>, Box<str>> {
    let dropped: Vec<&str> =
        map.keys().filter(|key| reserved::is_reserved(key)).map(|key| &**key).collect();
    if !dropped.is_empty() {
        let named = dropped[..dropped.len().min(NAMED_KEYS)].join(", ");
        let more = match dropped.len().saturating_sub(NAMED_KEYS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        problems.push(ExportProblem {
            field: field.into(),
            message: format!("{named}{more}: keys of reserved domains do not travel; remove them")
                .into(),
        });
    }
    map.iter()
        .filter(|(key, _)| !reserved::is_reserved(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The Service's ports with names that DNS can have; of two with the same name, or the same protocol
/// and number, the first. (The API server refuses such a Service, a manifest may hold one.)
fn distinct_ports(ports: &[PortSpec], problems: &mut Vec<ExportProblem>) -> Vec<PortSpec> {
    let mut distinct: Vec<PortSpec> = Vec::with_capacity(ports.len());
    let (mut names, mut keys) = (HashSet::new(), HashSet::new());
    for port in ports {
        if !port.name.is_empty() && HostLabel::parse(&port.name).is_err() {
            problems.push(ExportProblem {
                field: "ports".into(),
                message: format!(
                    "{:?} ({}) is no name of a port and is not exported; give it 1 to 63 lower-case letters, digits and '-'",
                    port.name,
                    port.key()
                )
                .into(),
            });
        } else if names.contains(&*port.name) || keys.contains(&port.key()) {
            problems.push(ExportProblem {
                field: "ports".into(),
                message: format!(
                    "the name or number of port '{}' ({}) is used twice, the first is exported; give each port its own",
                    port.name,
                    port.key()
                )
                .into(),
            });
        } else {
            names.insert(&*port.name);
            keys.insert(port.key());
            distinct.push(port.clone());
        }
    }
    distinct
}

/// The ready endpoints of a slice with the address that is used: the first, as kube-proxy does.
fn ready(slice: &SliceObject) -> impl Iterator<Item = (IpAddr, &SliceEndpoint)> {
    slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.ready)
        .filter_map(|endpoint| Some((*endpoint.addresses.first()?, endpoint)))
}

/// Where one Service port is dialled: slice ports of the same name and protocol. A pod that
/// stands in two slices, as it does while the controller moves it, counts once.
fn backends(spec: &PortSpec, slices: &[&Arc<SliceObject>]) -> Vec<Backend> {
    let mut found: BTreeMap<SocketAddr, Option<&HostLabel>> = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.iter();
        for port in ports.filter(|port| port.name == spec.name && port.protocol == spec.protocol) {
            for (address, endpoint) in ready(slice) {
                let hostname = found.entry(SocketAddr::new(address, port.port.get())).or_default();
                *hostname = first_name(*hostname, endpoint.hostname.as_ref());
            }
        }
    }
    found
        .into_iter()
        .map(|(address, hostname)| Backend { address, hostname: hostname.cloned() })
        .collect()
}

/// Of two hostnames of one address the first by name, so that the order of slices is no matter.
fn first_name<'a>(
    one: Option<&'a HostLabel>,
    other: Option<&'a HostLabel>,
) -> Option<&'a HostLabel> {
    one.into_iter().chain(other).min()
}

/// The endpoints as they travel. Pods on the host network share an address under several
/// hostnames: each is a record of its own, so that each has its name in DNS.
fn endpoints(ports: &[PortSpec], slices: &[&Arc<SliceObject>]) -> Vec<ExportedEndpoint> {
    let mut found: BTreeMap<(IpAddr, Option<&HostLabel>), BTreeSet<EndpointPort>> = BTreeMap::new();
    for slice in slices {
        let served = ports.iter().flat_map(|spec| {
            let of_spec = slice
                .ports
                .iter()
                .filter(|port| port.name == spec.name && port.protocol == spec.protocol);
            of_spec.map(|port| EndpointPort { key: spec.key(), target: Some(port.port) })
        });
        let served: Vec<_> = served.collect();
        for (address, endpoint) in ready(slice) {
            found.entry((address, endpoint.hostname.as_ref())).or_default().extend(&served);
        }
    }
    let record = |((address, hostname), ports): (_, BTreeSet<EndpointPort>)| {
        let hostname: Option<&HostLabel> = hostname;
        let mut ports: Vec<_> = ports.into_iter().collect();
        // A pod that moves between slices may stand in both, with two targets: the lower one.
        ports.dedup_by_key(|port| port.key);
        ExportedEndpoint { address, hostname: hostname.cloned(), ports }
    };
    found.into_iter().map(record).collect()
}

/// The Service's families, else those of all its endpoints, ready or not (a roll-out must not
/// change the families), IPv4 first; empty where nothing tells.
fn families(service: &ServiceObject, slices: &[&Arc<SliceObject>]) -> Vec<IpFamily> {
    if !service.ip_families.is_empty() {
        return service.ip_families.clone();
    }
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let found: BTreeSet<_> = endpoints
        .filter_map(|endpoint| endpoint.addresses.first())
        .map(|address| IpFamily::of(*address))
        .collect();
    found.into_iter().collect()
}

#[cfg(test)]
mod tests;
