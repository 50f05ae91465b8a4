//! What survives a restart: addresses, peers' catalogs, the last order. No keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalog::{Export, PeerCatalog};
use crate::model::{ClusterId, Drain, Locality};
use crate::routes::{Drained, Drains, Inputs, PeerInput};
use crate::store::Store;
use crate::vips;

/// File name and version of the clusterset addresses.
pub(super) const VIPS: (&str, u32) = ("vips", 1);
/// File name and version of the peers' catalogs.
pub(super) const PEERS: (&str, u32) = ("peers", 1);

/// File name and version of what the own cluster said, where it is the source.
pub(super) const CLUSTER: (&str, u32) = ("cluster", 1);

/// File name and version of the drains that were ordered.
pub(super) const DRAINS: (&str, u32) = ("drains", 1);

/// The drains that were ordered. JSON has no map with such keys.
pub(super) fn load_drains(store: &Store) -> Drains {
    let listed: Option<Vec<(Drained, Drain)>> = load(store, DRAINS);
    listed.unwrap_or_default().into_iter().collect()
}

/// Writes them down; blocks on the disk.
pub(super) fn save_drains(store: &Store, drains: &Drains) -> anyhow::Result<()> {
    save(store, DRAINS, &drains.iter().collect::<Vec<_>>())
}

/// One peer as it was last known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedPeer {
    network: Box<str>,
    locality: Locality,
    ranking_rtt: Option<Duration>,
    revision: u64,
    exports: Vec<Arc<Export>>,
}

/// Every peer as it was last known.
pub(super) type SavedPeers = BTreeMap<ClusterId, SavedPeer>;

/// What is worth keeping of the peers: those whose catalog is known.
pub(super) fn peers_of(inputs: &Inputs) -> SavedPeers {
    let saved = |peer: &PeerInput| SavedPeer {
        network: peer.catalog.network.clone(),
        locality: peer.catalog.locality.clone(),
        ranking_rtt: peer.health.as_ref().and_then(|h| h.ranking_rtt).or(peer.remembered_rtt),
        revision: peer.revision,
        exports: peer.catalog.exports.values().map(Arc::clone).collect(),
    };
    inputs
        .peers
        .iter()
        .filter(|(_, peer)| peer.revision > 0)
        .map(|(cluster, peer)| (cluster.clone(), saved(peer)))
        .collect()
}

/// Puts a saved peer back.
pub(super) fn restore_peer(saved: SavedPeer) -> PeerInput {
    let exports = saved.exports.into_iter().map(|e| (e.key.clone(), e)).collect();
    PeerInput {
        catalog: Arc::new(PeerCatalog {
            exports,
            network: saved.network,
            locality: saved.locality,
        }),
        remembered_rtt: saved.ranking_rtt,
        revision: saved.revision,
        ..PeerInput::default()
    }
}

/// Reads one saved value. Whatever is wrong with it (torn, flipped, from another version) is
/// logged and leaves us without it: a cold start is safe, a wrong table is not.
pub(super) fn load<T: for<'de> Deserialize<'de>>(
    store: &Store,
    (name, version): (&str, u32),
) -> Option<T> {
    let bytes = match store.load(name, version) {
        Ok(bytes) => bytes?,
        Err(error) => {
            tracing::warn!(name, %error, "saved state ignored; starting without it");
            return None;
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(name, %error, "saved state ignored; starting without it");
            None
        }
    }
}

/// Writes one value; blocks on the disk.
pub(super) fn save<T: Serialize>(
    store: &Store,
    (name, version): (&str, u32),
    value: &T,
) -> anyhow::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    store.save(name, version, &bytes)?;
    Ok(())
}

/// The addresses as saved, if they can be read.
pub(super) fn load_vips(store: &Store) -> Option<vips::Saved> {
    load(store, VIPS)
}
