//! Idle connections to peers, ready to carry a stream: spares and used ones alike.
//!
//! Keyed by (peer, address, replica); the most recently used comes first, since its congestion
//! window is warm. Nothing here waits: an idle connection is read with a waker that wakes nobody,
//! when it is taken and at every sweep.

use std::collections::{HashMap, HashSet};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::conn::Conn;
use super::memory::with_scratch;
use super::role::Event;
use crate::health::Target;
use crate::model::{ClusterId, ReplicaId};
use crate::wire::frame::{Control, Opener};

/// An idle connection older than this is not used again.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// Silence after which an idle connection is pinged.
const PING_AFTER: Duration = Duration::from_secs(10);
/// The same for the few that may have to carry early data at any moment: those are to be heard
/// from all the time.
const WARM_AFTER: Duration = Duration::from_millis(400);
/// How many of a peer's are kept so.
const WARM: usize = 2;
/// A ping unanswered for so long ends an idle connection: 20 s of silence in all.
const PING_PATIENCE: Duration = Duration::from_secs(10);
/// The same after an `OPEN` of that replica stayed unanswered.
const CHALLENGE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a draining replica is remembered; its id never comes back.
const DRAIN_MEMORY: Duration = Duration::from_secs(600);
/// What is left of a peak after each sweep.
const DECAY: f64 = 0.9;
/// Number of the pings sent here.
const IDLE_PING: u64 = 2;

/// A tunnel as its opener holds it.
pub(super) type Tunnel = Conn<Opener>;

impl Tunnel {
    /// The key of pool and health, once `READY` was read.
    pub(super) fn target(&mut self) -> Option<Target> {
        let replica = self.role().ready()?.replica;
        Some(Target { peer: self.peer.cluster().clone(), address: self.address, replica })
    }
}

/// Whether an idle connection owes an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    /// Pinged because it was silent; still to be used.
    Idle(Instant),
    /// Its replica left an `OPEN` unanswered; not to be used before it answers.
    Challenged(Instant),
}

#[derive(Debug)]
struct Idle {
    conn: Tunnel,
    target: Target,
    since: Instant,
    asked: Asked,
}

#[derive(Debug, Default)]
struct PeerPool {
    /// Least recently used first.
    idle: Vec<Idle>,
    draining: HashMap<ReplicaId, Instant>,
    /// Streams begun since the last sweep.
    begun: usize,
    /// Streams begun in a sweep's time, at its peak, decaying.
    peak: f64,
    draw: Draw,
}

/// How far the stock is drawn down: short streams bring their connections back, long ones do not.
#[derive(Debug, Default)]
struct Draw {
    /// Connections taken since the last sweep and not brought back; below 0 where more came back.
    out: isize,
    /// The highest of that.
    deepest: isize,
    /// The deepest of a sweep's time, decaying.
    peak: f64,
}

/// What the upkeep wants to know of a peer's idle connections.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Stock {
    /// Usable ones.
    pub(super) idle: usize,
    /// Streams begun in a sweep's time, at its peak, decaying.
    pub(super) peak: f64,
    /// Connections taken in a sweep's time before others came back, at its peak, decaying.
    pub(super) drawn: f64,
}

/// The idle connections to every peer.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<HashMap<ClusterId, PeerPool>>);

impl Pool {
    fn lock(&self) -> MutexGuard<'_, HashMap<ClusterId, PeerPool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idle connection to the first of these targets that has one; none given, to any
    /// replica that does not drain. A target is (address, replica).
    pub(super) fn take(&self, peer: &ClusterId, targets: &[Target]) -> Option<Tunnel> {
        let mut peers = self.lock();
        let pool = peers.entry(peer.clone()).or_default();
        pool.begun += 1;
        pool.draw.take();
        if targets.is_empty() {
            return pool.take_if(|_| true);
        }
        targets.iter().find_map(|target| pool.take_if(|idle| idle.target == *target))
    }

    /// Takes back a connection that is idle again.
    pub(super) fn put(&self, conn: Tunnel) {
        if let Some(pool) = self.lock().get_mut(conn.peer.cluster()) {
            pool.draw.give_back();
        }
        self.add(conn);
    }

    /// Takes in a new connection.
    pub(super) fn add(&self, mut conn: Tunnel) {
        let Some(target) = conn.target() else { return };
        if conn.draining {
            self.note_draining(&target.peer, target.replica);
            return;
        }
        if !conn.is_idle() {
            return;
        }
        let since = crate::clock::now();
        let mut peers = self.lock();
        let pool = peers.entry(target.peer.clone()).or_default();
        if !pool.draining.contains_key(&target.replica) {
            pool.idle.push(Idle { conn, target, since, asked: Asked::No });
        }
    }

    /// The replica asked for no new streams: its idle connections are closed by us. Whether that
    /// is news.
    pub(super) fn note_draining(&self, peer: &ClusterId, replica: ReplicaId) -> bool {
        let mut peers = self.lock();
        let pool = peers.entry(peer.clone()).or_default();
        pool.idle.retain(|idle| idle.target.replica != replica);
        pool.draining.insert(replica, crate::clock::now()).is_none()
    }

    /// Whether the replica asked for no new streams.
    pub(super) fn is_draining(&self, target: &Target) -> bool {
        self.lock()
            .get(&target.peer)
            .is_some_and(|pool| pool.draining.contains_key(&target.replica))
    }

    /// An `OPEN` on that replica stayed unanswered: its idle connections must answer before
    /// they are used again.
    pub(super) fn challenge(&self, target: &Target) {
        let now = crate::clock::now();
        let mut peers = self.lock();
        let Some(pool) = peers.get_mut(&target.peer) else { return };
        for idle in pool.idle.iter_mut().filter(|idle| idle.target == *target) {
            if !matches!(idle.asked, Asked::Challenged(_)) {
                idle.asked = Asked::Challenged(now);
                idle.conn.queue(&Control::Ping(IDLE_PING));
            }
        }
        pool.settle(now, 0);
    }

    /// Reads and pings every idle connection and drops those that are of no more use;
    /// `is_spent` tells of the identities, `warm` of peers that early data may go to. The replicas
    /// that were found draining.
    pub(super) fn sweep(
        &self,
        is_spent: impl Fn(&Tunnel) -> bool,
        warm: &HashSet<ClusterId>,
    ) -> Vec<(ClusterId, ReplicaId)> {
        let now = crate::clock::now();
        let mut draining = Vec::new();
        for (peer, pool) in self.lock().iter_mut() {
            pool.idle.retain(|idle| {
                now.duration_since(idle.conn.born) < MAX_AGE && !is_spent(&idle.conn)
            });
            let keep_warm = if warm.contains(peer) { WARM } else { 0 };
            let found = pool.settle(now, keep_warm);
            draining.extend(found.into_iter().map(|replica| (peer.clone(), replica)));
            pool.draining.retain(|_, since| now.duration_since(*since) < DRAIN_MEMORY);
            let begun = std::mem::take(&mut pool.begun) as f64;
            pool.peak = begun.max(pool.peak * DECAY);
            pool.draw.settle();
        }
        draining
    }

    /// Drops the least recently used idle connections over `keep` that were idle for `calm`.
    pub(super) fn trim(&self, peer: &ClusterId, keep: usize, calm: Duration) {
        let now = crate::clock::now();
        let mut peers = self.lock();
        let Some(pool) = peers.get_mut(peer) else { return };
        let mut over = pool.idle.len().saturating_sub(keep);
        pool.idle.retain(|idle| {
            let drop = over > 0 && now.duration_since(idle.since) >= calm;
            over -= usize::from(drop);
            !drop
        });
    }

    /// Forgets a peer that is none any more.
    pub(super) fn retain(&self, is_peer: impl Fn(&ClusterId) -> bool) {
        self.lock().retain(|peer, _| is_peer(peer));
    }

    /// What there is for a peer.
    pub(super) fn stock(&self, peer: &ClusterId) -> Stock {
        self.lock().get(peer).map_or_else(Stock::default, |pool| {
            let usable = |idle: &&Idle| !matches!(idle.asked, Asked::Challenged(_));
            let idle = pool.idle.iter().filter(usable).count();
            Stock { idle, peak: pool.peak, drawn: pool.draw.peak }
        })
    }
}

impl Draw {
    fn take(&mut self) {
        self.out += 1;
        self.deepest = self.deepest.max(self.out);
    }

    fn give_back(&mut self) {
        self.out -= 1;
    }

    /// A sweep's time is over.
    fn settle(&mut self) {
        self.peak = (self.deepest as f64).max(self.peak * DECAY);
        (self.out, self.deepest) = (0, 0);
    }
}

impl PeerPool {
    /// The most recently used one that matches and lives.
    fn take_if(&mut self, matches: impl Fn(&Idle) -> bool) -> Option<Tunnel> {
        loop {
            let usable = |idle: &Idle| !matches!(idle.asked, Asked::Challenged(_)) && matches(idle);
            let index = self.idle.iter().rposition(usable)?;
            let mut idle = self.idle.remove(index);
            match idle.look() {
                Found::Alive => return Some(idle.conn),
                Found::Draining => {
                    let replica = idle.target.replica;
                    self.idle.retain(|other| other.target.replica != replica);
                    self.draining.insert(replica, crate::clock::now());
                }
                Found::Dead => {}
            }
        }
    }

    /// Reads every idle connection, pings the silent ones and the `warm` most recently used, drops
    /// the dead ones.
    fn settle(&mut self, now: Instant, warm: usize) -> Vec<ReplicaId> {
        let mut draining = Vec::new();
        let mut left = self.idle.len();
        self.idle.retain_mut(|idle| {
            idle.ask(now, if left <= warm { WARM_AFTER } else { PING_AFTER });
            left -= 1;
            match idle.look() {
                Found::Dead => false,
                Found::Alive => !idle.is_overdue(now),
                Found::Draining => {
                    draining.push(idle.target.replica);
                    false
                }
            }
        });
        for replica in &draining {
            self.idle.retain(|idle| idle.target.replica != *replica);
            self.draining.insert(*replica, now);
        }
        draining.dedup();
        draining
    }
}

enum Found {
    Alive,
    Draining,
    Dead,
}

impl Idle {
    fn ask(&mut self, now: Instant, after: Duration) {
        if self.asked == Asked::No && now.duration_since(self.conn.heard) >= after {
            self.asked = Asked::Idle(now);
            self.conn.queue(&Control::Ping(IDLE_PING));
        }
    }

    fn is_overdue(&self, now: Instant) -> bool {
        match self.asked {
            Asked::No => false,
            Asked::Idle(since) => now.duration_since(since) >= PING_PATIENCE,
            Asked::Challenged(since) => now.duration_since(since) >= CHALLENGE_PATIENCE,
        }
    }

    /// Reads what has come, without waiting.
    fn look(&mut self) -> Found {
        let before = self.conn.heard;
        let found = poll_now(|cx| {
            if let Poll::Ready(Err(_)) = self.conn.poll_flush(cx) {
                return Found::Dead;
            }
            with_scratch(|scratch| {
                loop {
                    match self.conn.poll_event(cx, scratch) {
                        Poll::Pending => return Found::Alive,
                        Poll::Ready(Ok(Event::Pong(_) | Event::Stale)) => {}
                        Poll::Ready(Ok(Event::Drain)) => return Found::Draining,
                        Poll::Ready(_) => return Found::Dead,
                    }
                }
            })
        });
        if self.conn.heard > before {
            self.asked = Asked::No;
        }
        found
    }
}

/// Polls once, outside the task's cooperative budget, with a waker that wakes nobody.
fn poll_now<T>(mut act: impl FnMut(&mut Context<'_>) -> T) -> T {
    let mut cx = Context::from_waker(Waker::noop());
    let future = tokio::task::coop::unconstrained(poll_fn(|cx| Poll::Ready(act(cx))));
    match pin!(future).poll(&mut cx) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("the future is ready at its first poll"),
    }
}

#[cfg(test)]
mod tests {
    use super::Draw;

    #[test]
    fn streams_that_come_back_draw_as_deep_as_they_are_many_at_once() {
        let mut draw = Draw::default();
        for _ in 0..1_000 {
            (0..8).for_each(|_| draw.take());
            (0..8).for_each(|_| draw.give_back());
        }
        draw.settle();
        assert!((draw.peak - 8.0).abs() < 1e-9, "{draw:?}");
        (0..25).for_each(|_| draw.take());
        draw.settle();
        assert!((draw.peak - 25.0).abs() < 1e-9, "they stay: {draw:?}");
        (0..25).for_each(|_| draw.give_back());
        draw.settle();
        assert!((draw.peak - 22.5).abs() < 1e-9, "nothing was taken: {draw:?}");
    }
}
