//! Brings the objects to what should exist.
//!
//! Takes a [`Desired`] per name, compares it with the [`Mirror`], and while this replica holds the
//! Lease sends what differs: at most [`RATE`] writes a second ([`BURST`] at once), removals first,
//! then where addresses lead, then additions, then status; one at a time per object.
//!
//! Invariants
//! - Nothing is written where nothing differs, and before the mirror is synced.
//! - Every write carries the uid and the `resourceVersion` it was computed from, or creates; it is
//!   sent while the Lease is held by the monotonic clock and given up before another may hold it.
//!   So a late write is refused, never merged.
//! - What is not ours is never touched: an object of that name without our label is reported.
//! - An object that the server refuses rests for [`REST`]; the others go on.
//! - Slices follow one write after the derived Service that records their ports; the derived
//!   Service goes 30 s after the rest of its name.
//!
//! Not here: what should exist (`objects`), how the mirror is fed (`source`).

mod bucket;
mod change;
mod desk;
mod job;
mod peers;
mod plan;
mod queue;
mod refusals;
mod status;
mod target;
mod withdraw;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use prometheus::{Gauge, IntCounterVec, Registry};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

pub use self::bucket::{BURST, RATE};
use self::desk::{Desk, Turn};
use self::job::Outcome;
pub use self::queue::{MAX_IN_FLIGHT, REST};
use self::target::Target;
use super::client::Clients;
use super::events::{self, Events, Speaker};
use super::lease::{Elector, LeaseName, Tenure};
use super::mirror::Mirror;
use crate::clock;
use crate::drain::{Phase, Watch};
use crate::model::{Namespace, ServiceKey};
use crate::objects::{Desired, Kind, PeerStatus};
use crate::telemetry::{counters, gauge};

/// How often everything is compared, whatever the mirror tells.
const REGULAR: Duration = Duration::from_secs(10);
/// Most names taken at once.
const BATCH: usize = 256;
/// Most requests to take addresses out that wait.
const MAX_WITHDRAWALS: usize = 64;

/// Who writes, and how that is agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterConfig {
    /// The namespace of the Lease.
    pub namespace: Namespace,
    /// The Lease's name.
    pub lease: Box<str>,
    /// What tells this replica from the others: the pod's name.
    pub identity: Box<str>,
}

/// What the writer is told.
#[derive(Debug)]
pub struct WriterInputs {
    /// What should exist, by name: the last of a name counts. Every replica is told, so that any
    /// can take over. A name that has objects in the mirror and should have none is told too:
    /// of names it never heard of the writer touches nothing.
    pub desired: mpsc::Receiver<Desired>,
    /// The status of every Peer, by the object's name.
    pub peers: watch::Receiver<Arc<BTreeMap<Box<str>, PeerStatus>>>,
}

/// What the writer tells.
#[derive(Debug)]
pub struct WriterOutputs {
    /// Whether this replica writes.
    pub leader: watch::Sender<bool>,
    /// The names of which an object was refused, with the server's words.
    pub refusals: watch::Sender<Arc<BTreeMap<ServiceKey, Box<str>>>>,
}

/// Asks a running writer for the one write that needs no leader; cheap to clone.
#[derive(Debug, Clone)]
pub struct WriterHandle(mpsc::Sender<Vec<IpAddr>>);

impl WriterHandle {
    /// Takes the addresses of a silent sibling out of the slices that kube-proxy reads, from
    /// whichever replica this is. A slice keeps its last endpoint. It is tried for 10 s; what the
    /// leader writes afterwards counts.
    pub async fn remove_endpoints(&self, addresses: &[IpAddr]) {
        // Only at the end of the process nobody listens.
        let _ended = self.0.send(addresses.to_vec()).await;
    }
}

/// The writer of one replica.
#[derive(Debug)]
pub struct Writer {
    config: WriterConfig,
    clients: Arc<Clients>,
    mirror: Arc<Mirror>,
    metrics: WriterMetrics,
    handle: WriterHandle,
    withdrawals: mpsc::Receiver<Vec<IpAddr>>,
    events: Events,
    speaker: Speaker,
}

impl Writer {
    /// A writer that has done nothing yet.
    #[must_use]
    pub fn new(
        config: WriterConfig,
        clients: Arc<Clients>,
        mirror: Arc<Mirror>,
        metrics: WriterMetrics,
    ) -> Self {
        let (sender, withdrawals) = mpsc::channel(MAX_WITHDRAWALS);
        let (events, speaker) = events::channel(config.identity.clone());
        let handle = WriterHandle(sender);
        Self { config, clients, mirror, metrics, handle, withdrawals, events, speaker }
    }

    /// For the one write that needs no leader.
    #[must_use]
    pub fn handle(&self) -> WriterHandle {
        self.handle.clone()
    }

    /// Where Events are given up; they are said while this replica writes.
    #[must_use]
    pub fn events(&self) -> Events {
        self.events.clone()
    }

    /// Runs until the drain is announced; then ends what is under way, gives the Lease back, and
    /// returns when the drain begins.
    pub async fn run(self, inputs: WriterInputs, outputs: WriterOutputs, mut drain: Watch) {
        let tenure = Arc::new(Tenure::default());
        let client = self.clients.write.clone();
        let WriterOutputs { leader, refusals } = outputs;
        let lease = LeaseName { namespace: self.config.namespace, name: self.config.lease };
        let elector =
            Elector::new(client.clone(), lease, self.config.identity, Arc::clone(&tenure));
        let (finished, stop) = oneshot::channel::<()>();
        let stop = async {
            // Dropped or sent: either way nothing is written any more.
            let _finished = stop.await;
        };
        let desk = Desk::new(self.clients, self.mirror, tenure, self.events, self.metrics);
        let mut ears = Ears { inputs, withdrawals: self.withdrawals, leader: leader.subscribe() };
        let speaking = self.speaker.run(client.clone(), leader.subscribe(), drain.clone());
        let writing = async {
            write(desk, client, &mut ears, &refusals, drain.clone()).await;
            drop(finished);
            // Whoever still has something to say is not kept waiting.
            tokio::select! {
                () = async { while ears.inputs.desired.recv().await.is_some() {} } => {}
                () = drain.reached(Phase::Draining) => {}
            }
        };
        tokio::join!(writing, speaking, elector.run(leader, stop));
    }
}

/// Everything that the writing loop listens to.
struct Ears {
    inputs: WriterInputs,
    withdrawals: mpsc::Receiver<Vec<IpAddr>>,
    leader: watch::Receiver<bool>,
}

/// Writes until the drain is announced or nobody says any more what should exist.
async fn write(
    mut desk: Desk,
    client: kube::Client,
    ears: &mut Ears,
    refusals: &watch::Sender<Arc<BTreeMap<ServiceKey, Box<str>>>>,
    mut drain: Watch,
) {
    let mut jobs = FuturesUnordered::new();
    let mut batch = Vec::new();
    let mut mirrored = desk.mirrored();
    let mut regular = interval(REGULAR);
    regular.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let wake = loop {
            match desk.turn(clock::now()) {
                Turn::Send(target, job, deadline) => {
                    // Boxed: a full set of them is large, and moved around.
                    jobs.push(Box::pin(job.run(target, client.clone(), deadline)));
                }
                Turn::At(moment) => break moment,
            }
        };
        desk.publish(refusals);
        tokio::select! {
            Some(ended) = jobs.next(), if !jobs.is_empty() => desk.finish(ended, clock::now()),
            count = ears.inputs.desired.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    break;
                }
                for desired in batch.drain(..) {
                    desk.accept(desired, clock::now());
                }
            }
            Ok(()) = ears.leader.changed() => {
                let leads = *ears.leader.borrow_and_update();
                desk.lead(leads, clock::now());
            }
            Ok(()) = mirrored.changed() => {
                let count = *mirrored.borrow_and_update();
                desk.notice(count, clock::now());
            }
            Ok(()) = ears.inputs.peers.changed() => {
                let peers = Arc::clone(&ears.inputs.peers.borrow_and_update());
                desk.take_peers(peers, clock::now());
            }
            Some(addresses) = ears.withdrawals.recv() => {
                desk.withdraw(&addresses, clock::now());
            }
            _ = regular.tick() => desk.tidy(clock::now()),
            () = until(wake) => {}
            () = drain.reached(Phase::Announced) => break,
        }
    }
    while let Some(ended) = jobs.next().await {
        desk.finish(ended, clock::now());
    }
}

/// Resolves at that moment, or never.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// What the writer counts.
#[derive(Debug, Clone)]
pub struct WriterMetrics {
    writes: IntCounterVec,
    waiting: Gauge,
    leader: Gauge,
}

impl WriterMetrics {
    /// Registers the metrics of the writer.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            writes: counters(
                registry,
                "portolan_writes_total",
                "Writes to the API server, by kind of object and result",
                &["kind", "result"],
            )?,
            waiting: gauge(
                registry,
                "portolan_writes_waiting",
                "Objects that wait for a write, those that rest after a refusal included",
            )?,
            leader: gauge(
                registry,
                "portolan_leader",
                "1 while this replica writes to the API server",
            )?,
        })
    }

    fn count(&self, target: &Target, outcome: &Outcome) {
        let kind = match target {
            Target::Object(id) => match id.kind {
                Kind::Service => "service",
                Kind::Import => "import",
                Kind::Slice => "slice",
            },
            Target::Export(_) => "export",
            Target::Peer(_) => "peer",
        };
        self.writes.with_label_values(&[kind, outcome.label()]).inc();
    }
}

#[cfg(test)]
mod tests;
