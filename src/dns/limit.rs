//! Positive UDP answers a second to one network outside: what is over gets TC, never silence.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Answers a second that one source network gets over UDP.
const RATE: u32 = 100;
/// Answers that it may get at once.
const BURST: u32 = 200;
/// Buckets; networks that share one share its budget. Memory is fixed, and who forges sources
/// gains nothing: which networks share is keyed at random per start.
const BUCKETS: usize = 4096;

/// Budgets by source network (IPv4 /24, IPv6 /56).
#[derive(Debug)]
pub struct Limiter {
    /// Up to when each bucket's budget is spent.
    spent_until: Box<[Option<Instant>]>,
    key: RandomState,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { spent_until: vec![None; BUCKETS].into(), key: RandomState::new() }
    }
}

impl Limiter {
    /// Takes one answer from the budget of this source's network; false if none is left.
    pub(super) fn admit(&mut self, source: IpAddr, now: Instant) -> bool {
        let interval = Duration::from_secs(1) / RATE;
        let bucket = usize::try_from(self.key.hash_one(network(source)) % BUCKETS as u64);
        let Some(spent) = bucket.ok().and_then(|at| self.spent_until.get_mut(at)) else {
            return false;
        };
        let from = spent.map_or(now, |until| until.max(now));
        let within = from + interval <= now + interval * BURST;
        if within {
            *spent = Some(from + interval);
        }
        within
    }
}

/// The network that a source stands for.
fn network(source: IpAddr) -> u64 {
    match source {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8),
        // The top bit keeps the two families apart.
        IpAddr::V6(v6) => (1 << 63) | u64::try_from(v6.to_bits() >> 72).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_network_gets_its_burst_then_its_rate() {
        let mut limiter = Limiter::default();
        let now = clock::now();
        let (one, same): (IpAddr, IpAddr) =
            ("198.51.100.1".parse().unwrap(), "198.51.100.200".parse().unwrap());
        let admitted = |limiter: &mut Limiter, at| {
            (0..1000).filter(|i| limiter.admit(if i % 2 == 0 { one } else { same }, at)).count()
        };
        assert_eq!(admitted(&mut limiter, now), BURST as usize);
        let later = now + Duration::from_secs(1);
        assert_eq!(admitted(&mut limiter, later), RATE as usize);
        let calm = later + Duration::from_secs(60);
        assert_eq!(admitted(&mut limiter, calm), BURST as usize, "never more than the burst");
    }

    #[test]
    fn networks_are_apart() {
        let nets = ["198.51.100.1", "198.51.101.1", "2001:db8::1", "2001:db8:0:100::1"];
        let distinct: std::collections::BTreeSet<u64> =
            nets.iter().map(|text| network(text.parse().unwrap())).collect();
        assert_eq!(distinct.len(), nets.len());
        let same = ["2001:db8::1", "2001:db8:0:ff::1"].map(|text| network(text.parse().unwrap()));
        assert_eq!(same[0], same[1]);
    }
}
