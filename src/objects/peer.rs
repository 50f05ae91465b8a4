//! The status of a `Peer` (`portolan.dev/v1alpha1`).

use std::time::Duration;

use serde_json::{Value, json};

use super::condition::Condition;
use crate::health::PeerState;

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
