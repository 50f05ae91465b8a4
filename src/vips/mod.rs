//! Name to clusterset address, stable.
//!
//! A name is a service or, of a headless one, a remote pod. Its address is found by hashing the
//! name into the configured range and walking on past addresses that are taken, so that even an
//! agent that lost its state hands out the same addresses, but for the few that collided. An
//! address belongs to one name; released, it rests for [`REST`] before another name may have it,
//! because clients remember it; the same name may take its own back at any time.
//!
//! Invariants: no two names, held or resting, share an address; a name that holds addresses keeps
//! them; the network and broadcast address of a range are never used. Not here: writing it down
//! before it is answered (`app` with `store`), listening (`gateway`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use aws_lc_rs::digest;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::{Callee, ServiceKey, canonical};

/// How long a released address rests before another name may have it.
pub const REST: Duration = Duration::from_secs(24 * 3600);
/// [`REST`] in the unit of the wall clock.
const REST_MS: i64 = 24 * 3600 * 1000;

/// No address is left in a range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "no address is left in {range} for {key}: {held} are held and {resting} rest for up to 24 h after their release; configure a larger range under 'vips'"
)]
pub struct Exhausted {
    /// The name that gets none.
    pub key: Callee,
    /// The range.
    pub range: IpNet,
    /// Its addresses that names hold.
    pub held: usize,
    /// Its addresses that rest.
    pub resting: usize,
}

/// What must be kept over a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Saved {
    /// Ascending by name.
    leases: Vec<SavedLease>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedLease {
    key: Callee,
    addresses: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    released_ms: Option<i64>,
}

/// The addresses of one name; `released_ms` is set while they rest.
#[derive(Debug, Clone)]
struct Lease {
    addresses: Vec<IpAddr>,
    released_ms: Option<i64>,
}

/// Hands out clusterset addresses. Times are Unix milliseconds of the wall clock, since the rest
/// must outlive a restart.
#[derive(Debug)]
pub struct Allocator {
    /// IPv4 before IPv6, one per family.
    ranges: Vec<Range>,
    leases: BTreeMap<Callee, Lease>,
    /// Every address that is held or rests.
    taken: HashMap<IpAddr, Callee>,
    /// What rests, the oldest release first.
    resting: BTreeSet<(i64, Callee)>,
}

impl Allocator {
    /// Over these ranges (the first of each family counts), with what was held before. Saved
    /// addresses outside the ranges are forgotten: the ranges are what the user wants now.
    #[must_use]
    pub fn new(ranges: Vec<IpNet>, saved: Option<Saved>) -> Self {
        let v4 = ranges.iter().find(|range| matches!(range, IpNet::V4(_)));
        let v6 = ranges.iter().find(|range| matches!(range, IpNet::V6(_)));
        let mut allocator = Self {
            ranges: v4.into_iter().chain(v6).map(|range| Range::new(*range)).collect(),
            leases: BTreeMap::new(),
            taken: HashMap::new(),
            resting: BTreeSet::new(),
        };
        for lease in saved.unwrap_or_default().leases {
            allocator.restore(lease);
        }
        allocator
    }

    /// The addresses of a name, one per range: those it holds, else its own of before, else new
    /// ones. All or none: a name that gets no address in one range takes none in the other.
    pub fn assign(&mut self, key: &Callee, now_ms: i64) -> Result<Vec<IpAddr>, Exhausted> {
        self.forget_rested(now_ms);
        if let Some(lease) = self.leases.get(key)
            && lease.released_ms.is_none()
            && lease.addresses.len() == self.ranges.len()
        {
            return Ok(lease.addresses.clone());
        }
        let own = self.leases.get(key).map_or(&[][..], |lease| &lease.addresses);
        let mut addresses = Vec::with_capacity(self.ranges.len());
        for range in &self.ranges {
            let kept = own.iter().copied().find(|address| range.net.contains(address));
            let address = kept.or_else(|| self.free(range, key));
            addresses.push(address.ok_or_else(|| self.exhausted(range, key))?);
        }
        if let Some(released) = self.leases.get(key).and_then(|lease| lease.released_ms) {
            self.resting.remove(&(released, key.clone()));
        }
        for address in &addresses {
            self.taken.insert(*address, key.clone());
        }
        let lease = Lease { addresses: addresses.clone(), released_ms: None };
        self.leases.insert(key.clone(), lease);
        Ok(addresses)
    }

    /// The name is gone: its addresses rest. A name that holds none is ignored.
    pub fn release(&mut self, key: &Callee, now_ms: i64) {
        self.forget_rested(now_ms);
        if let Some(lease) = self.leases.get_mut(key)
            && lease.released_ms.is_none()
        {
            lease.released_ms = Some(now_ms);
            self.resting.insert((now_ms, key.clone()));
        }
    }

    /// The addresses a name holds now; `None` while they rest.
    #[must_use]
    pub fn get(&self, key: &Callee) -> Option<&[IpAddr]> {
        let lease = self.leases.get(key)?;
        lease.released_ms.is_none().then_some(lease.addresses.as_slice())
    }

    /// Every name that holds addresses, ascending.
    pub fn held(&self) -> impl Iterator<Item = (&Callee, &[IpAddr])> {
        self.leases
            .iter()
            .filter(|(_, lease)| lease.released_ms.is_none())
            .map(|(key, lease)| (key, lease.addresses.as_slice()))
    }

    /// The names of a service and its pods that hold addresses now, ascending.
    pub fn held_of<'a>(&'a self, service: &'a ServiceKey) -> impl Iterator<Item = &'a Callee> {
        let from = self.leases.range(Callee::from(service.clone())..);
        from.take_while(move |(callee, _)| callee.service == *service)
            .filter(|(_, lease)| lease.released_ms.is_none())
            .map(|(callee, _)| callee)
    }

    /// Whether an address lies in a configured range, handed out or not.
    #[must_use]
    pub fn is_vip(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        self.ranges.iter().any(|range| range.net.contains(&address))
    }

    /// What to keep over a restart.
    #[must_use]
    pub fn saved(&self) -> Saved {
        let lease = |(key, lease): (&Callee, &Lease)| SavedLease {
            key: key.clone(),
            addresses: lease.addresses.clone(),
            released_ms: lease.released_ms,
        };
        Saved { leases: self.leases.iter().map(lease).collect() }
    }

    fn restore(&mut self, saved: SavedLease) {
        let mut addresses = Vec::new();
        for range in &self.ranges {
            let mut usable =
                saved.addresses.iter().copied().filter(|address| {
                    range.is_usable(*address) && !self.taken.contains_key(address)
                });
            addresses.extend(usable.next());
        }
        if addresses.is_empty() || self.leases.contains_key(&saved.key) {
            return;
        }
        for address in &addresses {
            self.taken.insert(*address, saved.key.clone());
        }
        if let Some(released) = saved.released_ms {
            self.resting.insert((released, saved.key.clone()));
        }
        self.leases.insert(saved.key, Lease { addresses, released_ms: saved.released_ms });
    }

    /// Frees what has rested long enough. A release in the future (the clock was set back) counts
    /// as one of now, so that nothing rests for ever.
    fn forget_rested(&mut self, now_ms: i64) {
        while let Some((released, _)) = self.resting.first()
            && now_ms.saturating_sub(*released) >= REST_MS
        {
            let Some((_, key)) = self.resting.pop_first() else { break };
            let addresses = self.leases.remove(&key).map(|lease| lease.addresses);
            for address in addresses.unwrap_or_default() {
                self.taken.remove(&address);
            }
        }
        while let Some((released, _)) = self.resting.last()
            && *released > now_ms
        {
            let Some((_, key)) = self.resting.pop_last() else { break };
            if let Some(lease) = self.leases.get_mut(&key) {
                lease.released_ms = Some(now_ms);
            }
            self.resting.insert((now_ms, key));
        }
    }

    /// The first free address at or after the name's own place.
    fn free(&self, range: &Range, key: &Callee) -> Option<IpAddr> {
        let start = seed(key) % range.usable;
        // Of one more step than there are names, one must end on a free address.
        let steps = range.usable.min(self.taken.len() as u128 + 1);
        (0..steps)
            .map(|step| range.nth((start + step) % range.usable))
            .find(|address| !self.taken.contains_key(address))
    }

    fn exhausted(&self, range: &Range, key: &Callee) -> Exhausted {
        let count = |resting: bool| {
            let in_range = |lease: &&Lease| lease.released_ms.is_some() == resting;
            self.leases
                .values()
                .filter(in_range)
                .flat_map(|lease| &lease.addresses)
                .filter(|address| range.net.contains(*address))
                .count()
        };
        Exhausted { key: key.clone(), range: range.net, held: count(false), resting: count(true) }
    }
}

/// A range without the addresses that mean the network itself.
#[derive(Debug, Clone, Copy)]
struct Range {
    net: IpNet,
    /// The first usable address as a number.
    first: u128,
    /// How many there are, at least one and at most 2^127, so that sums cannot overflow.
    usable: u128,
}

impl Range {
    fn new(net: IpNet) -> Self {
        let net = net.trunc();
        let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
        let size = 1_u128 << host_bits.min(127);
        let network = number(net.network());
        // RFC 3021: a /31 has no network and broadcast address; a /127 has no anycast (RFC 6164).
        let (first, usable) = match net {
            _ if host_bits <= 1 => (network, size),
            IpNet::V4(_) => (network + 1, size - 2),
            IpNet::V6(_) => (network + 1, size - 1),
        };
        Self { net, first, usable }
    }

    fn nth(&self, index: u128) -> IpAddr {
        let value = self.first + index;
        match self.net {
            // The low 32 bits are the address: an IPv4 range lies below 2^32.
            IpNet::V4(_) => {
                IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(value).unwrap_or(u32::MAX)))
            }
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(value)),
        }
    }

    fn is_usable(&self, address: IpAddr) -> bool {
        let value = number(address);
        self.net.contains(&address) && value >= self.first && value - self.first < self.usable
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Where a name's place in any range begins.
fn seed(key: &Callee) -> u128 {
    let hash = digest::digest(&digest::SHA256, key.to_string().as_bytes());
    hash.as_ref().iter().take(16).fold(0, |value, byte| value << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests;
