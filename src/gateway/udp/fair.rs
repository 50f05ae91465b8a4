//! The sessions of several peers under one cap.
//!
//! Invariants: never more than the cap; when it is reached the peer with the most sessions gives
//! one up, the longest idle of its own: so one that floods takes nothing from those that have no
//! more than their part. Every operation takes as long as there are peers.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::table::Table;
use crate::model::ClusterId;

/// Sessions by peer and key.
#[derive(Debug)]
pub(super) struct Fair<K, V> {
    peers: HashMap<ClusterId, Table<K, V>>,
    most: usize,
    /// No session may be idle for longer: it drains.
    most_idle: Option<Duration>,
}

impl<K: Hash + Eq + Clone, V> Fair<K, V> {
    /// Room for `most` sessions, at least one.
    pub(super) fn new(most: usize) -> Self {
        Self { peers: HashMap::new(), most: most.max(1), most_idle: None }
    }

    /// No session may be idle for longer, whatever was seen: it drains.
    pub(super) fn hurry(&mut self, most_idle: Duration) {
        self.most_idle = Some(most_idle);
        self.peers.values_mut().for_each(|table| table.hurry(most_idle));
    }

    /// Sessions now.
    pub(super) fn len(&self) -> usize {
        self.peers.values().map(Table::len).sum()
    }

    /// Those of one peer, where it has any.
    pub(super) fn of(&mut self, peer: &ClusterId) -> Option<&mut Table<K, V>> {
        self.peers.get_mut(peer)
    }

    /// Adds a session that is not known; the one that made room for it.
    pub(super) fn insert(
        &mut self,
        peer: &ClusterId,
        key: K,
        value: V,
        now: Instant,
    ) -> Option<(K, V)> {
        let evicted = if self.len() >= self.most { self.make_room(peer) } else { None };
        let (most, most_idle) = (self.most, self.most_idle);
        let table = self.peers.entry(peer.clone()).or_insert_with(|| {
            let mut table = Table::new(most);
            if let Some(most_idle) = most_idle {
                table.hurry(most_idle);
            }
            table
        });
        let (_, none) = table.insert(key, value, now);
        debug_assert!(none.is_none(), "all together are within the cap");
        evicted
    }

    /// Takes out the longest idle session of the peer that has the most; of equals, of the one
    /// that asks.
    pub(super) fn make_room(&mut self, asking: &ClusterId) -> Option<(K, V)> {
        let most = |(peer, table): &(&ClusterId, &mut Table<K, V>)| (table.len(), *peer == asking);
        let (_, table) = self.peers.iter_mut().max_by_key(most)?;
        table.evict()
    }

    /// Takes out one session that has been idle for too long; forgets peers that have none.
    pub(super) fn expire(&mut self, now: Instant) -> Option<(K, V)> {
        self.peers.retain(|_, table| table.len() > 0);
        self.peers.values_mut().find_map(|table| table.expire(now))
    }

    /// How many match; takes as long as there are sessions.
    pub(super) fn count(&self, matches: impl Fn(&V) -> bool) -> usize {
        self.peers.values().map(|table| table.count(|_, value| matches(value))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn peer(name: &str) -> ClusterId {
        ClusterId::parse(name).unwrap()
    }

    fn lens(fair: &mut Fair<u32, &'static str>) -> [usize; 2] {
        ["calm", "loud"].map(|name| fair.of(&peer(name)).map_or(0, |table| table.len()))
    }

    #[test]
    fn a_peer_that_floods_takes_no_place_of_one_that_has_its_part() {
        let (mut fair, now) = (Fair::new(16), clock::now());
        let second = Duration::from_secs(1);
        for key in 0..6 {
            assert_eq!(fair.insert(&peer("calm"), key, "calm", now), None);
        }
        // Theirs are idle for the longest, and stay.
        for key in 100..1_000 {
            let evicted = fair.insert(&peer("loud"), key, "loud", now + second);
            assert!(evicted.is_none_or(|(_, whose)| whose == "loud"), "{key}");
        }
        assert_eq!(lens(&mut fair), [6, 10]);
        // One that has less than its part gets it from who has more.
        for key in 6..8 {
            let evicted = fair.insert(&peer("calm"), key, "calm", now + second);
            assert_eq!(evicted.map(|(_, whose)| whose), Some("loud"));
        }
        assert_eq!(lens(&mut fair), [8, 8]);
        let (key, whose) = fair.insert(&peer("calm"), 8, "calm", now + second).unwrap();
        assert_eq!((key, whose), (0, "calm"), "of equals the one that asks gives way");
        assert_eq!(fair.len(), 16);
    }

    #[test]
    fn all_expire_and_who_has_none_is_forgotten() {
        let (mut fair, now) = (Fair::new(16), clock::now());
        fair.insert(&peer("calm"), 1, "calm", now);
        fair.hurry(Duration::from_secs(5));
        fair.insert(&peer("loud"), 1, "loud", now);
        assert_eq!(fair.count(|whose| *whose == "loud"), 1);
        let later = now + Duration::from_secs(5);
        assert_eq!(fair.expire(now), None);
        assert!(fair.expire(later).is_some() && fair.expire(later).is_some());
        assert_eq!(fair.expire(later), None);
        assert!(fair.peers.is_empty());
    }
}
