//! The streams that are open now: what they heard, and orders to them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::health::Target;
use crate::model::{ClusterId, PortKey, ServiceKey};
use crate::tls::PeerIdentity;

/// Why a stream is ended from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Its replica is Down and it heard nothing since.
    Down,
    /// Its peer is no longer trusted.
    Revoked,
    /// The shutdown's deadline has passed.
    Shutdown,
}

/// What a stream is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Send a `PING` on your own connection.
    Ask,
    /// Send `DRAIN` on your own connection (acceptor).
    Drain,
    /// Look whether whoever sends is still there.
    Look,
    /// End with a reset.
    Cut(Cut),
}

/// Which way a stream was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// By us, to this replica.
    Out(Target),
    /// By a peer.
    In,
    /// To a local backend.
    Local,
}

/// One open stream.
#[derive(Debug)]
pub(super) struct Live {
    /// Who is at the other end; `None` for a local backend.
    pub(super) peer: Option<PeerIdentity>,
    /// Which way.
    pub(super) way: Way,
    /// What it is for; `None` for an echo.
    pub(super) port: Option<(ServiceKey, PortKey)>,
    since: Instant,
    /// Milliseconds from `since` to the last time anything was heard.
    heard: AtomicU64,
    /// A receiver takes nothing, so that its sender is not read either.
    stuck: AtomicBool,
    orders: AtomicU8,
    told: Notify,
}

const ASK: u8 = 1;
const CUT_DOWN: u8 = 2;
const CUT_REVOKED: u8 = 4;
const CUT_SHUTDOWN: u8 = 8;
const DRAIN: u8 = 16;
const LOOK: u8 = 32;

impl Live {
    fn new(
        peer: Option<PeerIdentity>,
        way: Way,
        port: Option<(ServiceKey, PortKey)>,
        since: Instant,
    ) -> Self {
        let (heard, orders) = (AtomicU64::new(0), AtomicU8::new(0));
        let stuck = AtomicBool::new(false);
        Self { peer, way, port, since, heard, stuck, orders, told: Notify::new() }
    }

    /// Something came at `at`.
    pub(super) fn heard_at(&self, at: Instant) {
        let passed = at.saturating_duration_since(self.since).as_millis();
        self.heard.fetch_max(u64::try_from(passed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When anything last came.
    pub(super) fn heard(&self) -> Instant {
        self.since + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    /// Whether a receiver takes nothing.
    pub(super) fn note_stuck(&self, stuck: bool) {
        self.stuck.store(stuck, Ordering::Relaxed);
    }

    /// Whether a receiver took nothing when it was last tried.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Tells it; orders of one kind are told once.
    pub(super) fn tell(&self, order: Order) {
        let bit = match order {
            Order::Ask => ASK,
            Order::Drain => DRAIN,
            Order::Look => LOOK,
            Order::Cut(Cut::Down) => CUT_DOWN,
            Order::Cut(Cut::Revoked) => CUT_REVOKED,
            Order::Cut(Cut::Shutdown) => CUT_SHUTDOWN,
        };
        self.orders.fetch_or(bit, Ordering::Relaxed);
        self.told.notify_one();
    }

    /// The next order. Dropping the future loses none.
    pub(super) async fn ordered(&self) -> Order {
        loop {
            let bits = [
                (CUT_SHUTDOWN, Order::Cut(Cut::Shutdown)),
                (CUT_REVOKED, Order::Cut(Cut::Revoked)),
                (CUT_DOWN, Order::Cut(Cut::Down)),
                (ASK, Order::Ask),
                (DRAIN, Order::Drain),
                (LOOK, Order::Look),
            ];
            let taken = |bit: u8| self.orders.fetch_and(!bit, Ordering::Relaxed) & bit != 0;
            if let Some((_, order)) = bits.into_iter().find(|(bit, _)| taken(*bit)) {
                return order;
            }
            self.told.notified().await;
        }
    }
}

/// Every open stream.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    live: HashMap<u64, Arc<Live>>,
}

/// Takes the stream out of the list when dropped.
#[derive(Debug)]
pub(super) struct Listed {
    /// The stream.
    pub(super) live: Arc<Live>,
    list: Arc<Streams>,
    id: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.list.lock().live.remove(&self.id);
    }
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a stream that has just been accepted.
    pub(super) fn list(
        self: &Arc<Self>,
        peer: Option<PeerIdentity>,
        way: Way,
        port: Option<(ServiceKey, PortKey)>,
    ) -> Listed {
        let live = Arc::new(Live::new(peer, way, port, crate::clock::now()));
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        inner.live.insert(id, Arc::clone(&live));
        drop(inner);
        Listed { live, list: Arc::clone(self), id }
    }

    /// The streams that match.
    pub(super) fn matching(&self, matches: impl Fn(&Live) -> bool) -> Vec<Arc<Live>> {
        self.lock().live.values().filter(|live| matches(live)).cloned().collect()
    }

    /// Tells every stream that matches.
    pub(super) fn tell(&self, order: Order, matches: impl Fn(&Live) -> bool) {
        for live in self.matching(matches) {
            live.tell(order);
        }
    }

    /// How many streams match.
    pub(super) fn count(&self, matches: impl Fn(&Live) -> bool) -> usize {
        self.lock().live.values().filter(|live| matches(live)).count()
    }

    /// How many streams are in use per cluster and port, opened from here.
    pub(super) fn in_use(
        &self,
        own: &ClusterId,
    ) -> HashMap<(ServiceKey, PortKey, ClusterId), usize> {
        let mut counts = HashMap::new();
        for live in self.lock().live.values() {
            let cluster = match &live.way {
                Way::Out(target) => &target.peer,
                Way::Local => own,
                Way::In => continue,
            };
            if let Some((key, port)) = &live.port {
                *counts.entry((key.clone(), *port, cluster.clone())).or_default() += 1;
            }
        }
        counts
    }
}
