//! UDP: clients' datagrams to the backends of other clusters, and their answers back.
//!
//! A *session* is one client at one listener. The importing gateway finds it a candidate as for a
//! stream ([`chase`]), over one of two connections to each peer replica ([`lanes`]); the exporting
//! gateway gives it one socket to one backend ([`exports`]). Both know it until it has been idle
//! for too long, or longest when another needs the place ([`table`]).
//!
//! Invariants: a datagram is handed on whole, once and in order, or dropped and counted; what waits
//! for a connection, for an acceptance, and the number of sessions are bounded; a client is
//! answered from the address it asked; who may is looked up as for streams.
//! Not here: repeating or reordering anything, path MTU (datagrams travel inside TCP), health.

mod backend;
mod carry;
mod chase;
mod conn;
mod door;
mod ear;
mod exports;
mod fair;
mod imports;
mod lane;
mod lanes;
mod metrics;
mod queue;
mod serve;
mod table;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use tokio::task::JoinSet;

use self::conn::Conn;
use self::lane::Lane;
use self::lanes::{Missing, PER_REPLICA};
pub(super) use self::metrics::Metrics;
pub(super) use self::serve::serve;
use super::listeners::Listeners;
use super::live::{Cut, Order, Way};
use super::metrics::Direction;
use super::{Gateway, Shared};
use crate::clock;
use crate::drain::{Phase, Watch};
use crate::model::{ClusterId, Protocol};
use crate::routes::Drained;
use crate::tls::{self, PeerIdentity};

/// Between looks for sessions that have been idle for too long.
const EXPIRE_EVERY: Duration = Duration::from_millis(250);
/// Pause of dials to a place after one came to nothing.
const DIAL_PAUSE: Duration = Duration::from_millis(300);
/// Longest idle time of a session once the gateway drains.
const DRAIN_IDLE: Duration = Duration::from_secs(5);

/// What the parts of this module share.
#[derive(Debug)]
pub(super) struct Udp {
    imports: imports::Imports,
    exports: exports::Exports,
    lanes: lanes::Lanes,
    metrics: Metrics,
    /// Datagrams of our clients: asking, and answering.
    outbound: [IntCounter; 2],
    /// Datagrams of peers' clients: asking, and answering.
    inbound: [IntCounter; 2],
}

impl Udp {
    /// Room for so many sessions of clients here, and as many of peers' clients.
    pub(super) fn new(most_sessions: usize, metrics: Metrics) -> Self {
        Self {
            imports: imports::Imports::new(most_sessions),
            exports: exports::Exports::new(most_sessions),
            lanes: lanes::Lanes::default(),
            outbound: metrics.ways(Direction::Outbound),
            inbound: metrics.ways(Direction::Inbound),
            metrics,
        }
    }

    /// The sessions that are left of what is drained, `own` being the own cluster.
    pub(super) fn sessions_of(&self, of: &Drained, own: &ClusterId) -> usize {
        match of {
            Drained::Cluster(cluster) if cluster == own => {
                self.exports.count(None) + self.imports.local(None)
            }
            Drained::Cluster(cluster) => self.imports.carried_by(cluster),
            Drained::Service(key) => self.exports.count(Some(key)) + self.imports.local(Some(key)),
        }
    }

    /// How many datagrams were dropped for each reason.
    #[cfg(test)]
    pub(super) fn drops(&self) -> Vec<(&'static str, u64)> {
        self.metrics.drops()
    }
}

impl Shared {
    /// Frames a datagram connection whose handshake is done.
    fn datagrams(&self, stream: tls::Stream, peer: PeerIdentity) -> Conn {
        self.choose_congestion(&stream);
        Conn::new(stream, peer, self.trust.own_expiry())
    }
}

impl Gateway {
    /// Listens for clients' datagrams as [`Config::listen_on`](super::Config) says until the drain
    /// stops it, then lets sessions run until they are idle, at the longest to the deadline.
    pub async fn run_udp(self, drain: Watch) {
        let shared = self.shared;
        let mut stop = drain.clone();
        if !shared.config.outbound {
            stop.reached(Phase::Draining).await;
            return shared.udp.exports.drain(DRAIN_IDLE);
        }
        let gauge = shared.udp.metrics.listeners.clone();
        let listeners = Listeners::new(Arc::clone(&shared), Protocol::Udp, door::listen, gauge);
        let listeners = listeners.run(drain).await;
        shared.udp.imports.drain(DRAIN_IDLE);
        shared.udp.exports.drain(DRAIN_IDLE);
        listeners.finish(stop).await;
    }

    /// Makes the datagram connections that sessions need, and ends sessions that are idle.
    pub async fn run_lanes(self, mut drain: Watch) {
        let shared = self.shared;
        let Some(mut wished) = shared.udp.lanes.wished() else {
            tracing::error!("the upkeep of datagram connections runs already");
            return;
        };
        let mut upkeep = Upkeep {
            shared: Arc::clone(&shared),
            under_way: HashMap::new(),
            paused: HashMap::new(),
            dials: JoinSet::new(),
            lanes: JoinSet::new(),
        };
        let mut expire = tokio::time::interval(EXPIRE_EVERY);
        expire.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(missing) = wished.recv() => upkeep.wish(&missing),
                Some(ended) = upkeep.dials.join_next() => match ended {
                    Ok((missing, dialled)) => upkeep.dialled(missing, dialled),
                    Err(error) => {
                        // Whose it was is not known any more; counting begins anew.
                        upkeep.under_way.clear();
                        shared.note_panic(Err(error));
                    }
                },
                Some(ended) = upkeep.lanes.join_next() => shared.note_panic(ended),
                _ = expire.tick() => upkeep.tick(),
                () = drain.reached(Phase::Forced) => break,
            }
        }
        upkeep.dials.shutdown().await;
        shared.streams.tell(Order::Cut(Cut::Shutdown), |live| {
            matches!(live.way, Way::Out(_)) && live.port.is_none()
        });
        while let Some(ended) = upkeep.lanes.join_next().await {
            shared.note_panic(ended);
        }
    }
}

/// The connections that are made, and those there are.
struct Upkeep {
    shared: Arc<Shared>,
    under_way: HashMap<Missing, usize>,
    paused: HashMap<Missing, Instant>,
    dials: JoinSet<(Missing, Option<(Lane, Conn)>)>,
    lanes: JoinSet<()>,
}

impl Upkeep {
    /// A session found fewer connections than there should be.
    fn wish(&mut self, missing: &Missing) {
        let lanes = &self.shared.udp.lanes;
        if self.paused.contains_key(missing) {
            return lanes.failed(missing);
        }
        let under_way = self.under_way.entry(missing.clone()).or_default();
        let there = lanes.count(missing) + *under_way;
        for _ in there..PER_REPLICA {
            *under_way += 1;
            let (shared, missing) = (Arc::clone(&self.shared), missing.clone());
            self.dials.spawn(async move {
                let dialled = shared.dial_lane(&missing).await;
                (missing, dialled)
            });
        }
    }

    fn dialled(&mut self, missing: Missing, dialled: Option<(Lane, Conn)>) {
        if let Some(under_way) = self.under_way.get_mut(&missing) {
            *under_way -= 1;
            if *under_way == 0 {
                self.under_way.remove(&missing);
            }
        }
        let lanes = &self.shared.udp.lanes;
        let Some((lane, conn)) = dialled else {
            lanes.failed(&missing);
            self.paused.insert(missing, clock::now());
            return;
        };
        let lane = Arc::new(lane);
        if lanes.add(&lane) {
            self.lanes.spawn(Arc::clone(&self.shared).run_lane(lane, conn));
        } else {
            // Behind a shared address another replica answered, which has all it may.
            self.paused.insert(missing, clock::now());
        }
    }

    fn tick(&mut self) {
        let now = clock::now();
        self.paused.retain(|_, since| now.duration_since(*since) < DIAL_PAUSE);
        self.shared.expire_imports();
        self.shared.expire_exports();
        let table = self.shared.routes.load();
        self.shared.udp.lanes.forget(|peer| table.peers.contains_key(peer));
    }
}
