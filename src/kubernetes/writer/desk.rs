//! Everything the writer knows, and what each piece of news makes of it.
//!
//! Synchronous: requests are given out as [`Job`]s, and what their ends mean is in `settle`.

mod settle;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::WriterMetrics;
use super::change::{self, Change};
use super::job::{Aim, Job, Request};
use super::peers::Statuses;
use super::plan::{Look, Plan};
use super::queue::{Next, Queue};
use super::refusals::Refusals;
use super::status::StatusJob;
use super::target::{Rank, Target};
use super::withdraw::Withdrawals;
use crate::backoff::Backoff;
use crate::clock;
use crate::kubernetes::client::{CALL_DEADLINE, Clients};
use crate::kubernetes::events::Events;
use crate::kubernetes::kinds::Resource;
use crate::kubernetes::lease::Tenure;
use crate::kubernetes::mirror::{Existing, Mirror};
use crate::model::ServiceKey;
use crate::objects::{DerivedService, Desired, McsVersion, Object, ObjectId, PeerStatus};

/// Pauses while the API server is away.
const AWAY_MIN: Duration = Duration::from_millis(500);
const AWAY_MAX: Duration = Duration::from_secs(10);
/// How long changes in the mirror collect before everything is compared, at least; and how many
/// times as long as the last comparison took, so that it never costs more than a twentieth of one
/// core.
const COLLECT: Duration = Duration::from_millis(100);
const COLLECT_FACTOR: u32 = 20;

/// What the loop does next.
pub(super) enum Turn {
    /// Sends this; over by that moment.
    Send(Target, Box<Job>, Instant),
    /// Waits for news, or until that moment.
    At(Option<Instant>),
}

/// The state of the writer.
pub(super) struct Desk {
    clients: Arc<Clients>,
    mirror: Arc<Mirror>,
    tenure: Arc<Tenure>,
    events: Events,
    metrics: WriterMetrics,
    plan: Plan,
    queue: Queue,
    statuses: Statuses,
    withdrawals: Withdrawals,
    refusals: Refusals,
    /// What is tried again soon, and how often it was: Services that wait for addresses to become
    /// free, and what was not answered.
    tries: BTreeMap<Target, u32>,
    /// Lost Services whose addresses cannot be had again: they are made with others.
    anew: BTreeSet<ObjectId>,
    /// Objects that rest until somebody else's of that name is gone.
    foreign: BTreeSet<ObjectId>,
    away: Backoff,
    leads: bool,
    /// How far the mirror's changes are known: our own, and those looked at.
    known: u64,
    /// When everything is to be compared.
    due: Option<Instant>,
    took: Duration,
}

impl Desk {
    pub(super) fn new(
        clients: Arc<Clients>,
        mirror: Arc<Mirror>,
        tenure: Arc<Tenure>,
        events: Events,
        metrics: WriterMetrics,
    ) -> Self {
        Self {
            clients,
            mirror,
            tenure,
            events,
            metrics,
            plan: Plan::default(),
            queue: Queue::default(),
            statuses: Statuses::default(),
            withdrawals: Withdrawals::default(),
            refusals: Refusals::default(),
            tries: BTreeMap::new(),
            anew: BTreeSet::new(),
            foreign: BTreeSet::new(),
            away: Backoff::try_new(AWAY_MIN, AWAY_MAX).expect("0.5 s is less than 10 s"),
            leads: false,
            known: 0,
            due: None,
            took: Duration::ZERO,
        }
    }

    /// The mirror's count of changes.
    pub(super) fn mirrored(&self) -> watch::Receiver<u64> {
        self.mirror.changed()
    }

    /// What should exist for a name from now on.
    pub(super) fn accept(&mut self, desired: Desired, now: Instant) {
        let key = desired.key.clone();
        if self.leads {
            // From here on the slices are as the leader says, of which it says anything.
            for (id, exists) in self.mirror.of(&key) {
                if !desired.kept.holds(&exists.object) {
                    self.withdrawals.end(&id);
                }
            }
        }
        self.plan.accept(desired, now);
        self.look(&key, now);
    }

    /// This replica writes from now on, or no longer.
    pub(super) fn lead(&mut self, leads: bool, now: Instant) {
        self.leads = leads;
        self.metrics.leader.set(f64::from(u8::from(leads)));
        self.queue.clear();
        self.refusals.clear();
        self.statuses.begin();
        self.tries.clear();
        self.anew.clear();
        self.foreign.clear();
        self.away.reset();
        if leads {
            self.plan.begin(now);
            self.look_everywhere(now);
        }
    }

    /// The mirror has changed `count` times.
    pub(super) fn notice(&mut self, count: u64, now: Instant) {
        if count != self.known {
            let collect = COLLECT.max(self.took * COLLECT_FACTOR);
            self.due.get_or_insert(now + collect);
        }
    }

    /// What the status of every Peer should be from now on.
    pub(super) fn take_peers(&mut self, peers: Arc<BTreeMap<Box<str>, PeerStatus>>, now: Instant) {
        self.statuses.take_peers(peers);
        self.look_at_peers(now);
    }

    /// These addresses are to leave the slices of kube-proxy, whoever leads.
    pub(super) fn withdraw(&mut self, addresses: &[IpAddr], now: Instant) {
        let slices = self.withdrawals.begin(&self.mirror, addresses, now);
        tracing::info!(?addresses, slices = slices.len(), "a sibling is silent: its addresses go");
        for id in slices {
            self.queue.push(Target::Object(id), Rank::Removal, now);
        }
    }

    /// Regular care: forgets what is over, compares everything.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.withdrawals.tidy(now);
        self.statuses.tidy(now);
        self.plan.tidy(now);
        let wanted = |id: &ObjectId| self.plan.owner(id).is_some();
        self.tries.retain(|target, _| match target {
            Target::Object(id) => wanted(id),
            Target::Export(key) => self.plan.export(key).is_some(),
            Target::Peer(name) => self.statuses.peer(name).is_some(),
        });
        self.anew.retain(wanted);
        self.foreign.retain(wanted);
        self.mirror.wait_only_for(&self.foreign);
        self.look_everywhere(now);
    }

    /// Tells what is refused.
    pub(super) fn publish(&mut self, to: &watch::Sender<Arc<BTreeMap<ServiceKey, Box<str>>>>) {
        self.refusals.publish(to);
        self.metrics
            .waiting
            .set(f64::from(u32::try_from(self.queue.waiting()).unwrap_or(u32::MAX)));
    }

    fn look_everywhere(&mut self, now: Instant) {
        self.due = None;
        self.known = *self.mirror.changed().borrow();
        let keys: Vec<_> = self.plan.keys().cloned().collect();
        for key in &keys {
            self.look(key, now);
        }
        self.look_at_peers(now);
        self.took = clock::now().saturating_duration_since(now);
    }

    fn look_at_peers(&mut self, now: Instant) {
        if !self.leads {
            return;
        }
        for (name, from) in self.statuses.peers_due(now) {
            self.queue.push(Target::Peer(name), Rank::Status, from);
        }
    }

    /// Queues what differs of one name, and takes from the queue what does not.
    fn look(&mut self, key: &ServiceKey, now: Instant) {
        if !self.leads || !self.mirror.synced() {
            return;
        }
        let mut ids: BTreeSet<ObjectId> = self.plan.wanted(key).cloned().collect();
        ids.extend(self.mirror.of(key).into_iter().map(|(id, _)| id));
        for id in ids {
            let exists = self.mirror.get(&id);
            let place = self.see(key, &id, exists.as_ref(), now).place();
            let vacated = self.foreign.contains(&id) && !self.mirror.waits_for(&id);
            if vacated {
                self.foreign.remove(&id);
            }
            let target = Target::Object(id);
            if vacated {
                self.queue.wake(&target);
            }
            match place {
                Some((rank, from)) => self.queue.push(target, rank, from),
                None => {
                    if let Target::Object(id) = &target
                        && !self.withdrawals.concerns(id)
                    {
                        self.refusals.lift(id);
                        self.queue.forget(&target);
                    }
                }
            }
        }
        match self.plan.export(key).filter(|export| self.statuses.export_differs(export)) {
            Some(_) => self.queue.push(Target::Export(key.clone()), Rank::Status, now),
            None => self.queue.forget(&Target::Export(key.clone())),
        }
    }

    /// What the plan makes of one object as it is; nothing while a sibling's addresses leave it.
    fn see<'a>(
        &'a self,
        key: &ServiceKey,
        id: &ObjectId,
        exists: Option<&'a Existing>,
        now: Instant,
    ) -> Look<'a> {
        if self.withdrawals.concerns(id) {
            return Look::Blocked;
        }
        let service = self.plan.service(key).and_then(|id| self.mirror.get(id));
        self.plan.look(key, id, exists, service.as_ref(), now)
    }

    /// Whose turn it is at `now`, and what is sent.
    pub(super) fn turn(&mut self, now: Instant) -> Turn {
        if self.due.is_some_and(|due| due <= now) {
            self.look_everywhere(now);
        }
        loop {
            let target = match self.queue.next(now) {
                Next::Turn(target) => target,
                Next::At(moment) => {
                    return Turn::At(Some(self.due.map_or(moment, |due| due.min(moment))));
                }
                Next::Nothing => return Turn::At(self.due),
            };
            match self.job(&target, now) {
                Some((job, deadline)) => {
                    self.queue.spend(now);
                    return Turn::Send(target, Box::new(job), deadline);
                }
                None => self.queue.done(&target),
            }
        }
    }

    /// The request for `target`, computed from what is there and what should be; `None` where
    /// nothing is to be done, or nothing may be.
    fn job(&mut self, target: &Target, now: Instant) -> Option<(Job, Instant)> {
        let mcs = self.clients.mcs(Resource::Import);
        let deadline = now + CALL_DEADLINE;
        if let Target::Object(id) = target
            && self.withdrawals.concerns(id)
        {
            // Needs no leader.
            return Some((self.withdrawal(id, mcs)?, deadline));
        }
        let deadline = deadline.min(self.tenure.permit(now).filter(|_| self.leads)?);
        let job = match target {
            Target::Object(id) => self.change(id, mcs, now)?,
            Target::Export(key) => {
                let status = self.plan.export(key)?;
                let request =
                    Request::Status(StatusJob::export(status, self.clients.mcs(Resource::Export)));
                Job { aim: Aim::Export(status.clone()), uid: None, request }
            }
            Target::Peer(name) => {
                let status = self.statuses.peer(name)?;
                let request = Request::Status(StatusJob::peer(name, status));
                Job { aim: Aim::Peer(status.clone()), uid: None, request }
            }
        };
        Some((job, deadline))
    }

    fn change(&self, id: &ObjectId, mcs: McsVersion, now: Instant) -> Option<Job> {
        let exists = self.mirror.get(id);
        let key = self.key(id)?;
        let Look::Change(change, from) = self.see(&key, id, exists.as_ref(), now) else {
            return None;
        };
        if from > now {
            return None;
        }
        let wanted = || self.plan.object(&key, id).map(Arc::clone);
        let aim = match change {
            Change::Delete(_) => Aim::Absence,
            Change::Status(..) => Aim::WithStatus(wanted()?),
            Change::Create(_) | Change::Replace(..) => Aim::Object(wanted()?),
        };
        let call = match change {
            Change::Create(Object::Service(service)) if self.anew.contains(id) => {
                let anew = Object::Service(DerivedService { ips: Vec::new(), ..service.clone() });
                Change::Create(&anew).call(id, mcs)
            }
            change => change.call(id, mcs),
        };
        let request = Request::Change { id: id.clone(), call, read: change::read(id, mcs) };
        Some(Job { aim, uid: exists.map(|exists| exists.uid), request })
    }

    fn withdrawal(&mut self, id: &ObjectId, mcs: McsVersion) -> Option<Job> {
        let exists = self.mirror.get(id);
        let wanted = exists.as_ref().and_then(|exists| self.withdrawals.wanted(id, exists));
        let (Some(exists), Some(wanted)) = (exists, wanted) else {
            self.settled(id);
            return None;
        };
        let uid = Some(exists.uid.clone());
        let call = Change::Replace(&wanted, &exists).call(id, mcs);
        let request = Request::Change { id: id.clone(), call, read: change::read(id, mcs) };
        Some(Job { aim: Aim::Object(Arc::new(wanted)), uid, request })
    }

    /// The name that an object belongs to: as it should be, else as it is.
    fn key(&self, id: &ObjectId) -> Option<ServiceKey> {
        self.plan.owner(id).cloned().or_else(|| self.mirror.get(id)?.object.key())
    }
}
