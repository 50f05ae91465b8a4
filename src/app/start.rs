//! What is known before anything is served: the source, the saved state, and a first plan.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::addresses::{Addresses, addressed};
use super::cluster::{ClusterFacts, SavedCluster};
use super::planner::Start;
use super::saved::{self, SavedPeers};
use super::settings;
use crate::catalog::{Assembly, LocalCatalog, SourceEvent};
use crate::config::Config;
use crate::health::{self, Health};
use crate::model::{ClusterId, Drain};
use crate::peering::PeerConfig;
use crate::routes::{Drains, Inputs, Orders, PeerInput, RouteTable, Steering, plan};
use crate::store::Store;
use crate::{clock, vips};

/// From manifests: every clusterset address is written down before it is first answered.
pub(super) fn from_files(config: &Config, store: &Store, first: Vec<SourceEvent>) -> Start {
    let mut assembly = Assembly::new();
    assembly.apply(first);
    let local = LocalCatalog {
        revision: 1,
        synced: true,
        exports: assembly.exports(),
        refused: assembly.refused().clone(),
    };
    let peers = settings::peers(config);
    let mut inputs = inputs(config, store, &peers, local);
    let mut addresses = vips::Allocator::new(config.vips.clone(), saved::load_vips(store));
    // This plan is gone before the next is made: with many services each is large.
    for callee in plan(&inputs, inputs.started).services.values().flat_map(|route| addressed(route))
    {
        if let Err(error) = addresses.assign(&callee, clock::wall_ms()) {
            tracing::warn!(service = %callee, %error, "no clusterset address");
        }
    }
    if let Err(error) = saved::save(store, saved::VIPS, &addresses.saved()) {
        tracing::warn!(%error, "clusterset addresses could not be written down; they may differ after a restart");
    }
    inputs.vips = addresses.held().map(|(key, ips)| (key.clone(), ips.to_vec())).collect();
    let known = Known { peers, addresses: Addresses::Ours(addresses), restored: false };
    start(inputs, assembly, saved::load_drains(store), BTreeMap::new(), known)
}

/// From a cluster: what an earlier run knew of it, until the API server has said everything.
pub(super) fn from_cluster(config: &Config, store: &Store) -> (Start, Arc<ClusterFacts>) {
    let saved: Option<SavedCluster> = saved::load(store, saved::CLUSTER);
    let restored = saved.is_some();
    let (exports, facts) = saved.map(SavedCluster::restore).unwrap_or_default();
    let local = LocalCatalog { revision: 1, synced: false, exports, ..LocalCatalog::default() };
    let peers = facts.peers.clone();
    let mut inputs = inputs(config, store, &peers, local);
    inputs.vips = facts.addresses.clone();
    inputs.ports = Arc::clone(&facts.ports);
    inputs.namespaces.clone_from(&facts.namespaces);
    let facts = Arc::new(facts);
    let addresses = Addresses::Clusters(Arc::clone(&facts));
    let known = Known { peers, addresses, restored };
    let (drains, annotated) = (saved::load_drains(store), facts.drains.clone());
    (start(inputs, Assembly::new(), drains, annotated, known), facts)
}

fn inputs(config: &Config, store: &Store, peers: &[PeerConfig], local: LocalCatalog) -> Inputs {
    let mut saved: SavedPeers = saved::load(store, saved::PEERS).unwrap_or_default();
    let mut restored = |peer: &PeerConfig| {
        let input = saved.remove(&peer.cluster).map(saved::restore_peer).unwrap_or_default();
        (peer.cluster.clone(), PeerInput { leads: peer.trust_policy, ..input })
    };
    Inputs {
        cluster: config.cluster.clone(),
        started: clock::now(),
        locality: config.locality.clone(),
        network: config.network.clone(),
        local: Arc::new(local),
        peers: peers.iter().map(&mut restored).collect(),
        vips: BTreeMap::new(),
        ports: Arc::default(),
        namespaces: BTreeMap::new(),
        drains: Arc::default(),
    }
}

/// What else is known from the start.
struct Known {
    peers: Vec<PeerConfig>,
    addresses: Addresses,
    restored: bool,
}

fn start(
    mut inputs: Inputs,
    assembly: Assembly,
    drains: Drains,
    annotated: BTreeMap<ClusterId, Drain>,
    known: Known,
) -> Start {
    let mut health = Health::new(health::Config::default());
    health.set_peers(&inputs.peers.keys().cloned().collect(), inputs.started);
    // What is drained is drained from the first table on.
    let drains = Arc::new(drains);
    let mut steering = Steering::default();
    steering.order(Orders { drains: Arc::clone(&drains), ..Orders::default() });
    steering.annotate(annotated);
    let started = inputs.started;
    steering.steer(&mut inputs, clock::wall_ms(), started);
    let revision = RouteTable::first_revision(clock::wall_ms());
    let table = RouteTable { revision, ..plan(&inputs, inputs.started) };
    let table = Arc::new(table);
    let Known { peers, addresses, restored } = known;
    Start { inputs, assembly, health, steering, drains, addresses, peers, restored, table }
}
