//! Who may wait for a handshake: the caps on connections that have not shown who they are.
//!
//! Pure bookkeeping: no sockets, no time.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::limits::Limits;
use crate::model::canonical;

/// Where connections come from, as far as one host can choose: an IPv4 address, an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Source {
    pub(super) fn of(remote: SocketAddr) -> Self {
        match canonical(remote.ip()) {
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// The connections that wait, and the sources that are known.
#[derive(Debug, Clone, Default)]
pub(super) struct Lobby(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// In order of arrival.
    waiting: BTreeMap<u64, (Source, CancellationToken)>,
    per_source: HashMap<Source, usize>,
    /// Live authenticated connections.
    known: HashMap<Source, usize>,
}

/// A place in the lobby, given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    lobby: Lobby,
    number: u64,
    source: Source,
    evicted: CancellationToken,
}

/// Marks its source as authenticated while it is held.
#[derive(Debug)]
pub struct Lease {
    lobby: Lobby,
    source: Source,
}

impl Lobby {
    /// A place for a connection from `source`; none when that source has all it may. When all
    /// places are taken, the connection that has waited longest is evicted.
    pub(super) fn enter(&self, source: Source, limits: &Limits) -> Option<Place> {
        let mut inner = self.lock();
        let cap = if inner.known.contains_key(&source) {
            limits.per_known_source
        } else {
            limits.per_source
        };
        if inner.per_source.get(&source).copied().unwrap_or(0) >= cap {
            return None;
        }
        while inner.waiting.len() >= limits.unauthenticated.max(1) {
            let Some((_, (oldest, evicted))) = inner.waiting.pop_first() else { break };
            decrement(&mut inner.per_source, oldest);
            evicted.cancel();
        }
        inner.next += 1;
        let (number, evicted) = (inner.next, CancellationToken::new());
        inner.waiting.insert(number, (source, evicted.clone()));
        *inner.per_source.entry(source).or_default() += 1;
        drop(inner);
        Some(Place { lobby: self.clone(), number, source, evicted })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Resolves when this connection has to make room.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// The connection has shown who it is.
    pub(super) fn authenticated(self) -> Lease {
        *self.lobby.lock().known.entry(self.source).or_default() += 1;
        Lease { lobby: self.lobby.clone(), source: self.source }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.lobby.lock();
        if inner.waiting.remove(&self.number).is_some() {
            decrement(&mut inner.per_source, self.source);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        decrement(&mut self.lobby.lock().known, self.source);
    }
}

fn decrement(counts: &mut HashMap<Source, usize>, source: Source) {
    if let Some(count) = counts.get_mut(&source) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&source);
        }
    }
}
