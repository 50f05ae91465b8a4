//! The one task that knows all peers: it starts dials, look-ups and sessions, hears what they
//! report, and tells what changed.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{sleep_until, timeout};

use super::link::{Greeting, SessionError};
use super::metrics::Role;
use super::mirror::Caps;
use super::peer::Peer;
use super::publish::Publication;
use super::sessions::SessionId;
use super::subscribe::{Report, Subscription, Verdict};
use super::{Error, Event, PeerConfig, Peering};
use crate::clock;
use crate::drain::{self, Phase};
use crate::model::{ClusterId, PeerAddress};
use crate::tls::{Accepted, PeerIdentity};

/// Reports waiting to be heard; sessions wait when it is full.
const REPORTS: usize = 256;
/// Publishing sessions of one peer; the oldest ends for a newer one.
const MAX_PUBLICATIONS: usize = 32;
/// For telling subscribers that we end.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// With nothing to do, look around this often.
const IDLE: Duration = Duration::from_secs(3600);

/// What a task was started for.
#[derive(Debug)]
enum Purpose {
    Subscribe { peer: ClusterId, id: SessionId, address: SocketAddr },
    Publish { peer: ClusterId, began: u64 },
    LookUp { peer: ClusterId, name: PeerAddress },
}

impl Purpose {
    fn peer(&self) -> &ClusterId {
        match self {
            Self::Subscribe { peer, .. }
            | Self::Publish { peer, .. }
            | Self::LookUp { peer, .. } => peer,
        }
    }
}

#[derive(Debug)]
struct Task {
    purpose: Purpose,
    abort: AbortHandle,
    /// Who is at the other end, once known: it must stay trusted.
    identity: Option<PeerIdentity>,
}

/// How a task ended.
#[derive(Debug)]
enum Outcome {
    Session(Result<(), SessionError>),
    LookUp(Result<Vec<SocketAddr>, String>),
}

/// All peers and their tasks.
#[derive(Debug)]
pub(super) struct Hub {
    peering: Peering,
    drain: drain::Watch,
    peers: BTreeMap<ClusterId, Peer>,
    configs: BTreeMap<ClusterId, PeerConfig>,
    tasks: JoinSet<Outcome>,
    /// What each task is for. A task that is not in here is of no interest any more.
    running: HashMap<Id, Task>,
    reports: mpsc::Sender<Report>,
    heard: mpsc::Receiver<Report>,
    /// Numbers sessions and publications in the order of their beginnings.
    begun: u64,
}

impl Hub {
    pub(super) fn new(peering: Peering, drain: drain::Watch) -> Self {
        let (reports, heard) = mpsc::channel(REPORTS);
        Self {
            peering,
            drain,
            peers: BTreeMap::new(),
            configs: BTreeMap::new(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            reports,
            heard,
            begun: 0,
        }
    }

    pub(super) async fn run(mut self, mut accepted: mpsc::Receiver<Accepted>) -> Result<(), Error> {
        let mut trusted = self.peering.trust.generation();
        let mut drain = self.drain.clone();
        let (mut accepting, mut configurable, mut healthy) = (true, true, true);
        let mut trusting = true;
        self.reconfigure().await?;
        loop {
            let now = clock::now();
            self.start_due(now);
            self.tell(now).await?;
            let wake = self.peers.values().filter_map(Peer::next_wake).min();
            tokio::select! {
                biased;
                () = drain.reached(Phase::Draining) => break,
                changed = trusted.changed(), if trusting => {
                    trusting = changed.is_ok();
                    self.end_untrusted();
                }
                changed = self.peering.peers.changed(), if configurable => {
                    configurable = changed.is_ok();
                    self.reconfigure().await?;
                }
                changed = self.peering.down.changed(), if healthy => {
                    healthy = changed.is_ok();
                    self.take_down();
                }
                Some(report) = self.heard.recv() => self.hear(report),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                connection = accepted.recv(), if accepting => match connection {
                    Some(connection) => self.publish(connection),
                    None => accepting = false,
                },
                () = sleep_until(wake.unwrap_or(now + IDLE).into()) => {}
            }
        }
        self.finish().await;
        Ok(())
    }

    /// Our subscriptions end; those to whom we publish are told and end by themselves.
    async fn finish(mut self) {
        self.end_where(|task| !matches!(task.purpose, Purpose::Publish { .. }));
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(LAST_WORDS, ended).await.is_err() {
            tracing::debug!("some subscribers did not take our last words");
        }
    }

    async fn send(&self, event: Event) -> Result<(), Error> {
        self.peering.events.send(event).await.map_err(|_| Error::Abandoned("receiver of events"))
    }

    async fn tell(&mut self, now: Instant) -> Result<(), Error> {
        let mut events = Vec::new();
        for peer in self.peers.values_mut() {
            events.append(&mut peer.events(now));
        }
        for event in events {
            self.send(event).await?;
        }
        Ok(())
    }

    /// Takes the list of peers: new ones, changed ones, and those that are gone.
    async fn reconfigure(&mut self) -> Result<(), Error> {
        let now = clock::now();
        let list = Arc::clone(&self.peering.peers.borrow_and_update());
        let own = &self.peering.config.cluster;
        let wanted: BTreeMap<_, _> = list
            .iter()
            .filter(|config| config.cluster != *own)
            .map(|config| (config.cluster.clone(), config.clone()))
            .collect();
        let gone: Vec<_> =
            self.peers.keys().filter(|cluster| !wanted.contains_key(*cluster)).cloned().collect();
        for peer in gone {
            self.forget(&peer);
            self.send(Event::Gone { peer }).await?;
        }
        for (cluster, config) in &wanted {
            if self.configs.get(cluster) == Some(config) {
                continue;
            }
            match self.peers.get_mut(cluster) {
                Some(peer) => peer.configure(config, now),
                None => {
                    let metrics = self.peering.metrics.clone();
                    let peer = Peer::new(&self.peering.config, config, metrics, now);
                    self.peers.insert(cluster.clone(), peer);
                }
            }
            let astray = self.peers.get(cluster).map(Peer::astray).unwrap_or_default();
            self.end_where(|task| {
                matches!(&task.purpose, Purpose::Subscribe { id, .. } if astray.contains(id))
            });
        }
        self.configs = wanted;
        Ok(())
    }

    /// Forgets a peer and ends what we began with it. What it subscribed to is its own affair
    /// as long as it is trusted.
    fn forget(&mut self, cluster: &ClusterId) {
        self.peers.remove(cluster);
        self.peering.metrics.set_sessions(cluster, Role::Subscriber, 0);
        self.running.retain(|_, task| {
            let ours = !matches!(task.purpose, Purpose::Publish { .. });
            let over = ours && task.purpose.peer() == cluster;
            if over {
                task.abort.abort();
            }
            !over
        });
    }

    fn end_where(&self, over: impl Fn(&Task) -> bool) {
        for task in self.running.values().filter(|task| over(task)) {
            task.abort.abort();
        }
    }

    /// Ends the sessions of clusters whose bundle is gone or another one.
    fn end_untrusted(&self) {
        let trust = &self.peering.trust;
        self.end_where(|task| {
            task.identity.as_ref().is_some_and(|identity| !trust.still_trusts(identity))
        });
    }

    fn take_down(&mut self) {
        let down = Arc::clone(&self.peering.down.borrow_and_update());
        for peer in self.peers.values_mut() {
            peer.set_down(&down);
        }
    }

    fn next_number(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    /// Starts the dials and look-ups that are due.
    fn start_due(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (cluster, peer) in &mut self.peers {
            due.push((cluster.clone(), peer.dials(now), peer.look_ups(now)));
        }
        for (peer, dials, names) in due {
            for address in dials {
                self.subscribe(peer.clone(), address);
            }
            for name in names {
                let lookup = self.peering.lookup.clone();
                let purpose = Purpose::LookUp { peer: peer.clone(), name: name.clone() };
                self.spawn(purpose, None, async move {
                    Outcome::LookUp(lookup.resolve(&name).await.map_err(|error| error.to_string()))
                });
            }
        }
    }

    fn subscribe(&mut self, peer: ClusterId, address: SocketAddr) {
        let budget = self.peers.get(&peer).map(Peer::budget).unwrap_or_default();
        let id = SessionId(self.next_number());
        let session = Subscription {
            id,
            peer: peer.clone(),
            address,
            config: Arc::clone(&self.peering.config),
            presence: self.peering.presence.borrow().clone(),
            dialer: self.peering.dialer.clone(),
            reports: self.reports.clone(),
            metrics: self.peering.metrics.clone(),
            caps: Caps::default(),
            budget,
        };
        let purpose = Purpose::Subscribe { peer, id, address };
        self.spawn(purpose, None, async move { Outcome::Session(session.run().await) });
    }

    fn publish(&mut self, connection: Accepted) {
        let identity = connection.peer.clone();
        if !self.peering.trust.still_trusts(&identity) {
            return;
        }
        let peer = identity.cluster().clone();
        if let Some(oldest) = self.publications(&peer).nth(MAX_PUBLICATIONS - 1) {
            oldest.1.abort();
        }
        let publication = Publication {
            config: Arc::clone(&self.peering.config),
            local: self.peering.local.clone(),
            presence: self.peering.presence.clone(),
            reports: self.reports.clone(),
            metrics: self.peering.metrics.clone(),
            drain: self.drain.clone(),
        };
        let purpose = Purpose::Publish { peer: peer.clone(), began: self.next_number() };
        self.spawn(purpose, Some(identity), async move {
            Outcome::Session(publication.run(connection).await)
        });
        self.count_publications(&peer);
    }

    /// The publishing sessions of a peer, youngest first.
    fn publications(&self, cluster: &ClusterId) -> impl Iterator<Item = (u64, &AbortHandle)> {
        let mut all: Vec<_> = self
            .running
            .values()
            .filter_map(|task| match &task.purpose {
                Purpose::Publish { peer, began } if peer == cluster => Some((*began, &task.abort)),
                _ => None,
            })
            .collect();
        all.sort_by_key(|(began, _)| std::cmp::Reverse(*began));
        all.into_iter()
    }

    fn count_publications(&self, peer: &ClusterId) {
        let count = self.publications(peer).count();
        self.peering.metrics.set_sessions(peer, Role::Publisher, count);
    }

    fn spawn(
        &mut self,
        purpose: Purpose,
        identity: Option<PeerIdentity>,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let abort = self.tasks.spawn(work);
        self.running.insert(abort.id(), Task { purpose, abort, identity });
    }

    fn hear(&mut self, report: Report) {
        let now = clock::now();
        match report {
            Report::Opened { id, identity, greeting, verdict } => {
                self.opened(id, identity, greeting, verdict, now);
            }
            Report::Greeted { peer, greeting } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.greeted(&greeting, now);
                }
            }
            Report::Misbehaved { peer, error } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.misbehaved(error);
                }
            }
            Report::Holds { id, mirror, revision } => {
                self.with_session(id, |peer| peer.holds(id, mirror, revision));
            }
            Report::Over { id, cap } => self.with_session(id, |peer| peer.over(id, cap)),
            Report::Synced { id, synced } => self.with_session(id, |peer| peer.synced(id, synced)),
            Report::Draining { id, draining } => {
                self.with_session(id, |peer| peer.drains(id, draining));
            }
        }
    }

    fn with_session(&mut self, id: SessionId, change: impl FnOnce(&mut Peer)) {
        // Ids are never used twice, so a report of an ended session finds nobody.
        if let Some(peer) = self.peers.values_mut().find(|peer| peer.has(id)) {
            change(peer);
        }
    }

    fn opened(
        &mut self,
        opened: SessionId,
        identity: PeerIdentity,
        greeting: Greeting,
        verdict: oneshot::Sender<Verdict>,
        now: Instant,
    ) {
        let task = self
            .running
            .values_mut()
            .find(|task| matches!(&task.purpose, Purpose::Subscribe { id, .. } if *id == opened));
        // Dropping the verdict ends the session.
        let Some(task) = task else { return };
        let Purpose::Subscribe { peer, address, .. } = &task.purpose else { return };
        let Some(peer) = self.peers.get_mut(peer) else { return };
        if !self.peering.trust.still_trusts(&identity) {
            return;
        }
        let answer = peer.opened(opened, *address, greeting, now);
        if matches!(answer, Verdict::Keep { .. }) {
            peer.set_down(&self.peering.down.borrow());
        }
        task.identity = Some(identity);
        if verdict.send(answer).is_err() {
            tracing::debug!("a session ended before it was wanted");
        }
    }

    fn ended(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let now = clock::now();
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, Some(outcome)),
            Err(error) => {
                if error.is_panic() {
                    self.peering.metrics.panicked();
                    tracing::error!(%error, "a control session panicked");
                }
                (error.id(), None)
            }
        };
        let Some(task) = self.running.remove(&id) else { return };
        let revoked = "it is no longer trusted, or its address is no longer configured";
        match task.purpose {
            Purpose::Subscribe { peer, id, address } => {
                let error = match outcome {
                    Some(Outcome::Session(Ok(()))) => None,
                    Some(Outcome::Session(Err(error))) => Some(error.to_string()),
                    _ => Some(revoked.to_owned()),
                };
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.ended(id, address, error, now);
                }
            }
            Purpose::Publish { peer, .. } => {
                if let Some(Outcome::Session(Err(error))) = outcome {
                    tracing::debug!(%peer, %error, "publishing session ended");
                }
                self.count_publications(&peer);
            }
            Purpose::LookUp { peer, name } => {
                let answer = match outcome {
                    Some(Outcome::LookUp(answer)) => answer,
                    _ => Err("the look-up was given up".to_owned()),
                };
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.resolved(&name, answer, now);
                }
            }
        }
    }
}
