//! What changed between two states, so that only that is planned and told again.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::health::{PeerState, PeerView};
use crate::model::ClusterId;
use crate::peering;
use crate::routes::RouteTable;

/// Whether what orders candidates changed.
pub(super) fn routes_differ(before: &PeerView, now: &PeerView) -> bool {
    before.state != now.state
        || before.since != now.since
        || before.ranking_rtt != now.ranking_rtt
        || before.share() != now.share()
}

/// Whether what the gateway obeys changed: replicas, their pace, streams to ask or to end.
pub(super) fn replicas_differ(before: &PeerView, now: &PeerView) -> bool {
    before.replicas.len() != now.replicas.len()
        || before.replicas.iter().zip(&now.replicas).any(|(a, b)| {
            a.target != b.target
                || a.state != b.state
                || a.pace != b.pace
                || a.ask_streams != b.ask_streams
                || a.reset_unheard_since != b.reset_unheard_since
        })
}

pub(super) fn down_replicas(views: &BTreeMap<ClusterId, PeerView>) -> peering::DownReplicas {
    let replicas = views.values().flat_map(|view| &view.replicas);
    replicas
        .filter(|replica| replica.state == PeerState::Down)
        .map(|replica| (replica.target.peer.clone(), replica.target.replica))
        .collect()
}

/// Keeps the old allocation of every route that did not change, so that readers which compare by
/// pointer see only what did.
pub(super) fn keep_equal_routes(old: &RouteTable, new: &mut RouteTable) {
    for (key, route) in &mut new.services {
        if let Some(before) = old.services.get(key).filter(|before| *before == route) {
            *route = Arc::clone(before);
        }
    }
}

/// Names whose value is new, gone or another. Values at the same place are not looked into.
pub(super) fn changed_keys<K: Ord + Clone, T: Eq>(
    old: &BTreeMap<K, T>,
    new: &BTreeMap<K, T>,
) -> Vec<K> {
    let changed = new.iter().filter(|(key, value)| old.get(*key) != Some(*value));
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    changed.map(|(key, _)| key).chain(gone).cloned().collect()
}
