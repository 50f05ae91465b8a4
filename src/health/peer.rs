//! One peer: its replicas behind its addresses, and the flaps of each address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::address::Addresses;
use super::config::Timing;
use super::estimator::Ranking;
use super::fact::{DialFault, Fact, ProbeKind, Target};
use super::phase::Cause;
use super::replica::{Answer, Replica};
use super::view::{PeerState, PeerView, ReplicaView};
use crate::model::{ClusterId, ReplicaId};

/// Replicas, addresses and drain notices remembered per peer: a peer cannot make us grow.
const REPLICAS_MAX: usize = 64;

/// What is known beyond this peer when a replica is to go Down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings {
    /// When anybody was last heard.
    pub(super) heard: Option<Instant>,
    /// How many peers are Up, Draining or Suspect.
    pub(super) live_peers: usize,
}

impl Surroundings {
    /// Whether a replica last heard at `heard` is kept, because it may be us who are cut off: of
    /// two or more live peers none was heard a round later than it.
    fn keep(&self, heard: Option<Instant>, now: Instant, timing: &Timing) -> bool {
        let Some(heard) = heard else {
            return false;
        };
        let itself = now.saturating_duration_since(heard) <= timing.round;
        let other = self.heard.is_some_and(|any| any > heard + timing.round);
        self.live_peers >= 2 && !itself && !other
    }
}

/// What followed from a fact or a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Outcome {
    /// The peer answered us.
    pub(super) heard: bool,
    /// A replica would be Down, were there proof that we are not cut off.
    pub(super) kept: bool,
}

/// A state as shown, and since when.
#[derive(Debug, Clone, Copy)]
struct Shown {
    state: PeerState,
    since: Instant,
}

impl Shown {
    fn set(&mut self, state: PeerState, at: Instant) -> bool {
        let changed = self.state != state;
        if changed {
            *self = Self { state, since: at };
        }
        changed
    }
}

type Key = (SocketAddr, ReplicaId);

#[derive(Debug, Clone)]
struct Entry {
    replica: Replica,
    shown: Shown,
}

/// One peer.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    cluster: ClusterId,
    entries: BTreeMap<Key, Entry>,
    addresses: Addresses,
    draining: BTreeSet<ReplicaId>,
    /// A replica of it was Up once: it is never Unknown again.
    known: bool,
    ranking: Ranking,
    shown: Shown,
}

impl Peer {
    /// Never heard.
    pub(super) fn new(cluster: ClusterId, now: Instant) -> Self {
        Self {
            cluster,
            entries: BTreeMap::new(),
            addresses: Addresses::default(),
            draining: BTreeSet::new(),
            known: false,
            ranking: Ranking::default(),
            shown: Shown { state: PeerState::Unknown, since: now },
        }
    }

    /// Takes in a fact about this peer.
    pub(super) fn observe(
        &mut self,
        fact: &Fact,
        around: &Surroundings,
        timing: &Timing,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let at = match fact {
            Fact::Seen { target, at } => {
                self.entry(target, *at, timing);
                self.addresses.get(target.address).refused = 0;
                *at
            }
            Fact::ProbeSent { target, kind, id, at } => {
                if let Some(entry) = self.entries.get_mut(&key(target)) {
                    entry.replica.sent(*kind, *id, *at, timing);
                }
                *at
            }
            Fact::ProbeAnswered { target, kind, id, at, rtt } => {
                outcome.heard = true;
                self.answered(target, (*kind, *id), *at, *rtt, timing);
                *at
            }
            Fact::ProbeFailed { target, kind, id, at } => {
                outcome.kept = self.failed(target, (*kind, *id), *at, around, timing);
                *at
            }
            Fact::ProbeVoid { target, kind, id, at } => {
                if let Some(entry) = self.entries.get_mut(&key(target)) {
                    entry.replica.forget_probe(*kind, *id, timing);
                }
                *at
            }
            Fact::Replied { target, at } => {
                outcome.heard = true;
                if let Some(entry) = self.entry(target, *at, timing) {
                    entry.replica.replied(*at);
                }
                *at
            }
            Fact::OpenUnanswered { target, at } => {
                if let Some(entry) = self.entries.get_mut(&key(target)) {
                    entry.replica.open_unanswered(timing);
                }
                *at
            }
            Fact::DialFailed { address, fault, at, .. } => {
                self.dial_failed(*address, *fault, *at, timing);
                *at
            }
            Fact::StandingLost { target, at } => {
                if let Some(entry) = self.entries.get_mut(&key(target)) {
                    entry.replica.standing_lost(*at);
                }
                *at
            }
            Fact::Draining { replica, draining, at, .. } => {
                self.drain(*replica, *draining);
                *at
            }
            Fact::Lagged { at, .. } => *at,
        };
        self.show(at);
        outcome
    }

    /// Judges what time alone decides.
    pub(super) fn tick(&mut self, now: Instant, around: &Surroundings, timing: &Timing) -> Outcome {
        let mut outcome = Outcome::default();
        let keys: Vec<Key> = self.entries.keys().copied().collect();
        for key in keys {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let by_fresh = entry.replica.judge(now, timing);
            let by_silence = entry.replica.silence_due(timing).is_some_and(|due| due <= now);
            if !by_fresh && !by_silence {
                continue;
            }
            if around.keep(self.heard(), now, timing) {
                outcome.kept = true;
            } else if by_silence {
                self.down(key, Cause::Silence, now, timing);
            } else {
                self.down(key, Cause::Fresh, now, timing);
            }
        }
        self.forget(now, timing);
        self.show(now);
        outcome
    }

    /// Our own loop lagged.
    pub(super) fn void(&mut self, by: Duration, at: Instant, timing: &Timing) {
        for entry in self.entries.values_mut() {
            entry.replica.void(by, at, timing);
        }
    }

    /// Somebody answered after all were silent.
    pub(super) fn spare(&mut self, grace: Duration, now: Instant, timing: &Timing) {
        for entry in self.entries.values_mut() {
            entry.replica.spare(grace, now, timing);
        }
    }

    /// When a tick is next due. `after` is the last one; silence is left out while it is kept.
    pub(super) fn due(&self, after: Instant, kept: bool, timing: &Timing) -> Option<Instant> {
        let replica_due = |entry: &Entry| {
            let replica = &entry.replica;
            let silence = replica.silence_due(timing).filter(|due| !kept || *due > after);
            let by_time = replica.view_due(after, timing).into_iter();
            let forget = replica.forget_due(timing).filter(|due| *due > after);
            by_time.chain(silence).chain(replica.judge_due(timing)).chain(forget).min()
        };
        self.entries.values().filter_map(replica_due).min()
    }

    /// The peer's state as shown.
    pub(super) fn state(&self) -> PeerState {
        self.shown.state
    }

    /// When any of its replicas was last heard.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.replica.heard()).max()
    }

    /// The peer as it stands.
    pub(super) fn view(&self, now: Instant, timing: &Timing) -> PeerView {
        let order = self.order();
        let best = order.first().and_then(|key| self.entries.get(key));
        PeerView {
            state: self.shown.state,
            since: self.shown.since,
            rtt: best.and_then(|entry| entry.replica.rtt()),
            ranking_rtt: self.ranking.value(),
            loss_percent: best.map_or(0.0, |entry| entry.replica.loss_percent()),
            replicas: order.iter().filter_map(|key| self.replica_view(*key, now, timing)).collect(),
        }
    }

    fn replica_view(&self, key: Key, now: Instant, timing: &Timing) -> Option<ReplicaView> {
        let Entry { replica, shown } = self.entries.get(&key)?;
        Some(ReplicaView {
            target: Target { peer: self.cluster.clone(), address: key.0, replica: key.1 },
            state: shown.state,
            since: shown.since,
            rtt: replica.rtt(),
            pace: replica.pace(),
            ask_streams: replica.ask_streams(now, timing),
            reset_unheard_since: replica.reset_unheard_since(),
            slow_start: replica.share(now, timing),
        })
    }

    /// Replicas, best first: by state, then by the round trip that ranks, then by name.
    fn order(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.entries.keys().copied().collect();
        keys.sort_by_key(|key| {
            let entry = self.entries.get(key);
            let state = entry.map_or(PeerState::Down, |e| e.shown.state);
            let rtt = entry.and_then(|e| e.replica.ranking()).unwrap_or(Duration::MAX);
            (state, rtt, *key)
        });
        keys
    }

    fn answered(
        &mut self,
        target: &Target,
        (kind, id): (ProbeKind, u64),
        at: Instant,
        rtt: Duration,
        timing: &Timing,
    ) {
        let key = key(target);
        let vouched = self.vouched(key);
        let Some(entry) = self.entry(target, at, timing) else { return };
        entry.replica.first_heard(vouched, at);
        let answer = entry.replica.answered(kind, id, at, rtt, timing);
        let address = self.addresses.get(target.address);
        address.refused = 0;
        let held = address.held_until();
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if answer == Answer::Good && entry.replica.rise(kind, at, held, timing) {
            self.addresses.get(target.address).returned();
        }
        self.known |= self.entries.get(&key).is_some_and(|e| e.replica.state() == PeerState::Up);
        self.rank(key, at, timing);
    }

    /// The peer's round trip is that of its best replica.
    fn rank(&mut self, key: Key, at: Instant, timing: &Timing) {
        if self.order().first() != Some(&key) {
            return;
        }
        let Some(replica) = self.entries.get(&key).map(|entry| &entry.replica) else { return };
        if let Some(rtt) = replica.rtt() {
            self.ranking.offer(rtt, replica.settled(), at, timing);
        }
    }

    fn failed(
        &mut self,
        target: &Target,
        (kind, id): (ProbeKind, u64),
        at: Instant,
        around: &Surroundings,
        timing: &Timing,
    ) -> bool {
        let key = key(target);
        let Some(entry) = self.entries.get_mut(&key) else {
            return false;
        };
        let exhausted = entry.replica.failed(kind, id, at, timing);
        if kind == ProbeKind::Fresh && self.superseded(key) {
            self.down(key, Cause::Superseded, at, timing);
            return false;
        }
        if !exhausted {
            return false;
        }
        if around.keep(self.heard(), at, timing) {
            return true;
        }
        self.down(key, Cause::Fresh, at, timing);
        false
    }

    fn dial_failed(
        &mut self,
        at_address: SocketAddr,
        fault: DialFault,
        at: Instant,
        timing: &Timing,
    ) {
        let address = self.addresses.get(at_address);
        if fault != DialFault::Refused {
            address.refused = 0;
            return;
        }
        address.refused = address.refused.saturating_add(1);
        let enough = address.refused >= timing.refused_until_down;
        let keys: Vec<Key> = self.entries.keys().filter(|k| k.0 == at_address).copied().collect();
        for key in keys {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let live = entry.replica.live();
            if enough && live && !entry.replica.connected() {
                self.down(key, Cause::Refused, at, timing);
            } else {
                entry.replica.suspect_without_connection();
            }
        }
    }

    fn drain(&mut self, replica: ReplicaId, draining: bool) {
        if !draining {
            self.draining.remove(&replica);
            return;
        }
        if self.draining.len() >= REPLICAS_MAX {
            let known: BTreeSet<ReplicaId> = self.entries.keys().map(|key| key.1).collect();
            self.draining.retain(|id| known.contains(id));
        }
        if self.draining.len() < REPLICAS_MAX {
            self.draining.insert(replica);
        }
    }

    /// A process that announced its end and then went is no flap.
    fn down(&mut self, key: Key, cause: Cause, at: Instant, timing: &Timing) {
        let announced = self.draining.contains(&key.1);
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if entry.replica.state() == PeerState::Down {
            entry.replica.fall_silent(at);
            return;
        }
        entry.replica.go_down(cause, at);
        if !announced {
            self.addresses.get(key.0).flap(at, timing);
        }
    }

    /// Whether a replica may be Up on its first `PONG`: beside an Up one, or as the first ever.
    fn vouched(&self, key: Key) -> bool {
        !self.known
            || self.entries.iter().any(|(other, entry)| *other != key && entry.replica.vouches())
    }

    /// Whether another process took this one's place: its connection is gone, nothing was heard
    /// since, and behind the same address a replica appeared after that. (Asked when a fresh
    /// probe, which tries several dials, did not land on it.)
    fn superseded(&self, key: Key) -> bool {
        let Some(entry) = self.entries.get(&key) else {
            return false;
        };
        let Some(lost) = entry.replica.cut_off_since().filter(|_| entry.replica.live()) else {
            return false;
        };
        self.entries
            .iter()
            .any(|(other, entry)| other.0 == key.0 && *other != key && entry.replica.seen() >= lost)
    }

    /// The replica of that target, made if it is new and there is room.
    fn entry(&mut self, target: &Target, at: Instant, timing: &Timing) -> Option<&mut Entry> {
        let key = key(target);
        if !self.entries.contains_key(&key) {
            self.make_room(timing);
            if self.entries.len() >= REPLICAS_MAX {
                return None;
            }
            let replica = Replica::new(at, !self.vouched(key));
            let shown = Shown { state: replica.state(), since: at };
            self.entries.insert(key, Entry { replica, shown });
        }
        self.entries.get_mut(&key)
    }

    /// Full: the one that may be forgotten soonest goes.
    fn make_room(&mut self, timing: &Timing) {
        if self.entries.len() < REPLICAS_MAX {
            return;
        }
        let due = |entry: &Entry| entry.replica.forget_due(timing);
        let soonest = self.entries.iter().filter_map(|(key, e)| Some((due(e)?, *key))).min();
        if let Some((_, key)) = soonest {
            self.entries.remove(&key);
        }
    }

    /// Forgets replicas that are gone, but never the last one heard or seen: the peer keeps a
    /// face. And addresses whose flaps are old.
    fn forget(&mut self, now: Instant, timing: &Timing) {
        let last = self
            .entries
            .iter()
            .max_by_key(|(key, e)| (e.replica.heard().unwrap_or_else(|| e.replica.seen()), **key))
            .map(|(key, _)| *key);
        self.entries.retain(|key, entry| {
            let gone = entry.replica.forget_due(timing).is_some_and(|due| due <= now);
            !gone || Some(*key) == last
        });
        let used: BTreeSet<SocketAddr> = self.entries.keys().map(|key| key.0).collect();
        self.addresses.forget(&used, now, timing);
    }

    /// Brings what is shown up to date.
    fn show(&mut self, at: Instant) {
        for (key, entry) in &mut self.entries {
            let state = match entry.replica.state() {
                PeerState::Up | PeerState::Suspect if self.draining.contains(&key.1) => {
                    PeerState::Draining
                }
                state => state,
            };
            entry.shown.set(state, at);
        }
        let best = self.entries.values().map(|entry| entry.shown.state).min();
        let state = match best.unwrap_or_default() {
            PeerState::Unknown if self.known => PeerState::Down,
            state => state,
        };
        let from = self.shown.state;
        if self.shown.set(state, at) {
            log(&self.cluster, from, state);
        }
    }
}

fn key(target: &Target) -> Key {
    (target.address, target.replica)
}

/// Suspect comes and goes on a lossy path and asks nothing of anybody.
fn log(cluster: &ClusterId, from: PeerState, to: PeerState) {
    let (from_text, to_text) = (from.as_str(), to.as_str());
    if from == PeerState::Suspect && to == PeerState::Up || to == PeerState::Suspect {
        tracing::debug!(peer = %cluster, from = from_text, to = to_text, "peer changed");
    } else {
        tracing::info!(peer = %cluster, from = from_text, to = to_text, "peer changed");
    }
}
