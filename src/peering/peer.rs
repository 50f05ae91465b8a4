//! One peer: its addresses, the sessions to its replicas, what is believed of it, what is wrong.
//!
//! Pure: the hub brings what happened and the time, and asks what to dial, what to look up and
//! what to tell.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::believe::{Believed, Claim};
use super::dial::{Schedule, Wanted};
use super::link::Greeting;
use super::metrics::{Metrics, Role};
use super::mirror::{Budget, Mirror, OverCap};
use super::resolve::AddressBook;
use super::sessions::{SessionId, Sessions, Standing};
use super::subscribe::Verdict;
use super::{Config, DownReplicas, Event, PeerConfig};
use crate::catalog::Belief;
use crate::model::{ClusterId, PeerAddress, ReplicaId};

/// Between two catalogs told.
const COALESCE: Duration = Duration::from_millis(100);
/// Sessions held to one peer: more replicas than that are not dialled.
const MAX_SESSIONS: usize = 32;
/// Replicas remembered as draining; they are gone soon.
const MAX_DRAINING: usize = 64;

/// What a trouble is about, gravest first: that one is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// Its catalog in this session.
    Catalog(SessionId),
    /// The connections it makes.
    Inbound,
    /// Dialling it there.
    Dial(SocketAddr),
    /// Looking up one of its names.
    Name(PeerAddress),
}

#[derive(Debug)]
struct Open {
    address: SocketAddr,
    greeting: Greeting,
    opened: Instant,
    /// What it holds, once complete.
    mirror: Option<Arc<Mirror>>,
    revision: u64,
}

/// What was told last, so that only changes are told.
#[derive(Debug, Default)]
struct Told {
    sessions: u32,
    addresses: Vec<SocketAddr>,
    trouble: Option<String>,
}

/// One configured peer.
#[derive(Debug)]
pub(super) struct Peer {
    cluster: ClusterId,
    belief: Belief,
    own_ranges: Vec<ipnet::IpNet>,
    book: AddressBook,
    schedule: Schedule,
    sessions: Sessions,
    open: BTreeMap<SessionId, Open>,
    believed: Believed,
    revision: u64,
    draining: BTreeSet<ReplicaId>,
    troubles: BTreeMap<Subject, String>,
    told: Told,
    /// Draining notices not told yet, in order.
    notices: Vec<(ReplicaId, bool)>,
    /// The believed session, or how far it is believed, may have changed.
    stale: bool,
    /// Before this no further catalog is told.
    quiet_until: Instant,
    budget: Budget,
    metrics: Metrics,
}

impl Peer {
    pub(super) fn new(ours: &Config, config: &PeerConfig, metrics: Metrics, now: Instant) -> Self {
        let mut peer = Self {
            cluster: config.cluster.clone(),
            belief: Belief::default(),
            own_ranges: ours.own_ranges.clone(),
            book: AddressBook::new(ours.presence.addresses.clone(), ours.own_ranges.clone()),
            schedule: Schedule::new(),
            sessions: Sessions::default(),
            open: BTreeMap::new(),
            believed: Believed::default(),
            revision: 0,
            draining: BTreeSet::new(),
            troubles: BTreeMap::new(),
            told: Told::default(),
            notices: Vec::new(),
            stale: false,
            quiet_until: now,
            budget: Budget::default(),
            metrics,
        };
        peer.configure(config, now);
        peer
    }

    /// Takes the peer's configuration, at first and whenever it changes.
    pub(super) fn configure(&mut self, config: &PeerConfig, now: Instant) {
        self.belief = Belief {
            namespaces: config.namespaces.clone(),
            networks: config.networks.clone(),
            own_ranges: self.own_ranges.clone(),
        };
        self.stale = true;
        self.book.configure(&config.addresses, now);
        self.readdress(now);
    }

    /// A dial reached a replica: whether its session is wanted.
    pub(super) fn opened(
        &mut self,
        id: SessionId,
        address: SocketAddr,
        greeting: Greeting,
        now: Instant,
    ) -> Verdict {
        self.schedule.answered(address);
        self.troubles.remove(&Subject::Dial(address));
        self.greeted(&greeting, now);
        if self.sessions.to(greeting.replica).is_some() || self.sessions.len() >= MAX_SESSIONS {
            self.search(now);
            return Verdict::Duplicate;
        }
        tracing::info!(
            peer = %self.cluster, %address, replica = %greeting.replica,
            version = %greeting.version, "session opened"
        );
        self.sessions.set(id, Standing::new(greeting.replica));
        let open = Open { address, greeting, opened: now, mirror: None, revision: 0 };
        self.open.insert(id, open);
        self.search(now);
        Verdict::Keep { held: self.believed.mirror().cloned(), revision: self.revision }
    }

    /// The peer told of itself, in a session of either direction.
    pub(super) fn greeted(&mut self, greeting: &Greeting, now: Instant) {
        self.troubles.remove(&Subject::Inbound);
        self.book.learn(&greeting.addresses, now);
        let known = |open: &&mut Open| open.greeting.replica == greeting.replica;
        for open in self.open.values_mut().filter(known) {
            open.greeting = greeting.clone();
            self.stale = true;
        }
        self.readdress(now);
        self.search(now);
    }

    /// A connection that the peer made was refused.
    pub(super) fn misbehaved(&mut self, error: String) {
        self.troubles.insert(Subject::Inbound, error);
    }

    /// A dial failed, or the session that it led to ended.
    pub(super) fn ended(
        &mut self,
        id: SessionId,
        address: SocketAddr,
        error: Option<String>,
        now: Instant,
    ) {
        self.troubles.remove(&Subject::Catalog(id));
        let mut announced = false;
        if let Some(open) = self.open.remove(&id) {
            announced = self.draining.contains(&open.greeting.replica);
            let reason = error.as_deref().unwrap_or("closed");
            let replica = open.greeting.replica;
            tracing::info!(peer = %self.cluster, %address, %replica, reason, "session ended");
            self.sessions.end(id);
            self.stale = true;
            self.schedule.ended(open.address, now.saturating_duration_since(open.opened), now);
        } else if let Some(error) = &error {
            tracing::debug!(peer = %self.cluster, %address, error, "dial failed");
            self.schedule.failed(address, now);
            self.book.dial_failed(address, now);
        }
        // Nothing is wrong with an end that was announced.
        let amiss = self.told.addresses.contains(&address) && !announced;
        if let Some(error) = error.filter(|_| amiss) {
            self.troubles.insert(Subject::Dial(address), error);
        }
        self.search(now);
    }

    /// A session holds a whole catalog.
    pub(super) fn holds(&mut self, id: SessionId, mirror: Arc<Mirror>, revision: u64) {
        if let Some(open) = self.open.get_mut(&id) {
            open.mirror = Some(mirror);
            open.revision = revision;
            self.troubles.remove(&Subject::Catalog(id));
            self.restand(id, |standing| standing.complete = true);
        }
    }

    /// A session's catalog is over a cap: what was known stays.
    pub(super) fn over(&mut self, id: SessionId, cap: OverCap) {
        if self.open.contains_key(&id) {
            self.troubles.insert(Subject::Catalog(id), cap.to_string());
            self.restand(id, |standing| standing.complete = false);
        }
    }

    /// A publisher's source is synced, or not.
    pub(super) fn synced(&mut self, id: SessionId, synced: bool) {
        self.restand(id, |standing| standing.synced = synced);
    }

    /// A publisher drains, or not.
    pub(super) fn drains(&mut self, id: SessionId, draining: bool) {
        let Some(standing) = self.sessions.get(id) else { return };
        self.restand(id, |standing| standing.draining = draining);
        let changed = if draining {
            self.draining.insert(standing.replica)
        } else {
            self.draining.remove(&standing.replica)
        };
        if self.draining.len() > MAX_DRAINING {
            self.draining.pop_first();
        }
        if changed {
            self.notices.push((standing.replica, draining));
        }
    }

    /// Health's findings.
    pub(super) fn set_down(&mut self, down: &DownReplicas) {
        let standings: Vec<_> = self.sessions.iter().collect();
        for (id, standing) in standings {
            let is_down = down.contains(&(self.cluster.clone(), standing.replica));
            if standing.down != is_down {
                self.restand(id, |standing| standing.down = is_down);
            }
        }
    }

    fn restand(&mut self, id: SessionId, change: impl FnOnce(&mut Standing)) {
        if let Some(mut standing) = self.sessions.get(id) {
            change(&mut standing);
            self.sessions.set(id, standing);
            self.stale = true;
        }
    }

    /// The outcome of a look-up.
    pub(super) fn resolved(
        &mut self,
        name: &PeerAddress,
        answer: Result<Vec<SocketAddr>, String>,
        now: Instant,
    ) {
        let subject = Subject::Name(name.clone());
        match &answer {
            Ok(found) if !found.is_empty() => self.troubles.remove(&subject),
            Ok(_) => self.troubles.insert(subject, format!("{name} has no address")),
            Err(error) => self.troubles.insert(subject, format!("cannot look up {name}: {error}")),
        };
        self.book.resolved(name, answer.ok(), now);
        self.readdress(now);
    }

    fn readdress(&mut self, now: Instant) {
        let addresses = self.book.addresses();
        self.schedule.set_addresses(&addresses, now);
        self.troubles.retain(|subject, _| match subject {
            Subject::Dial(address) => addresses.contains(address),
            Subject::Name(name) => self.book.knows(name),
            Subject::Catalog(_) | Subject::Inbound => true,
        });
    }

    /// Whether that session is one of this peer's.
    pub(super) fn has(&self, id: SessionId) -> bool {
        self.open.contains_key(&id)
    }

    /// The sessions whose address is no longer one of the peer's.
    pub(super) fn astray(&self) -> Vec<SessionId> {
        let addresses = self.book.addresses();
        let astray = |(_, open): &(&SessionId, &Open)| !addresses.contains(&open.address);
        self.open.iter().filter(astray).map(|(id, _)| *id).collect()
    }

    /// Tells the schedule what the sessions leave to be found.
    fn search(&mut self, now: Instant) {
        let held: BTreeSet<_> = self.open.values().map(|open| open.greeting.replica).collect();
        let live: BTreeSet<_> =
            self.open.values().flat_map(|open| open.greeting.replicas.iter().copied()).collect();
        let alone = self.open.values().any(|open| open.greeting.replicas.len() == 1);
        self.schedule.want(
            if held.is_empty() {
                Wanted::Any
            } else if !live.is_subset(&held) {
                Wanted::Replica
            } else if alone {
                Wanted::Unknown
            } else {
                Wanted::Nothing
            },
            now,
        );
    }

    /// What its sessions may hold together.
    pub(super) fn budget(&self) -> Budget {
        self.budget.clone()
    }

    /// The addresses to dial now.
    pub(super) fn dials(&mut self, now: Instant) -> Vec<SocketAddr> {
        self.schedule.due(now)
    }

    /// The names to look up now.
    pub(super) fn look_ups(&mut self, now: Instant) -> Vec<PeerAddress> {
        self.book.due(now)
    }

    /// When there is something to do without anything having happened.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let catalog = self.stale.then_some(self.quiet_until);
        [self.schedule.next_wake(), self.book.next_wake(), catalog].into_iter().flatten().min()
    }

    /// What changed since it was asked last.
    pub(super) fn events(&mut self, now: Instant) -> Vec<Event> {
        let peer = || self.cluster.clone();
        let mut events = Vec::new();
        let addresses = self.book.addresses();
        if addresses != self.told.addresses {
            self.told.addresses = addresses.clone();
            events.push(Event::Addresses { peer: peer(), addresses });
        }
        let count = u32::try_from(self.sessions.len()).unwrap_or(u32::MAX);
        if count != self.told.sessions {
            self.told.sessions = count;
            self.metrics.set_sessions(&self.cluster, Role::Subscriber, self.sessions.len());
            events.push(Event::Sessions { peer: peer(), count });
        }
        for (replica, draining) in std::mem::take(&mut self.notices) {
            events.push(Event::Draining { peer: peer(), replica, draining });
        }
        let trouble = self.troubles.values().next();
        if trouble != self.told.trouble.as_ref() {
            self.told.trouble = trouble.cloned();
            events.push(match trouble.cloned() {
                Some(error) => {
                    tracing::warn!(peer = %self.cluster, %error, "peer in trouble");
                    Event::Trouble { peer: peer(), error }
                }
                None => {
                    tracing::info!(peer = %self.cluster, "peer no longer in trouble");
                    Event::Cleared { peer: peer() }
                }
            });
        }
        if self.stale && now >= self.quiet_until {
            self.stale = false;
            events.extend(self.believe(now));
        }
        events
    }

    /// Takes over what the believed session holds; without one, the last good stays.
    fn believe(&mut self, now: Instant) -> Option<Event> {
        let open = self.sessions.believed().and_then(|id| self.open.get(&id));
        let claim = match open {
            Some(Open { mirror: Some(mirror), greeting, revision, .. }) => {
                self.revision = *revision;
                Claim {
                    mirror: Arc::clone(mirror),
                    network: greeting.network.clone(),
                    locality: greeting.locality.clone(),
                }
            }
            // How far it is believed may have changed all the same.
            _ => self.believed.claim()?,
        };
        if !self.believed.take(&self.cluster, claim, &self.belief, &self.metrics) {
            return None;
        }
        self.quiet_until = now + COALESCE;
        Some(Event::Catalog {
            peer: self.cluster.clone(),
            catalog: Arc::clone(self.believed.catalog()),
            revision: self.revision,
        })
    }
}
