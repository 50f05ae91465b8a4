//! How many idle connections each peer should have, decided without I/O, and the dials for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::Shared;
use super::metrics::as_gauge;
use super::pool::Stock;
use crate::clock;
use crate::health::PeerState;
use crate::model::{ClusterId, PortKey, ServiceKey};
use crate::routes::{Reason, RouteTable};

/// Spares at rest.
const REST: usize = 4;
/// Idle connections at rest that are not worth closing.
const REST_KEPT: usize = 8;
/// Most spares for demand alone.
const MOST_FOR_DEMAND: usize = 64;
/// Spares to a second candidate: a share of the streams on the first, within bounds.
const SECOND_SHARE: usize = 10;
const SECOND_LEAST: usize = 8;
const SECOND_MOST: usize = 256;
/// Idle connections over what is kept are closed after this.
const CALM: Duration = Duration::from_secs(30);
/// Spare dials to one peer at the same time.
const MOST_DIALS: usize = 16;
/// Pause of spare dials to a peer after one failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Streams in use by service port and cluster.
pub(super) type InUse = HashMap<(ServiceKey, PortKey, ClusterId), usize>;

/// What would move to a peer if the candidate before it were gone.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Moving {
    /// Streams in use.
    streams: usize,
    /// Where they are now.
    from: HashSet<ClusterId>,
}

/// What each peer would take over as the next candidate.
pub(super) fn seconds(table: &RouteTable, in_use: &InUse) -> HashMap<ClusterId, Moving> {
    let mut seconds: HashMap<ClusterId, Moving> = HashMap::new();
    for ((key, port, first), count) in in_use {
        let Some(route) = table.services.get(key).and_then(|route| route.port(*port)) else {
            continue;
        };
        let second = route.candidates.iter().find(|candidate| {
            candidate.usable
                && !candidate.local
                && candidate.cluster != *first
                && !matches!(candidate.reason, Reason::Draining | Reason::LastResort)
        });
        if let Some(second) = second {
            let moving = seconds.entry(second.cluster.clone()).or_default();
            moving.streams += count;
            moving.from.insert(first.clone());
        }
    }
    seconds
}

/// Spares wanted for what was drawn lately between two sweeps, so many streams that would move here, and so many begun in
/// half a second where they are now: those are hedged here before the first candidate is known to
/// be silent, and each of them should find a spare.
pub(super) fn wanted(stock: Stock, moving: usize, begun: f64) -> usize {
    let for_demand = whole(stock.drawn).clamp(REST, MOST_FOR_DEMAND);
    let for_moving = match moving {
        0 => 0,
        count => count.div_ceil(SECOND_SHARE).max(whole(begun)).clamp(SECOND_LEAST, SECOND_MOST),
    };
    for_demand.max(for_moving)
}

/// Idle connections kept though not wanted.
fn kept(wanted: usize) -> usize {
    if wanted <= REST { REST_KEPT } else { wanted * 2 }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a small count of streams, never negative"
)]
fn whole(streams: f64) -> usize {
    streams.ceil() as usize
}

/// The spare dials under way.
#[derive(Debug, Default)]
pub(super) struct Spares {
    under_way: HashMap<ClusterId, usize>,
    paused: HashMap<ClusterId, Instant>,
    dials: JoinSet<(ClusterId, Made)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Yes,
    No,
}

impl Spares {
    /// Dials what is missing and closes what is too much.
    pub(super) fn keep(&mut self, shared: &Arc<Shared>) {
        let table = shared.routes.load_full();
        let now = clock::now();
        let moving = seconds(&table, &shared.streams.in_use(&shared.cluster));
        shared.pool.retain(|peer| table.peers.contains_key(peer));
        self.paused.retain(|_, since| now.duration_since(*since) < PAUSE);
        for (peer, status) in &table.peers {
            let stock = shared.pool.stock(peer);
            shared.metrics.pool_idle.with_label_values(&[peer.as_str()]).set(as_gauge(stock.idle));
            let moving = moving.get(peer).cloned().unwrap_or_default();
            let begun = moving.from.iter().map(|first| shared.pool.stock(first).peak).sum();
            let wanted = wanted(stock, moving.streams, begun);
            shared.pool.trim(peer, kept(wanted), CALM);
            let reachable = matches!(status.health.state, PeerState::Up | PeerState::Suspect);
            if !reachable || self.paused.contains_key(peer) {
                continue;
            }
            let under_way = self.under_way.entry(peer.clone()).or_default();
            let missing = wanted.saturating_sub(stock.idle + *under_way);
            for _ in 0..missing.min(MOST_DIALS.saturating_sub(*under_way)) {
                *under_way += 1;
                self.dials.spawn(dial(Arc::clone(shared), peer.clone()));
            }
        }
    }

    /// Waits until a dial has ended; pends while there is none.
    pub(super) async fn ended(&mut self, shared: &Shared) {
        let Some(ended) = self.dials.join_next().await else {
            return std::future::pending().await;
        };
        match ended {
            Ok((peer, made)) => {
                if let Some(count) = self.under_way.get_mut(&peer) {
                    *count -= 1;
                }
                if made == Made::No {
                    self.paused.insert(peer, clock::now());
                }
            }
            Err(error) => {
                // Whose it was is not known any more; counting begins anew.
                self.under_way.clear();
                shared.note_panic(Err(error));
            }
        }
    }
}

async fn dial(shared: Arc<Shared>, peer: ClusterId) -> (ClusterId, Made) {
    let Some(address) = shared.choose(&peer).addresses.first().copied() else {
        return (peer, Made::No);
    };
    let Ok(mut conn) = shared.dial(&peer, address).await else { return (peer, Made::No) };
    let made = match shared.ready(&mut conn).await {
        Some(_) => {
            shared.pool.add(conn);
            Made::Yes
        }
        None => Made::No,
    };
    (peer, made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spares_follow_demand_and_the_streams_that_would_move() {
        let rest = Stock::default();
        let drawn = |drawn| Stock { drawn, ..rest };
        assert_eq!(wanted(rest, 0, 0.0), 4);
        assert_eq!(wanted(Stock { peak: 5_000.0, ..drawn(8.0) }, 0, 0.0), 8, "they come back");
        assert_eq!(wanted(drawn(24.3), 0, 0.0), 25);
        assert_eq!(wanted(drawn(10_000.0), 0, 0.0), 64);
        assert_eq!(wanted(rest, 1, 0.0), 8);
        assert_eq!(wanted(rest, 1_000, 0.0), 100);
        assert_eq!(wanted(rest, 100_000, 0.0), 256);
        assert_eq!(wanted(rest, 12, 25.0), 25, "50 a second on the first candidate");
        assert_eq!(wanted(rest, 0, 25.0), 4, "nothing would move here");
        assert_eq!(kept(wanted(rest, 0, 0.0)), 8);
    }
}
