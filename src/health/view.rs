//! What health concludes, as data for routes, gateway and people.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::fact::Target;

/// The state of a replica or of a peer (that of its best replica).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// Answering.
    Up,
    /// Answering, but asked to be left alone.
    Draining,
    /// Something is not as it should be; raced with the next candidate.
    Suspect,
    /// Never heard.
    #[default]
    Unknown,
    /// Given up until it comes back by the rules.
    Down,
}

impl PeerState {
    /// The spelling of the admin JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Suspect => "suspect",
            Self::Unknown => "unknown",
            Self::Down => "down",
        }
    }
}

/// How a replica is to be probed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pace {
    /// Every 1 s ± 10 %, every tenth fresh.
    Steady,
    /// Every 300 ms, old and fresh in turn.
    Quick,
}

/// One replica as health sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaView {
    /// Which.
    pub target: Target,
    /// Its state.
    pub state: PeerState,
    /// Since when.
    pub since: Instant,
    /// Smoothed round trip, once measured.
    pub rtt: Option<Duration>,
    /// How to probe it.
    pub pace: Pace,
    /// Silent for 2 s: ask every open stream once, on its own connection.
    pub ask_streams: bool,
    /// Down by silence: end streams that heard nothing since this instant (the first miss).
    pub reset_unheard_since: Option<Instant>,
    /// 0.0 to 1.0: the share it may take while it comes back slowly.
    pub slow_start: f32,
}

/// One peer as health sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerView {
    /// Its state: the best of its replicas'.
    pub state: PeerState,
    /// Since when.
    pub since: Instant,
    /// Smoothed round trip of its best replica.
    pub rtt: Option<Duration>,
    /// The round trip that ranks: moves only on a lasting difference.
    pub ranking_rtt: Option<Duration>,
    /// Share of probes unanswered among the last 100, in percent.
    pub loss_percent: f32,
    /// Its replicas, best first.
    pub replicas: Vec<ReplicaView>,
}

impl PeerView {
    /// The share it may take while it comes back slowly: the largest of its replicas that answer,
    /// so that one that returns takes nothing from those that were never away.
    #[must_use]
    pub fn share(&self) -> f32 {
        let answering = |r: &&ReplicaView| matches!(r.state, PeerState::Up | PeerState::Suspect);
        let shares = self.replicas.iter().filter(answering).map(|replica| replica.slow_start);
        shares.reduce(f32::max).unwrap_or(1.0)
    }
}
