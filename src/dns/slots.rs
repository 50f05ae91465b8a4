//! Caps on TCP connections: per source and in all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use super::metrics::{Metrics, Refusal};
use crate::model::canonical;

/// Connections held now, by source.
#[derive(Debug)]
pub(super) struct Slots {
    per_source: usize,
    total: usize,
    held: Mutex<Held>,
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
}

impl Slots {
    pub(super) fn new(per_source: usize, total: usize, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { per_source, total, held: Mutex::default(), metrics })
    }

    /// A place for a connection from that address, unless a cap is reached.
    pub(super) fn take(self: &Arc<Self>, remote: IpAddr) -> Option<Slot> {
        let source = source(remote);
        match self.count(source) {
            Ok(()) => {
                self.metrics.connections().inc();
                Some(Slot { slots: Arc::clone(self), source })
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

impl Drop for Slot {
    fn drop(&mut self) {
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
}
