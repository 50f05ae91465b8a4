//! What the own cluster says besides its exports, where Kubernetes is the source.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::settings;
use crate::catalog::{
    Backend, CallerRules, ClusterRules, Export, Guidance, LocalExport, Share, Steer,
};
use crate::kubernetes::{ClusterView, GatewayMember, SecretData};
use crate::model::{
    Callee, ClusterId, Drain, Namespace, PeerAddress, PortKey, PortNumber, Protocol, ReplicaId,
    ServiceKey,
};
use crate::objects::PortBook;
use crate::peering::{PeerConfig, Presence};
use crate::routes::GatewayPorts;
use crate::siblings::{Member, SiblingView};
use crate::tls::{Pair, Supply};
use crate::{clock, drain};

/// What the planner takes from the cluster.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct ClusterFacts {
    /// The clusterset addresses: those of the imports, and of remote pods of headless ones.
    pub(super) addresses: BTreeMap<Callee, Vec<IpAddr>>,
    /// The allocated ports.
    pub(super) ports: Arc<GatewayPorts>,
    /// The Peer objects.
    pub(super) peers: Vec<PeerConfig>,
    /// The authorities that they pin, PEM.
    pub(super) bundles: BTreeMap<ClusterId, Arc<str>>,
    /// The drains that they ask for.
    pub(super) drains: BTreeMap<ClusterId, Drain>,
    /// How namespaces want callers to be led, where they say so.
    pub(super) namespaces: BTreeMap<Namespace, Guidance>,
}

/// One own export as it was last known. Slices stay behind: they are of use only to a writer,
/// and a writer has the API server.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedExport {
    export: Arc<Export>,
    clusters: ClusterRules,
    allow: CallerRules,
    #[serde(default)]
    most_streams: Option<u32>,
    #[serde(default)]
    steer: Steer,
    #[serde(default)]
    guidance: Guidance,
    backends: Vec<(PortKey, Vec<Backend>)>,
}

/// What an agent that starts without its API server serves from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SavedCluster {
    exports: Vec<SavedExport>,
    addresses: Vec<(Callee, Vec<IpAddr>)>,
    ports: Vec<(Protocol, PortNumber, Callee, PortKey)>,
    peers: Vec<PeerConfig>,
    bundles: BTreeMap<ClusterId, Arc<str>>,
    #[serde(default)]
    drains: BTreeMap<ClusterId, Drain>,
    #[serde(default)]
    namespaces: BTreeMap<Namespace, Guidance>,
}

/// The own exports by name.
type Exports = BTreeMap<ServiceKey, Arc<LocalExport>>;

impl SavedCluster {
    /// What is worth keeping.
    pub(super) fn of(exports: &Exports, facts: &ClusterFacts) -> Self {
        let saved = |local: &Arc<LocalExport>| SavedExport {
            export: Arc::clone(&local.export),
            clusters: local.clusters.clone(),
            allow: local.allow.clone(),
            most_streams: local.most_streams,
            steer: local.steer,
            guidance: local.guidance.clone(),
            backends: local.backends.iter().map(|(port, all)| (*port, all.clone())).collect(),
        };
        let ports = facts
            .ports
            .iter()
            .map(|((protocol, port), (callee, of))| (*protocol, *port, callee.clone(), *of));
        Self {
            exports: exports.values().map(saved).collect(),
            addresses: facts.addresses.iter().map(|(k, ips)| (k.clone(), ips.clone())).collect(),
            ports: ports.collect(),
            peers: facts.peers.clone(),
            bundles: facts.bundles.clone(),
            drains: facts.drains.clone(),
            namespaces: facts.namespaces.clone(),
        }
    }

    /// Puts it back.
    pub(super) fn restore(self) -> (Exports, ClusterFacts) {
        let restored = |saved: SavedExport| {
            let key = saved.export.key.clone();
            let local = LocalExport {
                export: saved.export,
                clusters: saved.clusters,
                allow: saved.allow,
                most_streams: saved.most_streams,
                steer: saved.steer,
                direct_share: Share::FULL,
                guidance: saved.guidance,
                backends: saved.backends.into_iter().collect(),
                slices: Vec::new(),
                problems: Vec::new(),
            };
            (key, Arc::new(local))
        };
        let ports = self.ports.into_iter();
        let ports = ports.map(|(protocol, port, callee, of)| ((protocol, port), (callee, of)));
        let facts = ClusterFacts {
            addresses: self.addresses.into_iter().collect(),
            ports: Arc::new(ports.collect()),
            peers: self.peers,
            bundles: self.bundles,
            drains: self.drains,
            namespaces: self.namespaces,
        };
        (self.exports.into_iter().map(restored).collect(), facts)
    }
}

/// Who hears what the cluster says.
pub(super) struct Hearers {
    pub(super) facts: watch::Sender<Arc<ClusterFacts>>,
    pub(super) presence: watch::Sender<Presence>,
    pub(super) supply: watch::Sender<Arc<Supply>>,
    pub(super) members: watch::Sender<Arc<Vec<Member>>>,
    pub(super) gateways: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    pub(super) replica: ReplicaId,
    /// What messages call the own identity.
    pub(super) name: PathBuf,
    /// The port between gateways, the same on every replica.
    pub(super) gateway_port: u16,
    /// The gateway's ports as they are recorded: a record that claims another's does not count.
    pub(super) book: PortBook,
    /// The Secret that was last looked at.
    pub(super) secret: Option<Arc<SecretData>>,
}

/// Hands on what the cluster says, from the moment all of it has been seen: before that, what an
/// earlier run knew stays in force.
pub(super) async fn follow(
    mut view: watch::Receiver<Arc<ClusterView>>,
    mut siblings: watch::Receiver<Arc<SiblingView>>,
    advertise: Vec<PeerAddress>,
    mut hearers: Hearers,
    mut drain: drain::Watch,
) -> anyhow::Result<()> {
    // That there is nothing is news too, once.
    let mut first = true;
    loop {
        let now = Arc::clone(&view.borrow_and_update());
        if now.synced {
            hearers.take(&now, &advertise, std::mem::take(&mut first));
        }
        let alive = live(&siblings.borrow_and_update(), hearers.replica);
        hearers.presence.send_if_modified(|presence| {
            let changed = presence.siblings != alive;
            presence.siblings = alive;
            changed
        });
        // The source ends before the last streams do: what it said last holds until then.
        let ended = tokio::select! {
            changed = view.changed() => changed.is_err(),
            changed = siblings.changed() => changed.is_err(),
            () = drain.reached(drain::Phase::Forced) => return Ok(()),
        };
        if ended {
            drain.reached(drain::Phase::Forced).await;
            return Ok(());
        }
    }
}

impl Hearers {
    fn take(&mut self, view: &ClusterView, advertise: &[PeerAddress], first: bool) {
        let services = view.services.iter().filter(|(_, service)| !service.foreign);
        self.book.restore(services.map(|(key, service)| (key, &service.ports)), clock::now());
        let facts = ClusterFacts::of(view, self.book.book());
        self.facts.send_if_modified(|current| replace(current, facts) || first);
        // This process is a gateway: that there is none is no truth to act on.
        if !view.gateways.is_empty() {
            self.take_gateways(view);
        }
        if advertise.is_empty() {
            self.presence.send_if_modified(|presence| {
                let changed = presence.addresses != *view.advertise;
                presence.addresses.clone_from(&view.advertise);
                changed
            });
        }
        let own = self.identity(view);
        self.supply.send_if_modified(|current| {
            // A Secret that is gone, or cannot be read, leaves the identity in force.
            let own = own.or_else(|| current.own.clone());
            replace(current, settings::kubernetes::supply(own, &view.peers))
        });
    }

    fn take_gateways(&self, view: &ClusterView) {
        let port = self.gateway_port;
        let members = view.gateways.iter().map(|gateway| member(gateway, port)).collect();
        let addresses = view.gateways.iter().flat_map(|gateway| gateway.addresses.iter().copied());
        let addresses: BTreeSet<IpAddr> = addresses.collect();
        self.gateways.send_if_modified(|current| replace(current, addresses));
        self.members.send_if_modified(|current| replace(current, members));
    }

    /// The identity of a Secret that was not looked at before.
    fn identity(&mut self, view: &ClusterView) -> Option<Arc<Pair>> {
        let secret = view.secret.as_ref()?;
        if self.secret.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, secret)) {
            return None;
        }
        self.secret = Some(Arc::clone(secret));
        let pair = settings::kubernetes::pair(secret, &self.name);
        pair.inspect_err(|error| tracing::warn!(%error, "the identity in force stays"))
            .ok()
            .map(Arc::new)
    }
}

/// The ports of an earlier run, whose holders keep them.
pub(super) fn book(range: RangeInclusive<PortNumber>, restored: &GatewayPorts) -> PortBook {
    let mut held: BTreeMap<Callee, BTreeMap<PortKey, PortNumber>> = BTreeMap::new();
    for ((_, number), (callee, port)) in restored {
        held.entry(callee.clone()).or_default().insert(*port, *number);
    }
    let mut book = PortBook::new(range);
    book.restore(&held, clock::now());
    book
}

/// Puts a value in place of another; whether it differs.
fn replace<T: PartialEq>(current: &mut Arc<T>, value: T) -> bool {
    let changed = **current != value;
    if changed {
        *current = Arc::new(value);
    }
    changed
}

impl ClusterFacts {
    fn of(view: &ClusterView, ports: Arc<GatewayPorts>) -> Self {
        let imports = view.imports.iter().filter(|(_, import)| !import.foreign);
        let addressed = imports.filter(|(_, import)| !import.ips.is_empty());
        let imports = addressed.map(|(key, import)| (key.clone().into(), import.ips.clone()));
        // A pod has no import of its own: its Service says where it is, once its ports are known.
        let pods = view.services.iter().filter(|(callee, service)| {
            callee.pod.is_some() && !service.foreign && !service.ports.is_empty()
        });
        let pods = pods.map(|(callee, service)| (callee.clone(), service.ips.clone()));
        let guiding = view.namespaces.iter().filter(|(_, said)| **said != Guidance::default());
        Self {
            addresses: imports.chain(pods).collect(),
            ports,
            peers: settings::kubernetes::peers_of_objects(&view.peers),
            bundles: settings::kubernetes::supply(None, &view.peers).peers,
            drains: settings::kubernetes::drains_of_objects(&view.peers),
            namespaces: guiding.map(|(name, said)| (name.clone(), said.clone())).collect(),
        }
    }
}

fn member(gateway: &GatewayMember, port: u16) -> Member {
    let at = gateway.addresses.iter().map(|address| SocketAddr::new(*address, port));
    Member { name: gateway.name.clone(), uid: gateway.uid.clone(), addresses: at.collect() }
}

/// The other replicas that answer.
fn live(view: &SiblingView, own: ReplicaId) -> Vec<ReplicaId> {
    view.siblings
        .values()
        .filter(|s| s.is_alive())
        .filter_map(|s| s.replica)
        .filter(|id| *id != own)
        .collect()
}
