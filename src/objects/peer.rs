//! The status of a `Peer` (`portolan.dev/v1alpha1`).

use std::time::Duration;

use serde_json::{Value, json};

use super::condition::{Condition, ConditionStatus};
use super::ready::says;
use crate::health::PeerState;
use crate::routes;

/// What a `Peer` shows of the cluster it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// What health says.
    pub state: PeerState,
    /// The measured round trip that ranks it.
    pub rtt: Option<Duration>,
    /// Control sessions held.
    pub sessions: u32,
    /// How many services we import from it.
    pub services: u32,
    /// `Ready`.
    pub conditions: Vec<Condition>,
    /// The generation of the `Peer` that is in force.
    pub observed_generation: Option<i64>,
}

impl PeerStatus {
    /// From how the table shows it at `now_ms` (Unix milliseconds). `before`: the conditions that
    /// the `Peer` has; `services`: how many we import from it.
    #[must_use]
    pub fn of(
        peer: &routes::PeerStatus,
        services: u32,
        before: &[Condition],
        observed_generation: Option<i64>,
        now_ms: i64,
    ) -> Self {
        let state = peer.health.state;
        let (status, reason) = match state {
            PeerState::Up => (ConditionStatus::True, "Up"),
            PeerState::Draining => (ConditionStatus::True, "Draining"),
            PeerState::Suspect => (ConditionStatus::True, "Suspect"),
            PeerState::Unknown => (ConditionStatus::Unknown, "NeverHeard"),
            PeerState::Down => (ConditionStatus::False, "Down"),
        };
        let message = peer.last_error.as_deref().unwrap_or_default();
        let ready = says(status, reason, message);
        Self {
            state,
            rtt: peer.health.ranking_rtt,
            sessions: peer.sessions,
            services,
            conditions: vec![Condition::next("Ready", ready, before, observed_generation, now_ms)],
            observed_generation,
        }
    }

    /// As under `status`; `rtt` is a text in milliseconds with one decimal place, `20.4`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let conditions: Vec<_> = self.conditions.iter().map(Condition::to_json).collect();
        let mut value = json!({
            "state": self.state.as_str(),
            "sessions": self.sessions,
            "services": self.services,
            "conditions": conditions,
        });
        if let Some(rtt) = self.rtt {
            value["rtt"] = format!("{:.1}", rtt.as_secs_f64() * 1e3).into();
        }
        if let Some(generation) = self.observed_generation {
            value["observedGeneration"] = generation.into();
        }
        value
    }
}
