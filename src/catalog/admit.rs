//! What of a peer's record is believed: a peer speaks only for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::export::{EndpointPort, Export, ExportedHost, ServiceType};
use super::reserved;
use crate::model::{HostLabel, Namespace, ServiceKey, canonical};

/// The namespaces that are imported from a peer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NamespaceRules {
    /// `*`.
    #[default]
    Any,
    /// The namespaces listed; an empty set is none.
    Only(BTreeSet<Namespace>),
}

impl NamespaceRules {
    /// Whether records of this namespace are taken.
    #[must_use]
    pub fn allows(&self, namespace: &Namespace) -> bool {
        match self {
            Self::Any => true,
            Self::Only(set) => set.contains(namespace),
        }
    }
}

/// How far one peer is believed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Belief {
    /// The namespaces we import from it.
    pub namespaces: NamespaceRules,
    /// Where its endpoints may lie. Without any, no endpoint of it is believed.
    pub networks: Vec<IpNet>,
    /// Where they never may: our pods, clusterset addresses, listeners.
    pub own_ranges: Vec<IpNet>,
}

/// Why a whole record was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// We do not import this namespace from that peer.
    #[error(
        "{0} is outside the namespaces imported from this peer; add its namespace to the peer's 'namespaces' to import it"
    )]
    Namespace(ServiceKey),
}

/// Why an endpoint was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum Doubt {
    /// Unspecified, multicast or broadcast: no host has it.
    #[error("is not the address of one host")]
    NotAHost,
    /// Inside our own ranges.
    #[error("lies in this cluster's own ranges")]
    Ours,
    /// Outside the networks declared for the peer.
    #[error("lies outside the peer's 'networks'; declare its network to accept it")]
    Undeclared,
    /// Loopback or link-local, which a network declared for routable hosts does not cover.
    #[error("is loopback or link-local; declare a network wholly inside that range to accept it")]
    HostLocal,
}

/// A record as it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// What is left of it.
    pub export: Export,
    /// The endpoints that were dropped, and why.
    pub dropped: Vec<(IpAddr, Doubt)>,
}

impl Belief {
    /// Whether an address may be an endpoint of the peer.
    pub fn check(&self, address: IpAddr) -> Result<(), Doubt> {
        let address = canonical(address);
        if is_nobody(address) {
            return Err(Doubt::NotAHost);
        }
        if self.own_ranges.iter().any(|range| range.contains(&address)) {
            return Err(Doubt::Ours);
        }
        let mut declared = self.networks.iter().filter(|network| network.contains(&address));
        match host_local(address) {
            None if declared.next().is_some() => Ok(()),
            None => Err(Doubt::Undeclared),
            Some(range) if declared.any(|network| range.contains(network)) => Ok(()),
            Some(_) => Err(Doubt::HostLocal),
        }
    }
}

/// [`judge`] for callers that do not report what was dropped.
pub fn admit(belief: &Belief, export: Export) -> Result<Export, Refusal> {
    judge(belief, export).map(|admitted| admitted.export)
}

/// What of a peer's record is believed. A record outside the imported namespaces is refused; an
/// endpoint that may not be believed is dropped and the record stays, since the service itself
/// is reached through the peer's gateway and not through that address; so are the pods of a
/// headless one that have a hostname, which are kept by that alone.
pub fn judge(belief: &Belief, mut export: Export) -> Result<Admitted, Refusal> {
    if !belief.namespaces.allows(&export.key.namespace) {
        return Err(Refusal::Namespace(export.key));
    }
    export.hosts = match export.service_type {
        ServiceType::Headless => hosts(&export),
        ServiceType::ClusterSetIp => Vec::new(),
    };
    let mut dropped = Vec::new();
    export.endpoints.retain_mut(|endpoint| {
        endpoint.address = canonical(endpoint.address);
        let believed = belief.check(endpoint.address);
        dropped.extend(believed.err().map(|doubt| (endpoint.address, doubt)));
        believed.is_ok()
    });
    export.endpoints.sort();
    export.endpoints.dedup();
    export.labels.retain(|key, _| !reserved::is_reserved(key));
    export.annotations.retain(|key, _| !reserved::is_reserved(key));
    // Before 1970 nothing was exported; the epoch is already the oldest there is.
    export.created_ms = export.created_ms.max(0);
    Ok(Admitted { export, dropped })
}

/// The pods that have a hostname; one of two families is two endpoints and one pod.
fn hosts(export: &Export) -> Vec<ExportedHost> {
    let mut found: BTreeMap<&HostLabel, BTreeSet<EndpointPort>> = BTreeMap::new();
    for endpoint in &export.endpoints {
        if let Some(hostname) = &endpoint.hostname {
            found.entry(hostname).or_default().extend(&endpoint.ports);
        }
    }
    let host = |(hostname, ports): (&HostLabel, BTreeSet<EndpointPort>)| {
        let mut ports: Vec<_> = ports.into_iter().collect();
        ports.dedup_by_key(|port| port.key);
        ExportedHost { hostname: hostname.clone(), ports }
    };
    found.into_iter().map(host).collect()
}

fn is_nobody(address: IpAddr) -> bool {
    match address {
        // All of 0.0.0.0/8 is "this network" (RFC 6890), not only its first address.
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
    }
}

/// The range of addresses that mean another host on every host, if this is one.
fn host_local(address: IpAddr) -> Option<IpNet> {
    let v4 = |a, b, prefix| Ipv4Net::new_assert([a, b, 0, 0].into(), prefix).into();
    let v6 = |a: u16, last: u16, prefix| {
        Ipv6Net::new_assert([a, 0, 0, 0, 0, 0, 0, last].into(), prefix).into()
    };
    let ranges: [IpNet; 4] = [v4(127, 0, 8), v4(169, 254, 16), v6(0, 1, 128), v6(0xfe80, 0, 10)];
    ranges.into_iter().find(|range| range.contains(&address))
}

#[cfg(test)]
mod tests;
