//! Saturation: what is answered "overloaded" here, and the share that is left because of it.
//!
//! Counts of a window in, a cap on the share out. It falls to what could be served, never under
//! [`LEAST`], and rises by a little in every window without such an answer, so that the load
//! comes back when there is room and not before.

use std::collections::BTreeMap;

use crate::catalog::Share;
use crate::model::ServiceKey;

/// A saturated service still takes so much: else nobody would learn that it recovered.
const LEAST: u32 = 10;
/// The cap rises by so many points in a window without an overload.
const RISE: u32 = 5;

/// What became of the new connections to one service within a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answers {
    /// Taken.
    pub accepted: u64,
    /// Answered "overloaded".
    pub overloaded: u64,
}

/// The caps on shares of services that were saturated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pressure(BTreeMap<ServiceKey, Share>);

impl Pressure {
    /// The cap of one service.
    #[must_use]
    pub fn cap(&self, key: &ServiceKey) -> Share {
        self.0.get(key).copied().unwrap_or_default()
    }

    /// Whether nothing is capped.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The services that are capped.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.0.keys()
    }

    /// Takes in a window, in which each service took the `share` that is told; services without an
    /// answer in it had no overload.
    pub fn window(
        &mut self,
        answers: &BTreeMap<ServiceKey, Answers>,
        share: impl Fn(&ServiceKey) -> Share,
    ) {
        for (key, answers) in answers.iter().filter(|(_, answers)| answers.overloaded > 0) {
            let all = answers.accepted.saturating_add(answers.overloaded);
            let now = u64::from(share(key).percent());
            let served = now.saturating_mul(answers.accepted) / all;
            let served = u32::try_from(served).unwrap_or(LEAST).max(LEAST);
            self.0.insert(key.clone(), Share::new(served).unwrap_or_default());
        }
        self.0.retain(|key, cap| {
            if answers.get(key).is_none_or(|answers| answers.overloaded == 0) {
                *cap = Share::new(u32::from(cap.percent()) + RISE).unwrap_or_default();
            }
            *cap != Share::FULL
        });
    }
}
