//! What is known before anything is served: the source, the saved state, and a first plan.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cluster::{ClusterFacts, SavedCluster};
use super::planner::{Addresses, Start};
use super::saved::{self, SavedPeers};
use super::settings;
use crate::catalog::{Assembly, LocalCatalog, ServiceType, SourceEvent};
use crate::config::Config;
use crate::health::{self, Health};
use crate::peering::PeerConfig;
use crate::routes::{Inputs, PeerInput, RouteTable, plan};
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
    let unaddressed = plan(&inputs, inputs.started);
    for (key, route) in &unaddressed.services {
        if route.service_type == ServiceType::ClusterSetIp
            && let Err(error) = addresses.assign(key, clock::wall_ms())
        {
            tracing::warn!(service = %key, %error, "no clusterset address");
        }
    }
    if let Err(error) = saved::save(store, saved::VIPS, &addresses.saved()) {
        tracing::warn!(%error, "clusterset addresses could not be written down; they may differ after a restart");
    }
    inputs.vips = addresses.held().map(|(key, ips)| (key.clone(), ips.to_vec())).collect();
    start(inputs, assembly, peers, Addresses::Ours(addresses), false)
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
    let facts = Arc::new(facts);
    let addresses = Addresses::Clusters(Arc::clone(&facts));
    (start(inputs, Assembly::new(), peers, addresses, restored), facts)
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
    }
}

fn start(
    inputs: Inputs,
    assembly: Assembly,
    peers: Vec<PeerConfig>,
    addresses: Addresses,
    restored: bool,
) -> Start {
    let mut health = Health::new(health::Config::default());
    health.set_peers(&inputs.peers.keys().cloned().collect(), inputs.started);
    let table = RouteTable { revision: 1, ..plan(&inputs, inputs.started) };
    Start { inputs, assembly, health, addresses, peers, restored, table: Arc::new(table) }
}
