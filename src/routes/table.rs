//! The immutable table that every reader loads.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::RemotePods;
use super::order::distance;
use super::steer::Steered;
use crate::catalog::{
    DnsMode, ExportedEndpoint, LocalCatalog, LocalExport, Merged, Policy, ServiceType,
    SessionAffinity,
};
use crate::health::{PeerState, PeerView};
use crate::model::{
    Callee, ClusterId, Locality, PortKey, PortNumber, PortSpec, Protocol, ServiceKey,
};

/// Why a candidate stands where it stands (closed set, shown by `explain` and in the JSON).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The own cluster.
    Local,
    /// Ordered by measured round-trip time.
    Nearest,
    /// Equally near; locality or the name decided.
    TieLocality,
    /// Named by `pinned:`.
    Pinned,
    /// Chosen by weight.
    Weighted,
    /// Outside the fence.
    Fenced,
    /// Draining, or weight 0.
    Draining,
    /// Not answering as it should.
    Suspect,
    /// Down.
    Down,
    /// Exports the port but has no ready endpoint.
    NoEndpoint,
    /// Exports the service but not this port.
    PortNotExported,
    /// The caller may not.
    NotAllowed,
    /// Nothing healthy: the last known order.
    LastResort,
}

/// One cluster that exports a port, with its place and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The cluster; `local` in [`Candidate::local`] tells whether it is ours.
    pub cluster: ClusterId,
    /// Whether it is the own cluster.
    pub local: bool,
    /// Its health (the own cluster is `Up`).
    pub state: PeerState,
    /// The round trip that ranks; 0 for the own cluster; `None` before the first measurement.
    pub rtt: Option<Duration>,
    /// Its weight under `weighted`, of which it gets `share`; 0 is a drain.
    pub weight: u32,
    /// 0.0 to 1.0: the part of the new streams of its place that it takes: less than all while it
    /// comes back slowly, is being drained, or has too few backends.
    pub share: f32,
    /// Whether a new stream may go there.
    pub usable: bool,
    /// Why it stands here.
    pub reason: Reason,
    /// Since when it has had this state.
    pub since: Instant,
}

/// One port of a route: its candidates, best first, unusable ones last.
#[derive(Debug, Clone, PartialEq)]
pub struct PortRoute {
    /// The port as the import has it.
    pub spec: PortSpec,
    /// Best first.
    pub candidates: Vec<Candidate>,
    /// Under `weighted`: usable candidates are drawn by weight instead of in order.
    pub by_weight: bool,
}

/// Endpoints of one cluster that clients reach directly: headless names and `dns: endpoints`. Of
/// a headless name across networks these are the pods at their addresses here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectEndpoints {
    /// The cluster.
    pub cluster: ClusterId,
    /// Where it stands.
    pub locality: Locality,
    /// Clusters of one tier are ordered by nearness alone; an earlier tier (in better health, or
    /// preferred by the policy) comes first wherever the client is.
    pub tier: u16,
    /// Its ready endpoints, ascending by address.
    pub endpoints: Vec<ExportedEndpoint>,
}

/// The chosen ways to one service: what `explain` prints, what gateway and DNS obey.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The name.
    pub key: ServiceKey,
    /// The import's type.
    pub service_type: ServiceType,
    /// What the DNS name answers.
    pub dns: DnsMode,
    /// The policy in force.
    pub policy: Policy,
    /// The import's affinity.
    pub session_affinity: SessionAffinity,
    /// Early data opted in by every exporter.
    pub early_data: bool,
    /// The import as every cluster sees it, and where the exports disagree.
    pub import: Arc<Merged>,
    /// The clusterset addresses, at most one per family; empty for headless.
    pub vips: Vec<IpAddr>,
    /// Ports in the import's order.
    pub ports: Vec<PortRoute>,
    /// Every exporting cluster's place regardless of port (the best of its ports): the order
    /// of `explain` and of DNS.
    pub clusters: Vec<Candidate>,
    /// Reachable endpoints by cluster, nearest healthy first; Down clusters only as the last
    /// resort.
    pub direct: Vec<DirectEndpoints>,
    /// Pods of a headless import that are reached through the gateway.
    pub pods: RemotePods,
}

impl Route {
    /// The port of that protocol and number.
    #[must_use]
    pub fn port(&self, key: PortKey) -> Option<&PortRoute> {
        self.ports.iter().find(|port| port.spec.key() == key)
    }

    /// The order of [`Route::direct`] for clients at another place, as indices: within a tier
    /// the clusters of that zone come first, then those of that region, then the others, each in
    /// the order that was measured from here.
    #[must_use]
    pub fn order_from(&self, place: &Locality) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.direct.len()).collect();
        order.sort_by_key(|at| {
            let direct = &self.direct[*at];
            (direct.tier, distance(&direct.locality, place))
        });
        order
    }
}

/// Which service or pod, and which port of it, a port of the gateway stands for.
pub type GatewayPorts = BTreeMap<(Protocol, PortNumber), (Callee, PortKey)>;

/// Ports of [`GatewayPorts`] at which one replica accepts clients at this moment.
pub type OpenPorts = BTreeSet<(Protocol, PortNumber)>;

/// The one immutable truth that gateway, DNS and admin read.
#[derive(Debug, Clone)]
pub struct RouteTable {
    /// Rises with every published change, and over restarts: see [`RouteTable::first_revision`].
    pub revision: u64,
    /// When it was built.
    pub built: Instant,
    /// The own cluster.
    pub cluster: ClusterId,
    /// Where it stands: for clients there the order is the measured one.
    pub locality: Locality,
    /// By name.
    pub services: HashMap<ServiceKey, Arc<Route>>,
    /// Which service or pod owns a clusterset address.
    pub vips: BTreeMap<IpAddr, Callee>,
    /// Ports of this host that stand for a service's port, where clusterset addresses are the
    /// cluster's own and lead here.
    pub ports: Arc<GatewayPorts>,
    /// Peers by name.
    pub peers: BTreeMap<ClusterId, PeerStatus>,
    /// The drains in force, by what is drained.
    pub drains: Arc<Vec<Steered>>,
    /// What we export: the inbound gateway dials only this, `peering` publishes it.
    pub local: Arc<LocalCatalog>,
}

/// A peer as the table shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerStatus {
    /// What health says.
    pub health: PeerView,
    /// Control sessions held.
    pub sessions: u32,
    /// The catalog revision believed, of (replica, its start).
    pub revision: u64,
    /// The last thing that went wrong.
    pub last_error: Option<Arc<str>>,
    /// Socket addresses to dial now (configured, resolved and learned).
    pub addresses: Vec<SocketAddr>,
}

/// Revisions are counted on from so many a second of wall time at the start: twice as many as are
/// published.
const REVISIONS_PER_SECOND: u64 = 20;

impl RouteTable {
    /// The first revision of a process that starts at this wall time (milliseconds since 1970).
    /// As at most ten tables a second are published, it lies above every revision of the process
    /// before, unless the wall clock was set back meanwhile; nothing is written down for it.
    #[must_use]
    pub fn first_revision(wall_ms: i64) -> u64 {
        1 + u64::try_from(wall_ms).unwrap_or(0) / (1_000 / REVISIONS_PER_SECOND)
    }

    /// A route as clients at that place have it; `None` where that is as from here. Labels only
    /// say what was not measured: at our own place the measured order stays.
    #[must_use]
    pub fn seen_from(&self, route: &Route, place: &Locality) -> Option<Route> {
        let order = if *place == self.locality { Vec::new() } else { route.order_from(place) };
        if order.is_sorted() {
            return None;
        }
        let direct = order.into_iter().map(|at| route.direct[at].clone()).collect();
        Some(Route { direct, ..route.clone() })
    }

    /// The local export of that name, if this cluster exports it.
    #[must_use]
    pub fn local_export(&self, key: &ServiceKey) -> Option<&Arc<LocalExport>> {
        self.local.exports.get(key)
    }
}
