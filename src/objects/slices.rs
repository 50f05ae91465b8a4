//! Which EndpointSlices should exist for an import.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::desired::Case;
use super::json::family as spelling;
use super::labels::{
    LABEL_MCS_SERVICE, LABEL_SLICE_SERVICE, LABEL_SOURCE_CLUSTER, derived_name, port_name,
};
use super::layout::{Cells, Named};
use super::object::Owner;
use super::observed::{GatewayPod, Observed, ObservedService, World};
use super::ports::has_gateway;
use super::slice::EndpointSlice;
use crate::catalog::{
    ExportedEndpoint, IpFamily, LocalExport, LocalMode, ServiceType, Share, SliceEndpoint,
};
use crate::model::{PortKey, PortNumber, Protocol};
use crate::routes::{Candidate, DirectEndpoints, PortRoute, Route};

/// Everything that slices are made from.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) case: &'a Case<'a>,
    pub(super) route: &'a Route,
    pub(super) observed: &'a Observed,
    pub(super) world: &'a World,
}

/// Where the calls to one port go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the own pods at once.
    Local,
    /// To the gateway, which chooses.
    Gateway,
    /// To pods of another cluster that are reached directly.
    Direct,
    /// Nobody serves.
    Nowhere,
}

/// The slices of the derived Service, by name: for each port and family either the own pods or
/// the gateway, so that the switch from one to the other is one write.
pub(super) fn derived(
    sources: Sources<'_>,
    families: &[IpFamily],
    owner: &Owner,
) -> Vec<EndpointSlice> {
    let mut named = Named::new(sources.case.key, owner);
    let service = (LABEL_SLICE_SERVICE, derived_name(sources.case.key));
    for port in &sources.route.ports {
        for family in families {
            let cells = sources.behind(port, *family);
            let role = format!("{} {}", port_name(port.spec.key()), spelling(*family));
            named.add(&role, *family, cells, std::slice::from_ref(&service));
        }
    }
    named.slices
}

/// The slices of the import, by name: for each cluster and family where its endpoints are, as
/// seen from here.
pub(super) fn mcs(
    sources: Sources<'_>,
    families: &[IpFamily],
    owner: &Owner,
) -> Vec<EndpointSlice> {
    let mut named = Named::new(sources.case.key, owner);
    for candidate in &sources.route.clusters {
        let cluster = candidate.cluster.as_str();
        let labels = [
            (LABEL_MCS_SERVICE, sources.case.key.name.to_string()),
            (LABEL_SOURCE_CLUSTER, cluster.to_owned()),
        ];
        for family in families {
            let cells = sources.of_cluster(candidate, *family);
            let role = format!("mcs {cluster} {}", spelling(*family));
            named.add(&role, *family, cells, &labels);
        }
    }
    named.slices
}

impl<'a> Sources<'a> {
    /// The derived Service, if it is ours.
    pub(super) fn service(self) -> Option<&'a ObservedService> {
        self.observed.service.as_ref().filter(|service| !service.foreign)
    }

    /// The ports of the gateway that stand for those of the import; as long as nobody says, those
    /// that are recorded.
    pub(super) fn allotted(self) -> Option<&'a BTreeMap<PortKey, PortNumber>> {
        self.case.allotted.or_else(|| self.service().map(|service| &service.ports))
    }

    fn behind(self, port: &PortRoute, family: IpFamily) -> Cells {
        let key = port.spec.key();
        let name = port_name(key);
        let mut cells = Cells::default();
        match self.way(port) {
            Way::Nowhere => {}
            Way::Gateway => {
                cells.extend(&name, key.protocol, self.gateway(key, family));
                // A share is better missed than a connection.
                if !cells.any_ready() && self.may_stay(port) {
                    let own = self.own(key, family).map(|(port, e)| (port, nameless(e)));
                    cells.extend(&name, key.protocol, own);
                }
            }
            Way::Direct => cells.extend(&name, key.protocol, self.direct_behind(key, family)),
            Way::Local => {
                // For kube-proxy, which has no use for hostnames.
                let own = self.own(key, family).map(|(port, e)| (port, nameless(e)));
                cells.extend(&name, key.protocol, own);
                // The own pods may not speak this family; the gateway translates.
                if !cells.any_ready() && has_gateway(key) {
                    cells = Cells::default();
                    cells.extend(&name, key.protocol, self.gateway(key, family));
                }
            }
        }
        cells
    }

    fn way(self, port: &PortRoute) -> Way {
        let usable = || port.candidates.iter().filter(|candidate| candidate.usable);
        let Some(first) = usable().next() else { return Way::Nowhere };
        if !has_gateway(port.spec.key()) {
            return if usable().any(|candidate| candidate.local) {
                Way::Local
            } else {
                Way::Direct
            };
        }
        let direct = |local: &LocalExport| local.export.settings.local == LocalMode::Direct;
        // What is drawn by weight is drawn by the gateway, unless nobody else is in the draw. A
        // share as well: kube-proxy's is that of whole endpoints, and would leap with each.
        let direct_share = self.case.local.map_or(Share::FULL, |local| local.direct_share);
        let divided = port.by_weight || direct_share != Share::FULL;
        let drawn = divided && usable().any(|other| !other.local && other.weight > 0);
        let local = first.local && !drawn && self.case.local.is_some_and(direct);
        if local { Way::Local } else { Way::Gateway }
    }

    /// Whether connections may go to the own pods at once where the gateway, which would leave a
    /// part of them here, is not open.
    fn may_stay(self, port: &PortRoute) -> bool {
        let direct = |local: &LocalExport| local.export.settings.local == LocalMode::Direct;
        let mut usable = port.candidates.iter().filter(|candidate| candidate.usable);
        usable.next().is_some_and(|first| first.local) && self.case.local.is_some_and(direct)
    }

    fn of_cluster(self, candidate: &Candidate, family: IpFamily) -> Cells {
        let mut cells = Cells::default();
        let direct = self.route.direct.iter().find(|d| d.cluster == candidate.cluster);
        let headless = self.route.service_type == ServiceType::Headless;
        if headless {
            // Its endpoints count, whether or not they have ports.
            match (candidate.local, direct) {
                (true, _) => cells.touch(self.own_endpoints(family)),
                (false, Some(direct)) => cells.touch(remote(&direct.endpoints, family)),
                (false, None) => {}
            }
        }
        for port in &self.route.ports {
            let (key, name) = (port.spec.key(), &port.spec.name);
            let serves = |c: &&Candidate| c.cluster == candidate.cluster && c.usable;
            match (candidate.local, direct) {
                (true, _) => cells.extend(name, key.protocol, self.own(key, family)),
                (false, Some(direct)) => {
                    cells.extend(name, key.protocol, serving(direct, key, family));
                }
                (false, None) if !headless && port.candidates.iter().any(|c| serves(&c)) => {
                    cells.extend(name, key.protocol, self.gateway(key, family));
                }
                (false, None) => {}
            }
        }
        cells
    }

    /// The own endpoints behind a Service port, ready or not, each with its target port.
    fn own(
        self,
        key: PortKey,
        family: IpFamily,
    ) -> impl Iterator<Item = (PortNumber, SliceEndpoint)> {
        let local = self.case.local;
        let spec = local.and_then(|local| local.export.port(key)).map(|port| &port.spec);
        let slices = local.into_iter().flat_map(|local| &local.slices);
        slices.flat_map(move |slice| {
            let ports = slice.ports.iter().filter(move |port| {
                spec.is_some_and(|s| s.name == port.name && s.protocol == port.protocol)
            });
            ports.flat_map(move |port| {
                used(&slice.endpoints, family).map(|endpoint| (port.port, endpoint))
            })
        })
    }

    fn own_endpoints(self, family: IpFamily) -> impl Iterator<Item = SliceEndpoint> {
        let slices = self.case.local.into_iter().flat_map(|local| &local.slices);
        slices.flat_map(move |slice| used(&slice.endpoints, family))
    }

    /// Pods of the gateway that have opened what stands for this port, once that is written down.
    fn gateway(
        self,
        key: PortKey,
        family: IpFamily,
    ) -> impl Iterator<Item = (PortNumber, SliceEndpoint)> {
        let allotted = self.allotted().and_then(|ports| ports.get(&key));
        let recorded = self.service().and_then(|service| service.ports.get(&key));
        let port = allotted.filter(|port| recorded == Some(*port)).copied();
        self.opened(port.map(|port| (key.protocol, port)), family)
    }

    /// Pods of the gateway that have opened a port of theirs.
    pub(super) fn opened(
        self,
        at: Option<(Protocol, PortNumber)>,
        family: IpFamily,
    ) -> impl Iterator<Item = (PortNumber, SliceEndpoint)> {
        let open = move |pod: &&GatewayPod| at.is_some_and(|at| pod.open.contains(&at));
        let pods = &self.world.gateways;
        // One that is open serves better than none, even where readiness lags behind.
        let any_ready = pods.iter().filter(open).any(|pod| pod.ready);
        let pods = pods.iter().filter(open).filter(move |pod| pod.ready || !any_ready);
        let endpoints = pods.flat_map(move |pod| {
            let addresses = pod.addresses.iter().filter(move |a| IpFamily::of(**a) == family);
            addresses.take(1).map(|address| SliceEndpoint {
                node: pod.node.clone(),
                zone: pod.zone.clone(),
                ..ready_at(*address)
            })
        });
        at.into_iter().flat_map(move |(_, port)| endpoints.clone().map(move |e| (port, e)))
    }

    /// The endpoints of the best other cluster that is reached directly and serves the port.
    fn direct_behind(
        self,
        key: PortKey,
        family: IpFamily,
    ) -> impl Iterator<Item = (PortNumber, SliceEndpoint)> {
        let serving = self.route.direct.iter().map(move |direct| {
            let serving = serving(direct, key, family);
            serving.map(|(port, endpoint)| (port, nameless(endpoint))).collect::<Vec<_>>()
        });
        let best = serving.into_iter().find(|endpoints| !endpoints.is_empty());
        best.into_iter().flatten()
    }

    /// Whether some port waits for the gateway to open what stands for it.
    pub(super) fn waits_for_gateway(self, families: &[IpFamily]) -> Option<PortKey> {
        let mut ports = self.route.ports.iter();
        let waits = |port: &&PortRoute| {
            self.way(port) == Way::Gateway
                && families.iter().all(|f| self.gateway(port.spec.key(), *f).next().is_none())
        };
        ports.find(waits).map(|port| port.spec.key())
    }
}

/// The endpoints of that family under the address that is used: the first, as kube-proxy does.
fn used(endpoints: &[SliceEndpoint], family: IpFamily) -> impl Iterator<Item = SliceEndpoint> {
    let first = |endpoint: &SliceEndpoint| endpoint.addresses.first().copied();
    endpoints.iter().filter_map(move |endpoint| {
        let address = first(endpoint).filter(|address| IpFamily::of(*address) == family)?;
        Some(SliceEndpoint { addresses: vec![address], ..endpoint.clone() })
    })
}

/// The endpoints of a peer that serve a port, each with where it is there.
fn serving(
    direct: &DirectEndpoints,
    key: PortKey,
    family: IpFamily,
) -> impl Iterator<Item = (PortNumber, SliceEndpoint)> {
    let serving = direct.endpoints.iter().filter_map(move |e| Some((e.port(key)?.number(), e)));
    serving.flat_map(move |(port, endpoint)| {
        remote(std::iter::once(endpoint), family).map(move |endpoint| (port, endpoint))
    })
}

/// Endpoints of a peer. An address that the API server would refuse is left out, as it would take
/// the whole slice with it.
fn remote<'a>(
    endpoints: impl IntoIterator<Item = &'a ExportedEndpoint>,
    family: IpFamily,
) -> impl Iterator<Item = SliceEndpoint> {
    let of_family = endpoints.into_iter().filter(move |e| IpFamily::of(e.address) == family);
    of_family.filter(|endpoint| is_routable(endpoint.address)).map(|endpoint| SliceEndpoint {
        hostname: endpoint.hostname.clone(),
        ..ready_at(endpoint.address)
    })
}

fn nameless(endpoint: SliceEndpoint) -> SliceEndpoint {
    SliceEndpoint { hostname: None, ..endpoint }
}

fn is_routable(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !local && !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

fn ready_at(address: IpAddr) -> SliceEndpoint {
    SliceEndpoint {
        addresses: vec![address],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: None,
        zone: None,
    }
}
