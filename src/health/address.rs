//! The addresses of a peer: refusals and flaps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use super::config::Timing;

/// Addresses remembered per peer: a peer that names ever new ones cannot make us grow.
const ADDRESSES_MAX: usize = 64;

/// The flaps of one address: a restart behind it is no way round them.
#[derive(Debug, Clone, Default)]
pub(super) struct Address {
    /// Dials refused in a row.
    pub(super) refused: u32,
    flaps: u32,
    down_at: Option<Instant>,
    held_until: Option<Instant>,
    /// Nothing returned behind it since the last flap: another replica that goes Down with the
    /// first is the same flap.
    out: bool,
}

impl Address {
    /// A replica behind it went Down.
    pub(super) fn flap(&mut self, at: Instant, timing: &Timing) {
        if self.old(at, timing) {
            self.flaps = 0;
            self.out = false;
        }
        if !self.out {
            self.flaps = self.flaps.saturating_add(1);
        }
        self.out = true;
        self.down_at = Some(at);
        let doublings = self.flaps.saturating_sub(1).min(16);
        self.held_until = Some(at + (timing.hold_min * (1 << doublings)).min(timing.hold_max));
    }

    /// A replica behind it returned.
    pub(super) fn returned(&mut self) {
        self.out = false;
    }

    /// Until when nothing returns behind it.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    fn old(&self, now: Instant, timing: &Timing) -> bool {
        self.down_at.is_none_or(|at| now.saturating_duration_since(at) >= timing.hold_forget)
    }
}

/// The addresses of a peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Addresses {
    list: BTreeMap<SocketAddr, Address>,
}

impl Addresses {
    /// That address; where there are too many, the one with the oldest flap makes room.
    pub(super) fn get(&mut self, at: SocketAddr) -> &mut Address {
        if self.list.len() >= ADDRESSES_MAX && !self.list.contains_key(&at) {
            let oldest = self.list.iter().min_by_key(|(other, address)| (address.down_at, **other));
            if let Some(oldest) = oldest.map(|(other, _)| *other) {
                self.list.remove(&oldest);
            }
        }
        self.list.entry(at).or_default()
    }

    /// Forgets those without a replica whose flaps are old.
    pub(super) fn forget(&mut self, used: &BTreeSet<SocketAddr>, now: Instant, timing: &Timing) {
        self.list.retain(|at, address| used.contains(at) || !address.old(now, timing));
    }
}
