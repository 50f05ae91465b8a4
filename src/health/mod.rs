//! Is a peer alive, and how far is it? Pure: facts and `now` in, views out.
//!
//! Edges report raw facts ([`Fact`]); what they mean is decided here. The key is
//! (peer, address, replica). A replica is Unknown until its first `PONG`, Up, Suspect (probed
//! quickly and raced), or Down, from where it returns only by a clean run of probes after its
//! hold-down. A peer is as well as its best replica.
//!
//! ```
//! use std::{collections::BTreeSet, time::Duration};
//! use portolan::health::{Config, Health, PeerState};
//! use portolan::model::ClusterId;
//!
//! let now = portolan::clock::now();
//! let oregon = ClusterId::parse("oregon").unwrap();
//! let mut health = Health::new(Config::default());
//! health.set_peers(&BTreeSet::from([oregon.clone()]), now);
//! assert_eq!(health.views(now)[&oregon].state, PeerState::Unknown);
//! ```
//!
//! Invariants: a state changes only in `observe` and `tick`; the same facts at the same times
//! give the same views; a PONG is never too late to count as heard; memory per peer is bounded.
//! A restarted process is another replica: the old one is Down as soon as its connection is gone,
//! the new one was seen after that, and one more fresh probe did not find the old one; it is
//! forgotten 10 s later. Other replicas that are gone are forgotten after 60 s, the last one
//! never, so that a peer that was heard once is never Unknown again.
//! Not here: sockets, probing (the gateway probes at the pace a view asks for), ordering
//! (`routes`).

mod address;
mod config;
mod estimator;
mod fact;
mod peer;
mod phase;
mod probes;
mod replica;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::model::ClusterId;

pub use config::{Config, InvalidTiming, Timing};
pub use fact::{DialFault, Fact, ProbeKind, Target};
pub use view::{Pace, PeerState, PeerView, ReplicaView};

use peer::{Outcome, Peer, Surroundings};

/// How often it is looked again whether we are still cut off (a peer may have been removed).
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Two ticks are at least so far apart, so that a caller that sleeps until `next_wake` sleeps.
const TICK_LEAST: Duration = Duration::from_millis(1);

/// The health of every peer.
#[derive(Debug, Clone)]
pub struct Health {
    config: Config,
    peers: BTreeMap<ClusterId, Peer>,
    /// When anybody was last heard.
    heard: Option<Instant>,
    /// Since when all peers have been silent together, so that none goes Down.
    cut_off_since: Option<Instant>,
    /// The last tick, at first when the first peers were set.
    ticked: Option<Instant>,
    lags: Lags,
}

/// Lags in a row: at most so many rounds are void.
#[derive(Debug, Clone, Default)]
struct Lags {
    last: Option<Instant>,
    row: u32,
}

impl Lags {
    /// Whether this lag voids its round. One stall may be noticed twice; it counts once.
    fn voids(&mut self, by: Duration, at: Instant, timing: &Timing) -> bool {
        let began = at.checked_sub(by).unwrap_or(at);
        match self.last {
            Some(last) if began < last => return false,
            Some(last) if began <= last + timing.round => self.row = self.row.saturating_add(1),
            _ => self.row = 1,
        }
        self.last = Some(at);
        self.row <= timing.voids_in_a_row
    }
}

impl Health {
    /// Knows no peer yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            peers: BTreeMap::new(),
            heard: None,
            cut_off_since: None,
            ticked: None,
            lags: Lags::default(),
        }
    }

    /// These are the peers now: new ones are Unknown, others are forgotten with all they did.
    pub fn set_peers(&mut self, peers: &BTreeSet<ClusterId>, now: Instant) {
        self.ticked.get_or_insert(now);
        self.peers.retain(|cluster, _| peers.contains(cluster));
        for cluster in peers {
            self.peers.entry(cluster.clone()).or_insert_with(|| Peer::new(cluster.clone(), now));
        }
    }

    /// Takes in what an edge saw. Facts that are waiting are observed before a `tick`, so that a
    /// late loop does not judge a probe whose answer lies in the queue. Facts about peers that
    /// are not set are dropped.
    pub fn observe(&mut self, fact: &Fact, now: Instant) {
        if let Fact::Lagged { by, at } = fact {
            self.lagged(*by, (*at).min(now));
            return;
        }
        let around = self.surroundings();
        let timing = self.config.timing();
        let Some(peer) = peer_of(fact).and_then(|cluster| self.peers.get_mut(cluster)) else {
            return;
        };
        let outcome = peer.observe(fact, &around, timing);
        if outcome.heard
            && let Some(heard) = peer.heard()
        {
            self.heard_at(heard);
        }
        self.take(outcome, now);
    }

    /// Judges what time alone decides. Due at [`Health::next_wake`]; a tick that comes much later
    /// is our own lag, and voids the round like [`Fact::Lagged`].
    pub fn tick(&mut self, now: Instant) {
        if let Some(late) = self.next_wake().map(|due| now.saturating_duration_since(due))
            && late > self.config.timing().lag
        {
            self.lagged(late, now);
        }
        let around = self.surroundings();
        let timing = self.config.timing();
        let mut kept = false;
        for peer in self.peers.values_mut() {
            kept |= peer.tick(now, &around, timing).kept;
        }
        self.take(Outcome { heard: false, kept }, now);
        if !kept {
            self.cut_off_since = None;
        }
        self.ticked = Some(self.ticked.map_or(now, |before| before.max(now)));
    }

    /// When time alone will next change something; `None`: not before another fact. It may lie
    /// in the past where facts came late: then at once. After `tick(t)` it lies after `t`.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        let timing = self.config.timing();
        let kept = self.cut_off_since.is_some();
        let ticked = self.ticked?;
        let due =
            |peer: &Peer| peer.due(ticked, kept, timing).map(|at| at.max(ticked + TICK_LEAST));
        let again = kept.then_some(ticked + LOOK_AGAIN);
        self.peers.values().filter_map(due).chain(again).min()
    }

    /// Every peer as it stands.
    #[must_use]
    pub fn views(&self, now: Instant) -> BTreeMap<ClusterId, PeerView> {
        let timing = self.config.timing();
        self.peers.iter().map(|(cluster, peer)| (cluster.clone(), peer.view(now, timing))).collect()
    }

    /// One peer as it stands.
    #[must_use]
    pub fn view(&self, peer: &ClusterId, now: Instant) -> Option<PeerView> {
        self.peers.get(peer).map(|peer| peer.view(now, self.config.timing()))
    }

    fn surroundings(&self) -> Surroundings {
        let live = |peer: &&Peer| match peer.state() {
            PeerState::Up | PeerState::Draining | PeerState::Suspect => true,
            PeerState::Unknown | PeerState::Down => false,
        };
        Surroundings { heard: self.heard, live_peers: self.peers.values().filter(live).count() }
    }

    /// One answer proves that we are alive. The time in which all were silent is given back to
    /// the others, at most as much as silence may last: then they go Down normally.
    fn heard_at(&mut self, at: Instant) {
        self.heard = Some(self.heard.map_or(at, |before| before.max(at)));
        let Some(since) = self.cut_off_since.filter(|since| at >= *since) else {
            return;
        };
        self.cut_off_since = None;
        let timing = self.config.timing();
        let grace = at.saturating_duration_since(since).min(timing.down_after);
        for peer in self.peers.values_mut() {
            peer.spare(grace, at, timing);
        }
    }

    fn take(&mut self, outcome: Outcome, now: Instant) {
        if outcome.kept && self.cut_off_since.is_none() {
            self.cut_off_since = Some(now);
            tracing::warn!("all peers fell silent at once: their order is kept until one answers");
        }
    }

    fn lagged(&mut self, by: Duration, at: Instant) {
        let timing = self.config.timing();
        if by <= timing.lag || !self.lags.voids(by, at, timing) {
            return;
        }
        for peer in self.peers.values_mut() {
            peer.void(by, at, timing);
        }
    }
}

fn peer_of(fact: &Fact) -> Option<&ClusterId> {
    match fact {
        Fact::Seen { target, .. }
        | Fact::ProbeSent { target, .. }
        | Fact::ProbeAnswered { target, .. }
        | Fact::ProbeFailed { target, .. }
        | Fact::ProbeVoid { target, .. }
        | Fact::Replied { target, .. }
        | Fact::OpenUnanswered { target, .. }
        | Fact::StandingLost { target, .. } => Some(&target.peer),
        Fact::DialFailed { peer, .. } | Fact::Draining { peer, .. } => Some(peer),
        Fact::Lagged { .. } => None,
    }
}

#[cfg(test)]
mod tests;
