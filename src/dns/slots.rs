//! Caps on connections: per source, in all, and on what they leave here while they wait.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::metrics::{Metrics, Refusal};
use crate::model::canonical;

/// What each connection may keep without being counted, octets: a query in pieces, some answers.
const FREE_OCTETS: usize = 2 << 10;
/// What all connections together may keep beyond that, octets.
const MAX_KEPT_OCTETS: usize = 32 << 20;

/// Connections held now, by source.
#[derive(Debug)]
pub(super) struct Slots {
    per_source: usize,
    total: usize,
    held: Mutex<Held>,
    /// Octets of frames that have begun and of answers that were not taken.
    kept: AtomicUsize,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// One connection's place; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    source: IpAddr,
    /// Its part of what is kept.
    kept: usize,
}

impl Slots {
    pub(super) fn new(per_source: usize, total: usize, metrics: Metrics) -> Arc<Self> {
        let (held, kept) = (Mutex::default(), AtomicUsize::new(0));
        Arc::new(Self { per_source, total, held, kept, metrics })
    }

    /// A place for a connection from that address, unless a cap is reached.
    pub(super) fn take(self: &Arc<Self>, remote: IpAddr) -> Option<Slot> {
        let source = source(remote);
        match self.count(source) {
            Ok(()) => {
                self.metrics.connections().inc();
                Some(Slot { slots: Arc::clone(self), source, kept: 0 })
            }
            Err(refusal) => {
                self.metrics.refused(refusal);
                None
            }
        }
    }

    fn count(&self, source: IpAddr) -> Result<(), Refusal> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.total >= self.total {
            return Err(Refusal::Total);
        }
        let own = held.by_source.get(&source).copied().unwrap_or(0);
        if own >= self.per_source {
            return Err(Refusal::PerSource);
        }
        held.by_source.insert(source, own + 1);
        held.total += 1;
        Ok(())
    }
}

impl Slot {
    /// Says how many octets the connection keeps now; false where all together keep too much, and
    /// this one has to end.
    pub(super) fn keep(&mut self, octets: usize) -> bool {
        let counted = octets.saturating_sub(FREE_OCTETS);
        if counted == self.kept {
            return true;
        }
        let kept = &self.slots.kept;
        let others = kept.fetch_sub(self.kept, Ordering::Relaxed) - self.kept;
        kept.fetch_add(counted, Ordering::Relaxed);
        let fits = counted < self.kept || others + counted <= MAX_KEPT_OCTETS;
        self.kept = counted;
        if !fits {
            self.slots.metrics.refused(Refusal::Octets);
        }
        fits
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.kept.fetch_sub(self.kept, Ordering::Relaxed);
        let mut held = self.slots.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.total -= 1;
        if let Some(own) = held.by_source.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                held.by_source.remove(&self.source);
            }
        }
        self.slots.metrics.connections().dec();
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64, which one host may own whole.
fn source(remote: IpAddr) -> IpAddr {
    match canonical(remote) {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_hold_per_source_and_in_all_and_places_come_back() {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let slots = Slots::new(2, 3, metrics.clone());
        let [a, b, same_net]: [IpAddr; 3] =
            ["2001:db8::1", "198.51.100.1", "2001:db8::ffff"].map(|text| text.parse().unwrap());
        let first = slots.take(a).unwrap();
        let second = slots.take(same_net).unwrap();
        assert!(slots.take(a).is_none(), "two of one /64");
        let third = slots.take(b).unwrap();
        assert!(slots.take(b).is_none(), "three in all");
        assert_eq!(metrics.connections().get(), 3);
        drop((first, third));
        let _again = slots.take(a).unwrap();
        drop(second);
        assert_eq!(metrics.connections().get(), 1);
        assert_eq!(slots.held.lock().unwrap().by_source.len(), 1);
    }

    #[test]
    fn what_waits_is_capped_in_all_and_comes_back() {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let slots = Slots::new(9, 9, metrics);
        let take = || slots.take([127, 0, 0, 1].into()).unwrap();
        let [mut greedy, mut late, mut modest] = [take(), take(), take()];
        assert!(greedy.keep(MAX_KEPT_OCTETS));
        assert!(modest.keep(FREE_OCTETS), "a little is everybody's");
        assert!(!late.keep(2 * FREE_OCTETS + 1));
        drop(late);
        assert!(greedy.keep(MAX_KEPT_OCTETS - 1), "less is always well");
        drop(greedy);
        assert!(modest.keep(MAX_KEPT_OCTETS));
        drop(modest);
        assert_eq!(slots.kept.load(Ordering::Relaxed), 0);
    }
}
