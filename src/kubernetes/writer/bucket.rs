//! The budget of writes, as a token bucket in integer time.

use std::time::{Duration, Instant};

/// Writes per second in the long run. An import of two families with one port is seven writes (its
/// Service, itself, two EndpointSlices for kube-proxy, two of the import, its status) and a switch
/// of it two: a thousand of them take 12.5 s and no wait, and leave the API server's own limits
/// (600 requests at once by default) alone.
pub const RATE: u32 = 400;
/// Writes at once after a calm: a thousand switches of two families. However many are due, no more
/// than [`super::MAX_IN_FLIGHT`] are under way.
pub const BURST: u32 = 2_000;
/// What one write costs.
const COST: Duration = Duration::from_nanos(1_000_000_000 / RATE as u64);

/// A full bucket at first.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// When everything spent so far will have been paid back.
    paid: Option<Instant>,
}

impl Bucket {
    /// How long from `now` until a write may be made; zero: at once.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let debt = self.paid.map_or(Duration::ZERO, |paid| paid.saturating_duration_since(now));
        debt.saturating_sub(COST * (BURST - 1))
    }

    /// A write is made at `now`.
    pub(super) fn spend(&mut self, now: Instant) {
        self.paid = Some(self.paid.map_or(now, |paid| paid.max(now)) + COST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_burst_then_the_rate_then_a_burst_again() {
        let start = clock::now();
        let mut bucket = Bucket::default();
        let mut now = start;
        let mut made = Vec::new();
        for _ in 0..BURST + 2 * RATE {
            now += bucket.wait(now);
            bucket.spend(now);
            made.push(now.duration_since(start));
        }
        assert_eq!(made[BURST as usize - 1], Duration::ZERO);
        assert_eq!(made[BURST as usize], COST);
        assert_eq!(*made.last().unwrap(), Duration::from_secs(2));

        now += COST * BURST;
        for _ in 0..BURST {
            assert_eq!(bucket.wait(now), Duration::ZERO);
            bucket.spend(now);
        }
        assert_eq!(bucket.wait(now), COST);
    }
}
