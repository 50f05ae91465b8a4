//! The descriptor limit, raised as far as the system lets us, and the cap of streams under it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Descriptors kept for everything that is no stream.
const KEPT: usize = 1_000;
/// Descriptors of one stream: the application's and the tunnel's.
const PER_STREAM: usize = 2;
/// UDP sessions may take this part of the descriptors.
const SESSIONS_SHARE: usize = 4;
/// However low the limit, some streams are tried.
const LEAST: usize = 16;
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

/// Streams under a descriptor limit with so many listeners.
fn streams(configured: usize, limit: usize, listeners: usize) -> usize {
    let left = limit.saturating_sub(listeners).saturating_sub(KEPT) / PER_STREAM;
    configured.min(left).max(LEAST)
}

/// UDP sessions under a descriptor limit.
fn sessions(configured: usize, limit: usize) -> usize {
    configured.min(limit / SESSIONS_SHARE).max(LEAST)
}

/// The cap of streams from clients.
#[derive(Debug)]
pub(super) struct Cap {
    configured: usize,
    limit: usize,
    most: AtomicUsize,
    permits: Arc<Semaphore>,
    /// That streams are fewer than configured was said: each further listener takes a little more.
    warned: AtomicBool,
}

impl Cap {
    /// Raises the limit and says what it gives.
    pub(super) fn new(configured: usize) -> Self {
        let limit = raise();
        let most = streams(configured, limit, 0);
        if most < configured {
            tracing::warn!(
                descriptors = limit,
                streams = most,
                configured,
                "the descriptor limit allows fewer streams than configured; raise LimitNOFILE"
            );
        } else {
            tracing::info!(descriptors = limit, streams = most, "descriptor limit");
        }
        let permits = Arc::new(Semaphore::new(most));
        let warned = AtomicBool::new(most < configured);
        Self { configured, limit, most: AtomicUsize::new(most), permits, warned }
    }

    /// The cap in force.
    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// The cap of UDP sessions of one direction.
    pub(super) fn sessions(&self, configured: usize) -> usize {
        sessions(configured, self.limit)
    }

    /// So many listeners are wanted; each takes a descriptor. Called by one task.
    pub(super) fn set_listeners(&self, listeners: usize) {
        let (before, now) = (self.most(), streams(self.configured, self.limit, listeners));
        self.most.store(now, Ordering::Relaxed);
        if now > before {
            self.permits.add_permits(now - before);
        } else if now < before {
            // Those in use are not taken away; the cap is then reached a little later.
            let forgotten = self.permits.forget_permits(before - now);
            self.most.store(before - forgotten, Ordering::Relaxed);
            if !self.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    descriptors = self.limit,
                    listeners,
                    streams = before - forgotten,
                    "the listeners leave room for fewer streams; raise LimitNOFILE"
                );
            }
        }
    }

    /// A place for one stream.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_follows_the_design() {
        assert_eq!(streams(10_000, 1 << 20, 50), 10_000);
        assert_eq!(streams(10_000, 20_000, 0), 9_500);
        assert_eq!(streams(10_000, 20_000, 1_000), 9_000);
        assert_eq!(streams(10_000, 1_024, 20), LEAST);
        assert_eq!(sessions(16_384, 20_000), 5_000);
        assert_eq!(sessions(16_384, 1 << 20), 16_384);
        assert_eq!(sessions(16_384, 8), LEAST);
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let limit = raise();
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(UNLIMITED);
        assert_eq!(limit, usize::try_from(hard.min(UNLIMITED)).unwrap());
    }
}
