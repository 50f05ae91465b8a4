//! Control sessions: every gateway dials every peer replica it can reach and subscribes to its
//! catalog; whoever is dialled publishes.
//!
//! What a subscriber holds of one publisher is a *mirror*; of the mirrors of one peer one is
//! *believed* (the oldest synced session's), judged by what that peer may claim, and reported as
//! an [`Event::Catalog`].
//!
//! Invariants: a peer is who its certificate says, never who its `Hello` says; losing sessions
//! never empties a catalog, only a complete snapshot or its deltas replace it; a bad record
//! refuses itself, a catalog over its caps leaves the last good one; every channel, buffer and
//! list is bounded per peer. What peers say of their own health or speed is not even read.
//! Not here: what a catalog means (`catalog`), whether a peer is healthy (`health`, by probes),
//! saved catalogs (the planner's).

mod believe;
mod convert;
mod dial;
mod digest;
mod hub;
mod link;
mod meter;
mod metrics;
mod mirror;
mod peer;
mod publish;
mod resolve;
mod sessions;
mod subscribe;
mod view;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, watch};

use crate::catalog::{LocalCatalog, NamespaceRules, PeerCatalog};
use crate::drain;
use crate::model::{ClusterId, Locality, PeerAddress, ReplicaId};
use crate::tls::{Accepted, Dialer, Trust};

#[cfg(feature = "testing")]
pub use convert::reread;
pub use metrics::Metrics;
pub use resolve::Lookup;

/// Who we are, as told to peers, and what they may never claim.
#[derive(Debug, Clone)]
pub struct Config {
    /// The own cluster.
    pub cluster: ClusterId,
    /// The own replica, random per start.
    pub replica: ReplicaId,
    /// The own network; empty is none.
    pub network: Box<str>,
    /// What may change while we run, at first: see [`Peering::with_presence`].
    pub presence: Presence,
    /// The own version, for people.
    pub version: String,
    /// Our own ranges and listeners: no peer's endpoint or learned address may lie there.
    pub own_ranges: Vec<IpNet>,
}

/// What peers are told of us that may change while we run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Presence {
    /// Where we stand.
    pub locality: Locality,
    /// Where peers reach us; empty: what they have configured.
    pub addresses: Vec<PeerAddress>,
    /// The other live replicas of the own cluster, where they are known.
    pub siblings: Vec<ReplicaId>,
}

/// One peer as the configuration or its Peer object names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConfig {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Where its gateways are reached.
    pub addresses: Vec<PeerAddress>,
    /// Where its endpoints may lie.
    pub networks: Vec<IpNet>,
    /// What we import from it.
    pub namespaces: NamespaceRules,
    /// Whether the `policy`, `fence` and `dns` of its exports may lead callers here.
    #[serde(default = "trusted")]
    pub trust_policy: bool,
}

/// What was saved before peers could be refused that.
fn trusted() -> bool {
    true
}

/// What changed at a peer. Every event carries the whole of its subject, so that only the latest
/// of a kind matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// What we believe of its exports; at most ten a second.
    Catalog {
        /// The peer.
        peer: ClusterId,
        /// All its exports that are believed.
        catalog: Arc<PeerCatalog>,
        /// The publisher's revision, for people: another replica counts anew.
        revision: u64,
    },
    /// How many sessions to its replicas we hold.
    Sessions {
        /// The peer.
        peer: ClusterId,
        /// So many.
        count: u32,
    },
    /// Where it is dialled: configured, resolved and learned, in this order.
    Addresses {
        /// The peer.
        peer: ClusterId,
        /// Its addresses, without duplicates.
        addresses: Vec<SocketAddr>,
    },
    /// A replica announced that it drains, or (`false`) that it no longer does.
    Draining {
        /// The peer.
        peer: ClusterId,
        /// Which of its replicas.
        replica: ReplicaId,
        /// Whether.
        draining: bool,
    },
    /// Something is wrong with it; what is known stays in force.
    Trouble {
        /// The peer.
        peer: ClusterId,
        /// What is wrong and what to do.
        error: String,
    },
    /// Nothing is wrong any more.
    Cleared {
        /// The peer.
        peer: ClusterId,
    },
    /// It is configured no longer: forget it.
    Gone {
        /// The peer.
        peer: ClusterId,
    },
}

/// The replicas that health has found Down: their sessions are not believed while another is.
pub type DownReplicas = BTreeSet<(ClusterId, ReplicaId)>;

/// Why peering ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    /// A part of the process that it talks to has ended.
    #[error("the {0} has ended while peering still runs; see its own error in the log")]
    Abandoned(&'static str),
}

/// The control sessions with all peers.
#[derive(Debug)]
pub struct Peering {
    config: Arc<Config>,
    peers: watch::Receiver<Arc<Vec<PeerConfig>>>,
    local: watch::Receiver<Arc<LocalCatalog>>,
    dialer: Dialer,
    trust: Trust,
    events: mpsc::Sender<Event>,
    metrics: Metrics,
    down: watch::Receiver<Arc<DownReplicas>>,
    presence: watch::Receiver<Presence>,
    lookup: Lookup,
}

impl Peering {
    /// Peers may be added, removed and changed while it runs; `local` is what we publish.
    #[must_use]
    pub fn new(
        config: Config,
        peers: watch::Receiver<Arc<Vec<PeerConfig>>>,
        local: watch::Receiver<Arc<LocalCatalog>>,
        dialer: Dialer,
        trust: Trust,
        events: mpsc::Sender<Event>,
        metrics: Metrics,
    ) -> Self {
        // A closed channel keeps its last value: nobody is Down until health is connected.
        let (_, down) = watch::channel(Arc::default());
        let (_, presence) = watch::channel(config.presence.clone());
        let config = Arc::new(config);
        let lookup = Lookup::system();
        Self { config, peers, local, dialer, trust, events, metrics, down, presence, lookup }
    }

    /// Takes health's findings: the session of a Down replica is left for another.
    #[must_use]
    pub fn with_down(mut self, down: watch::Receiver<Arc<DownReplicas>>) -> Self {
        self.down = down;
        self
    }

    /// Follows what may change while it runs; open sessions are told.
    #[must_use]
    pub fn with_presence(mut self, presence: watch::Receiver<Presence>) -> Self {
        self.presence = presence;
        self
    }

    /// Replaces the system's resolver.
    #[must_use]
    pub fn with_lookup(mut self, lookup: Lookup) -> Self {
        self.lookup = lookup;
        self
    }

    /// Dials, subscribes and publishes until drain reaches `Draining`. `accepted` yields the
    /// control connections that peers made.
    pub async fn run(
        self,
        accepted: mpsc::Receiver<Accepted>,
        drain: drain::Watch,
    ) -> Result<(), Error> {
        hub::Hub::new(self, drain).run(accepted).await
    }
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
