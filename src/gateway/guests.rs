//! Peers' idle connections here: how many one peer may keep.
//!
//! A connection that shows a certificate of a peer costs a descriptor and some memory for as long
//! as it likes, stream or no stream. One over the cap is closed unless it asks for a stream soon;
//! those that are there stay, the ones that probes stand on among them. An opener whose `OPEN`
//! crosses that asks again over a fresh connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::ClusterId;

/// However low the descriptor limit, each peer may keep so many.
const LEAST: usize = 64;
/// One in so many descriptors at most is for the idle connections of one peer.
const PER_DESCRIPTORS: usize = 16;

/// The idle connections of every peer.
#[derive(Debug)]
pub(super) struct Guests {
    most: usize,
    peers: Mutex<HashMap<ClusterId, Peer>>,
}

#[derive(Debug, Default)]
struct Peer {
    idle: usize,
    /// That it has too many was said.
    said: bool,
}

/// An idle connection's place, given up when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    guests: Arc<Guests>,
    peer: ClusterId,
}

impl Guests {
    /// As many as configured, as far as the descriptor limit allows.
    pub(super) fn new(configured: usize, descriptors: usize) -> Self {
        let most = configured.min((descriptors / PER_DESCRIPTORS).max(LEAST));
        Self { most, peers: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClusterId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection that is idle now; none when its peer has all it may.
    pub(super) fn seat(self: &Arc<Self>, peer: &ClusterId) -> Option<Seat> {
        let mut peers = self.lock();
        let of_peer = peers.entry(peer.clone()).or_default();
        if of_peer.idle >= self.most {
            if !std::mem::replace(&mut of_peer.said, true) {
                let most = self.most;
                tracing::warn!(%peer, most, "a peer keeps too many idle connections; some are closed");
            }
            return None;
        }
        of_peer.idle += 1;
        drop(peers);
        Some(Seat { guests: Arc::clone(self), peer: peer.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut peers = self.guests.lock();
        let Some(of_peer) = peers.get_mut(&self.peer) else { return };
        of_peer.idle -= 1;
        of_peer.said &= of_peer.idle > self.guests.most / 2;
        if of_peer.idle == 0 {
            peers.remove(&self.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_places_and_no_other_peers() {
        let cluster = |name| ClusterId::parse(name).unwrap();
        let guests = Arc::new(Guests::new(2, 1 << 20));
        let first = guests.seat(&cluster("paris")).unwrap();
        let second = guests.seat(&cluster("paris")).unwrap();
        assert!(guests.seat(&cluster("paris")).is_none());
        let other = guests.seat(&cluster("tokyo")).unwrap();
        drop(first);
        let third = guests.seat(&cluster("paris")).unwrap();
        assert!(guests.seat(&cluster("paris")).is_none());
        drop((second, third, other));
        assert!(guests.lock().is_empty());
    }

    #[test]
    fn the_cap_follows_the_descriptor_limit() {
        assert_eq!(Guests::new(1_024, 1 << 20).most, 1_024);
        assert_eq!(Guests::new(1_024, 8_000).most, 500);
        assert_eq!(Guests::new(1_024, 256).most, LEAST);
    }
}
