//! Conditions, as every status of the Kubernetes API has them (`metav1.Condition`).

use serde::Deserialize;
use serde_json::{Value, json};

use super::json::{time, to_seconds};

/// What a condition says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can tell yet.
    Unknown,
}

impl ConditionStatus {
    /// The spelling of the Kubernetes API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What a condition says: status, reason, message.
pub(super) type Says = (ConditionStatus, String, String);

/// One condition of a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its type, e.g. `Ready`.
    pub kind: Box<str>,
    /// What it says.
    pub status: ConditionStatus,
    /// Why, as one CamelCase word (several conflicts are joined by commas).
    pub reason: Box<str>,
    /// Why, for people.
    pub message: Box<str>,
    /// The generation of the object that this was decided from.
    pub observed_generation: Option<i64>,
    /// Since when it has this status, Unix seconds: the API keeps no finer time.
    pub last_transition: i64,
}

/// The longest message the API takes, in characters (`metav1.Condition`).
const MAX_MESSAGE: usize = 32_768;

impl Condition {
    /// A condition as it stands at `now_ms` (Unix milliseconds): its time is that of the one it
    /// replaces among `before`, unless its status moved.
    pub(super) fn next(
        kind: &str,
        (status, reason, message): Says,
        before: &[Self],
        observed_generation: Option<i64>,
        now_ms: i64,
    ) -> Self {
        let same = before.iter().find(|old| *old.kind == *kind && old.status == status);
        let message = match message.char_indices().nth(MAX_MESSAGE) {
            Some((end, _)) => message[..end].into(),
            None => message.into_boxed_str(),
        };
        Self {
            kind: kind.into(),
            status,
            reason: reason.into(),
            message,
            observed_generation,
            last_transition: same
                .map_or_else(|| now_ms.div_euclid(1000), |old| old.last_transition),
        }
    }

    /// As in a status.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "type": self.kind,
            "status": self.status.as_str(),
            "reason": self.reason,
            "message": self.message,
            "lastTransitionTime": time(self.last_transition),
        });
        if let Some(generation) = self.observed_generation {
            value["observedGeneration"] = generation.into();
        }
        value
    }

    /// Reads the conditions of a status; what is no condition is left out, as nobody can answer
    /// for it.
    #[must_use]
    pub fn list(conditions: &[Value]) -> Vec<Self> {
        conditions.iter().filter_map(|value| Raw::deserialize(value).ok().map(Into::into)).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(rename = "type")]
    kind: Box<str>,
    status: ConditionStatus,
    #[serde(default)]
    reason: Box<str>,
    #[serde(default)]
    message: Box<str>,
    observed_generation: Option<i64>,
    last_transition_time: Option<Box<str>>,
}

impl From<Raw> for Condition {
    fn from(raw: Raw) -> Self {
        Self {
            kind: raw.kind,
            status: raw.status,
            reason: raw.reason,
            message: raw.message,
            observed_generation: raw.observed_generation,
            last_transition: raw.last_transition_time.as_deref().and_then(to_seconds).unwrap_or(0),
        }
    }
}
