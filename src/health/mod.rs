//! Is a peer alive, and how far is it? Pure: facts and `now` in, views out.
//!
//! Invariants: a state changes only in `observe` and `tick`; the same facts at the same times
//! give the same views; a PONG is never too late to count as heard.
//! Not here: sockets, probing (the gateway probes at the pace a view asks for), ordering
//! (`routes`).

mod config;
mod estimator;
mod fact;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::model::ClusterId;

pub use config::{Config, InvalidTiming, Timing};
pub use fact::{DialFault, Fact, ProbeKind, Target};
pub use view::{Pace, PeerState, PeerView, ReplicaView};

/// The health of every peer.
#[derive(Debug, Clone)]
pub struct Health {
    config: Config,
    peers: BTreeMap<ClusterId, Instant>,
}

impl Health {
    /// Knows no peer yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, peers: BTreeMap::new() }
    }

    /// These are the peers now: new ones are Unknown, others are forgotten with all they did.
    pub fn set_peers(&mut self, peers: &BTreeSet<ClusterId>, now: Instant) {
        self.peers.retain(|cluster, _| peers.contains(cluster));
        for cluster in peers {
            self.peers.entry(cluster.clone()).or_insert(now);
        }
    }

    /// Takes in what an edge saw. Facts are observed before the `tick` of the same moment.
    pub fn observe(&mut self, _fact: &Fact, _now: Instant) {}

    /// Judges what time alone decides. Due at [`Health::next_wake`].
    pub fn tick(&mut self, _now: Instant) {}

    /// When time alone will next change something; it may lie in the past: then at once.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        None
    }

    /// Every peer as it stands.
    #[must_use]
    pub fn views(&self, now: Instant) -> BTreeMap<ClusterId, PeerView> {
        self.peers.keys().filter_map(|c| Some((c.clone(), self.view(c, now)?))).collect()
    }

    /// One peer as it stands.
    #[must_use]
    pub fn view(&self, peer: &ClusterId, _now: Instant) -> Option<PeerView> {
        let since = *self.peers.get(peer)?;
        Some(PeerView {
            state: PeerState::Unknown,
            since,
            rtt: None,
            ranking_rtt: None,
            loss_percent: 0.0,
            replicas: Vec::new(),
        })
    }
}
