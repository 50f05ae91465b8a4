//! The pool's upkeep, the winding up of lost attempts, and orders to open streams.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::live::{Cut, Live, Order, Way};
use super::metrics::as_gauge;
use super::spares::Spares;
use super::{Gateway, Shared};
use crate::clock;
use crate::drain::{Phase, Watch};
use crate::health::{PeerState, PeerView, Target};
use crate::model::ClusterId;
use crate::routes::RouteTable;

/// Between sweeps of the pool.
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// Between looks at streams of which a receiver takes nothing.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Streams of a replica that went Down are reset over this time, so that their clients do not
/// all come back at once.
const RESET_SPREAD: Duration = Duration::from_millis(500);

impl Gateway {
    /// Keeps the pool stocked and honest, winds up lost attempts, ends streams whose replica is
    /// Down or whose peer is not trusted any more.
    pub async fn run_pool(self, mut drain: Watch) {
        let shared = self.shared;
        let taken = shared.loose_ends.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut loose) = taken else {
            tracing::error!("the pool's upkeep runs already");
            return;
        };
        let mut tasks = JoinSet::new();
        let mut spares = Spares::default();
        let mut orders = Orders::default();
        let mut changed = shared.changed.clone();
        let mut generation = shared.trust.generation();
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(end) = loose.recv() => {
                    tasks.spawn(end);
                }
                Some(ended) = tasks.join_next() => shared.note_panic(ended),
                () = spares.ended(&shared) => {}
                _ = sweep.tick() => {
                    shared.sweep();
                    spares.keep(&shared);
                }
                _ = look.tick() => shared.streams.tell(Order::Look, Live::is_stuck),
                Ok(()) = changed.changed() => orders.follow(&shared, &mut tasks),
                Ok(()) = generation.changed() => shared.revoke(),
                () = drain.reached(Phase::Forced) => return,
            }
        }
    }
}

impl Shared {
    fn sweep(&self) {
        let table = self.routes.load_full();
        let warm = early_peers(&table);
        for (peer, replica) in self.pool.sweep(|conn| self.is_spent(conn), &warm) {
            tracing::info!(%peer, %replica, "the peer's replica drains");
            self.news.draining(&peer, replica);
        }
        self.metrics.buffered.set(as_gauge(self.budget.held()));
        self.loads.look_over(&table.local);
    }

    /// The bundles changed: what a withdrawn one vouched for ends.
    fn revoke(&self) {
        self.streams.tell(Order::Cut(Cut::Revoked), |live| self.is_revoked(live));
        self.sweep();
    }

    fn is_revoked(&self, live: &Live) -> bool {
        live.peer.as_ref().is_some_and(|peer| !self.trust.still_trusts(peer))
    }

    /// For a stream that was listed just now: the bundles may have changed since its connection
    /// was last looked at.
    pub(super) fn cut_if_revoked(&self, live: &Live) {
        if self.is_revoked(live) {
            live.tell(Order::Cut(Cut::Revoked));
        }
    }
}

/// The peers that early data may go to.
fn early_peers(table: &RouteTable) -> HashSet<ClusterId> {
    let routes = table.services.values().filter(|route| route.early_data);
    let candidates = routes.flat_map(|route| &route.ports).flat_map(|port| &port.candidates);
    let there = candidates.filter(|candidate| candidate.usable && !candidate.local);
    there.map(|candidate| candidate.cluster.clone()).collect()
}

/// What was ordered already, so that it is ordered once.
#[derive(Debug, Default)]
struct Orders {
    asked: HashSet<Target>,
    reset: HashMap<Target, Instant>,
    asked_peers: HashSet<ClusterId>,
    reset_peers: HashMap<ClusterId, Instant>,
}

impl Orders {
    /// Does what the views ask for since the last table.
    fn follow(&mut self, shared: &Arc<Shared>, tasks: &mut JoinSet<()>) {
        let table = shared.routes.load_full();
        for (peer, status) in &table.peers {
            for view in &status.health.replicas {
                let target = &view.target;
                let to_it = |live: &Live| live.way == Way::Out(target.clone());
                if !view.ask_streams {
                    self.asked.remove(target);
                } else if self.asked.insert(target.clone()) {
                    shared.streams.tell(Order::Ask, to_it);
                }
                match view.reset_unheard_since {
                    None => drop(self.reset.remove(target)),
                    Some(since) if self.reset.insert(target.clone(), since) != Some(since) => {
                        tracing::warn!(%peer, replica = %target.replica, "silent: its streams end");
                        shared.pool.challenge(target);
                        spread(shared.streams.matching(|l| to_it(l) && l.heard() < since), tasks);
                    }
                    Some(_) => {}
                }
            }
            self.follow_inbound(shared, peer, &status.health, tasks);
        }
        let is_peer = |peer: &ClusterId| table.peers.contains_key(peer);
        self.asked.retain(|target| is_peer(&target.peer));
        self.reset.retain(|target, _| is_peer(&target.peer));
        self.asked_peers.retain(is_peer);
        self.reset_peers.retain(|peer, _| is_peer(peer));
    }

    /// Streams that a peer opened do not say which replica of it they come from: they are asked
    /// and ended only when all of its replicas are silent.
    fn follow_inbound(
        &mut self,
        shared: &Arc<Shared>,
        peer: &ClusterId,
        view: &PeerView,
        tasks: &mut JoinSet<()>,
    ) {
        let from_it = |live: &Live| {
            live.way == Way::In && live.peer.as_ref().is_some_and(|p| p.cluster() == peer)
        };
        let silent = !view.replicas.is_empty() && view.replicas.iter().all(|r| r.ask_streams);
        let ends: Option<Vec<Instant>> =
            view.replicas.iter().map(|replica| replica.reset_unheard_since).collect();
        let since = ends.and_then(|ends| ends.into_iter().max());
        if silent && self.asked_peers.insert(peer.clone()) {
            shared.streams.tell(Order::Ask, from_it);
        }
        match since.filter(|_| view.state == PeerState::Down) {
            Some(since) if self.reset_peers.insert(peer.clone(), since) != Some(since) => {
                spread(shared.streams.matching(|l| from_it(l) && l.heard() < since), tasks);
            }
            Some(_) => {}
            None => {
                self.reset_peers.remove(peer);
                if !silent {
                    self.asked_peers.remove(peer);
                }
            }
        }
    }
}

/// Ends them one after the other over [`RESET_SPREAD`].
fn spread(victims: Vec<Arc<Live>>, tasks: &mut JoinSet<()>) {
    if victims.is_empty() {
        return;
    }
    tasks.spawn(async move {
        let count = u32::try_from(victims.len()).unwrap_or(u32::MAX);
        let step = RESET_SPREAD / count;
        // Several rounds may meet: no two of them begin together.
        let begin = clock::now() + step.mul_f64(rand::random::<f64>());
        for (place, victim) in (0_u32..).zip(victims) {
            // Each by its own time: a timer's grain must not add up over thousands of streams.
            let due = begin + step * place;
            if due > clock::now() {
                tokio::time::sleep_until(due.into()).await;
            }
            victim.tell(Order::Cut(Cut::Down));
        }
    });
}
