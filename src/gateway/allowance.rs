//! The budget of repeated attempts, per destination: 20 % of its streams and 10 a second, so
//! that retries never multiply what a struggling cluster gets. Pure: `now` is an argument.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::model::ClusterId;

/// Repeats each new stream adds.
const SHARE: f64 = 0.2;
/// Repeats each second adds.
const PER_SECOND: f64 = 10.0;
/// Most repeats saved up by time and streams together.
const MOST_SAVED: f64 = 100.0;

/// What one destination may still be asked again.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full_second(now: Instant) -> Self {
        Self { tokens: PER_SECOND, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        // What streams saved above the cap of time stays, up to the cap of both.
        self.tokens = (self.tokens + passed * PER_SECOND).min(MOST_SAVED);
    }

    fn spend(&mut self, now: Instant) -> bool {
        self.refill(now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

/// The budgets of every destination.
#[derive(Debug, Default)]
pub(super) struct Allowances(Mutex<HashMap<ClusterId, Bucket>>);

impl Allowances {
    /// A stream was begun there for the first time.
    pub(super) fn earn(&self, destination: &ClusterId, now: Instant) {
        self.with(destination, now, |bucket| {
            bucket.tokens = (bucket.tokens + SHARE).min(MOST_SAVED);
        });
    }

    /// Whether one more repeat may go there; takes it from the budget.
    pub(super) fn spend(&self, destination: &ClusterId, now: Instant) -> bool {
        self.with(destination, now, |bucket| bucket.spend(now))
    }

    fn with<T>(&self, to: &ClusterId, now: Instant, act: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(to) {
            return act(bucket);
        }
        act(buckets.entry(to.clone()).or_insert_with(|| Bucket::full_second(now)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ten_a_second_and_a_fifth_of_the_streams() {
        let to = ClusterId::parse("oregon").unwrap();
        let start = crate::clock::now();
        let allowances = Allowances::default();
        let drain = |now| (0..1_000).take_while(|_| allowances.spend(&to, now)).count();
        assert_eq!(drain(start), 10);
        assert_eq!(drain(start + Duration::from_secs(1)), 10);
        for _ in 0..51 {
            allowances.earn(&to, start + Duration::from_secs(1));
        }
        assert_eq!(drain(start + Duration::from_secs(1)), 10);
        assert_eq!(drain(start + Duration::from_secs(3_600)), 100, "never more than is saved");
    }
}
