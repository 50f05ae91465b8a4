//! The descriptor limit, raised as far as the system lets us, and the caps of streams and of UDP
//! sessions under it.
//!
//! Clients and peers are counted apart, and all of them together fit into the limit: each side
//! has some places for itself, and the rest are for whoever comes, sessions among them. So neither
//! can starve the other, and one that is alone gets nearly all. A session holds its place for as
//! long as its socket is open, not only for as long as it is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Descriptors kept for everything that is no stream.
const KEPT: usize = 1_000;
/// Descriptors of one stream: the application's and the tunnel's.
const PER_STREAM: usize = 2;
/// The same, as a semaphore counts.
const STREAM_PERMITS: u32 = 2;
/// Of those kept, for UDP sessions alone: some begin however many streams there are.
const KEPT_SESSIONS: usize = 128;
/// UDP sessions may take this part of the descriptors.
const SESSIONS_SHARE: usize = 4;
/// However low the limit, some streams are tried on each side.
const LEAST: usize = 16;
/// Of all places one in so many at least is for clients alone, and one for peers alone.
const RESERVED: usize = 20;
/// Listeners that the sides' own places leave room for.
const LISTENERS: usize = 1_000;
/// Where the system has no limit.
const UNLIMITED: u64 = 1 << 20;

/// Raises the soft limit to the hard one; the limit in force.
pub(super) fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, wanted)
    {
        tracing::warn!(%error, "cannot raise the descriptor limit; set LimitNOFILE or ulimit -n");
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED);
    usize::try_from(limit.min(UNLIMITED)).unwrap_or(usize::MAX)
}

/// Streams of both sides together under a descriptor limit with so many listeners.
fn total(limit: usize, listeners: usize) -> usize {
    (limit.saturating_sub(listeners).saturating_sub(KEPT) / PER_STREAM).max(2 * LEAST)
}

/// UDP sessions under a descriptor limit.
fn sessions(configured: usize, limit: usize) -> usize {
    configured.min(limit / SESSIONS_SHARE).max(LEAST)
}

/// Places that each side has for itself: all it may have where there is room for both.
fn reserved(configured: usize, total: usize) -> usize {
    let unclaimed = total.saturating_sub(configured);
    (total / RESERVED).max(unclaimed).max(LEAST).min(configured)
}

/// Places for whoever comes.
fn common(configured: usize, total: usize, reserved: usize) -> usize {
    total.saturating_sub(2 * reserved).min(configured - reserved)
}

/// Descriptors for sessions alone: what no stream can use.
fn unclaimed(limit: usize, streams: usize) -> usize {
    let listening = LISTENERS.min(limit / 2);
    let free = limit.saturating_sub(KEPT).saturating_sub(listening);
    free.saturating_sub(PER_STREAM * streams).max(KEPT_SESSIONS.min(limit / RESERVED).max(LEAST))
}

/// The place of a UDP session's socket, given up when dropped.
#[derive(Debug)]
pub(super) struct SessionPlace {
    _permit: OwnedSemaphorePermit,
}

/// The places for streams and for the sockets of UDP sessions.
#[derive(Debug)]
pub(super) struct Places {
    configured: usize,
    limit: usize,
    reserved: usize,
    /// In streams.
    common_now: AtomicUsize,
    /// In descriptors.
    common: Arc<Semaphore>,
    /// In descriptors.
    sessions: Arc<Semaphore>,
    clients: Arc<Semaphore>,
    peers: Arc<Semaphore>,
    /// That streams are fewer than configured was said: each further listener takes a little more.
    warned: AtomicBool,
}

impl Places {
    /// Raises the limit and says what it gives: so many streams from clients and as many from
    /// peers, as far as it goes.
    pub(super) fn new(configured: usize) -> Self {
        Self::under(configured, raise())
    }

    fn under(configured: usize, limit: usize) -> Self {
        let configured = configured.max(1);
        let total = total(limit, 0);
        let reserved = reserved(configured, self::total(limit, LISTENERS));
        let common = common(configured, total, reserved);
        let places = Self {
            configured,
            limit,
            reserved,
            common_now: AtomicUsize::new(common),
            common: Arc::new(Semaphore::new(PER_STREAM * common)),
            sessions: Arc::new(Semaphore::new(unclaimed(limit, 2 * reserved + common))),
            clients: Arc::new(Semaphore::new(reserved)),
            peers: Arc::new(Semaphore::new(reserved)),
            warned: AtomicBool::new(reserved + common < configured),
        };
        let streams = places.most();
        if streams < configured {
            tracing::warn!(
                descriptors = limit,
                streams,
                together = 2 * reserved + common,
                configured,
                "the descriptor limit allows fewer streams than configured; raise LimitNOFILE"
            );
        } else {
            let together = 2 * reserved + common;
            tracing::info!(descriptors = limit, streams, together, "descriptor limit");
        }
        places
    }

    /// The descriptor limit in force.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The cap of either side while the other has no more than its own places.
    fn most(&self) -> usize {
        self.reserved + self.common_now.load(Ordering::Relaxed)
    }

    /// The cap of UDP sessions of one direction.
    pub(super) fn sessions(&self, configured: usize) -> usize {
        sessions(configured, self.limit)
    }

    /// So many listeners are wanted; each takes a descriptor. Called by one task.
    pub(super) fn set_listeners(&self, listeners: usize) {
        let before = self.common_now.load(Ordering::Relaxed);
        let now = common(self.configured, total(self.limit, listeners), self.reserved);
        if now > before {
            self.common.add_permits(PER_STREAM * (now - before));
            self.common_now.store(now, Ordering::Relaxed);
        } else if now < before {
            // Those in use are not taken away; the cap is then reached a little later.
            let forgotten = self.common.forget_permits(PER_STREAM * (before - now));
            if !forgotten.is_multiple_of(PER_STREAM) {
                self.common.add_permits(forgotten % PER_STREAM);
            }
            self.common_now.store(before - forgotten / PER_STREAM, Ordering::Relaxed);
            if !self.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    descriptors = self.limit,
                    listeners,
                    streams = self.most(),
                    "the listeners leave room for fewer streams; raise LimitNOFILE"
                );
            }
        }
    }

    /// A place for a client's stream, as soon as there is one.
    pub(super) async fn client(&self) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            own = Arc::clone(&self.clients).acquire_owned() => own.ok(),
            common = Arc::clone(&self.common).acquire_many_owned(STREAM_PERMITS) => common.ok(),
        }
    }

    /// A place for a peer's stream, if there is one now.
    pub(super) fn peer(&self) -> Option<OwnedSemaphorePermit> {
        let own = Arc::clone(&self.peers).try_acquire_owned();
        let common = || Arc::clone(&self.common).try_acquire_many_owned(STREAM_PERMITS);
        own.or_else(|_| common()).ok()
    }

    /// A place for the socket of a UDP session, if there is one now.
    pub(super) fn session(&self) -> Option<SessionPlace> {
        let own = Arc::clone(&self.sessions).try_acquire_owned();
        let permit = own.or_else(|_| Arc::clone(&self.common).try_acquire_owned());
        permit.ok().map(|permit| SessionPlace { _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each side's cap and both together.
    fn caps(configured: usize, limit: usize, listeners: usize) -> (usize, usize) {
        let places = Places::under(configured, limit);
        places.set_listeners(listeners);
        (places.most(), places.reserved + places.most())
    }

    #[test]
    fn sessions_take_a_quarter_of_the_descriptors() {
        assert_eq!(sessions(16_384, 20_000), 5_000);
        assert_eq!(sessions(16_384, 1 << 20), 16_384);
        assert_eq!(sessions(16_384, 8), LEAST);
    }

    #[test]
    fn the_caps_follow_the_design_and_their_sum_fits() {
        assert_eq!(caps(10_000, 1 << 20, 50), (10_000, 20_000));
        assert_eq!(caps(10_000, 20_000, 0), (9_050, 9_500));
        assert_eq!(caps(10_000, 20_000, 1_000), (8_550, 9_000));
        assert_eq!(caps(10_000, 30_000, 0), (10_000, 14_000));
        assert_eq!(caps(10_000, 1_024, 20), (LEAST, 2 * LEAST));
        assert_eq!(caps(4, 1 << 20, 0), (4, 8));
        for limit in [2_000, 5_000, 20_000, 21_000, 40_000, 41_000, 42_000] {
            let (_, together) = caps(10_000, limit, 100);
            assert!(PER_STREAM * together + KEPT + 100 <= limit, "{limit}: {together}");
        }
    }

    #[tokio::test]
    async fn streams_and_sessions_never_take_more_descriptors_than_there_are() {
        for limit in [256, 1_024, 2_000, 5_000, 20_000, 30_000, 41_000] {
            let places = Places::under(10_000, limit);
            let sessions: Vec<_> = std::iter::from_fn(|| places.session()).collect();
            let mut streams = 2 * places.reserved;
            streams += std::iter::from_fn(|| {
                let common = Arc::clone(&places.common);
                common.try_acquire_many_owned(STREAM_PERMITS).ok()
            })
            .map(OwnedSemaphorePermit::forget)
            .count();
            let taken = sessions.len() + PER_STREAM * streams;
            // However low the limit, some of each are tried.
            let floor = LEAST + 2 * PER_STREAM * LEAST;
            assert!(taken <= limit.saturating_sub(KEPT - KEPT_SESSIONS).max(floor), "{limit}");
        }
    }

    #[tokio::test]
    async fn sessions_begin_while_streams_take_all_they_may() {
        let places = Places::under(10_000, 20_000);
        let streams: Vec<_> = std::iter::from_fn(|| places.peer()).collect();
        assert_eq!(streams.len(), places.most());
        let few: Vec<_> = std::iter::from_fn(|| places.session()).collect();
        assert_eq!(few.len(), KEPT_SESSIONS);
        drop((streams, few));
        let sessions: Vec<_> = std::iter::from_fn(|| places.session()).collect();
        assert!(sessions.len() > places.sessions(16_384), "one that is alone reaches its cap");
        let streams: Vec<_> = std::iter::from_fn(|| places.peer()).collect();
        assert_eq!(streams.len(), places.reserved, "streams keep places of their own");
    }

    #[tokio::test]
    async fn neither_side_takes_the_others_last_places() {
        let places = Places::under(10_000, 5_000);
        let mut clients = Vec::new();
        for _ in 0..places.most() {
            clients.push(places.client().await.unwrap());
        }
        let peers: Vec<_> = std::iter::from_fn(|| places.peer()).collect();
        assert_eq!(peers.len(), places.reserved);
        drop(clients);
        drop(peers);
        let peers: Vec<_> = std::iter::from_fn(|| places.peer()).collect();
        assert_eq!(peers.len(), places.most());
        let waiting = async { places.client().await.map(drop) };
        assert!(waiting.await.is_some(), "clients have places of their own");
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let limit = raise();
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(UNLIMITED);
        assert_eq!(limit, usize::try_from(hard.min(UNLIMITED)).unwrap());
    }
}
