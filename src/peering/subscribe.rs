//! The dialer's side of a session: subscribe, take in snapshots and changes, report what is held.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::link::{self, Greeting, Incoming, Reader, SessionError, Writer};
use super::meter::{Cost, Meter};
use super::metrics::{Metrics, Unknown};
use super::mirror::{Added, Budget, Caps, Charge, Mirror, OverCap};
use super::sessions::SessionId;
use super::{Config, Presence};
use crate::clock;
use crate::model::ClusterId;
use crate::tls::{self, Dialer, Kind, PeerIdentity};
use crate::wire::control::{Body, Delta, SnapshotChunk, SnapshotEnd, Subscribe};

/// A publisher says something every 30 s; this much silence ends the session.
const SILENCE: Duration = Duration::from_secs(36);
/// Unacknowledged bytes end the connection after this (TCP_USER_TIMEOUT).
pub(super) const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a session tells the hub.
#[derive(Debug)]
pub(super) enum Report {
    /// It reached a replica; the verdict says whether it is wanted.
    Opened {
        id: SessionId,
        identity: PeerIdentity,
        greeting: Greeting,
        verdict: oneshot::Sender<Verdict>,
    },
    /// The peer introduced itself anew, in a session of either direction.
    Greeted { peer: ClusterId, greeting: Greeting },
    /// A connection that the peer made was refused.
    Misbehaved { peer: ClusterId, error: String },
    /// What is now held, complete.
    Holds { id: SessionId, mirror: Arc<Mirror>, revision: u64 },
    /// The catalog is over a cap.
    Over { id: SessionId, cap: OverCap },
    /// The publisher's source is synced, or not.
    Synced { id: SessionId, synced: bool },
    /// The publisher drains, or not.
    Draining { id: SessionId, draining: bool },
}

/// Whether a session is wanted.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Yes; go on from what is believed of that peer already.
    Keep { held: Option<Arc<Mirror>>, revision: u64 },
    /// There is one to that replica.
    Duplicate,
}

/// Everything one session needs.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) id: SessionId,
    pub(super) peer: ClusterId,
    pub(super) address: SocketAddr,
    pub(super) config: Arc<Config>,
    pub(super) presence: Presence,
    pub(super) dialer: Dialer,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) metrics: Metrics,
    pub(super) caps: Caps,
    pub(super) budget: Budget,
}

impl Subscription {
    /// Dials, and keeps the session until it ends. Ends well only as a duplicate.
    pub(super) async fn run(self) -> Result<(), SessionError> {
        let dialed = self.dialer.dial(&self.peer, self.address, Kind::Control).await?;
        tls::set_user_timeout(&dialed.stream, Some(USER_TIMEOUT))?;
        let identity = dialed.peer;
        let (reader, writer) = tokio::io::split(dialed.stream);
        let reader = Reader::new(reader, self.metrics.clone());
        let writer = Writer::new(writer, self.metrics.clone());
        let expires = identity.expires();
        tokio::select! {
            ended = self.session(identity, reader, writer) => ended,
            error = link::expired(expires) => Err(error),
        }
    }

    async fn session<R, W>(
        self,
        identity: PeerIdentity,
        mut reader: Reader<R>,
        mut writer: Writer<W>,
    ) -> Result<(), SessionError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        writer.send(Body::Hello(link::hello(&self.config, &self.presence))).await?;
        let greeting = reader.greeting(&self.peer).await?;
        let (verdict, answer) = oneshot::channel();
        self.report(Report::Opened { id: self.id, identity, greeting, verdict }).await?;
        let (held, revision) = match answer.await {
            Ok(Verdict::Keep { held, revision }) => (held, revision),
            Ok(Verdict::Duplicate) => {
                writer.close().await;
                return Ok(());
            }
            Err(_) => return Err(SessionError::Closed),
        };
        let digest = held.as_ref().map_or_else(Bytes::new, |held| held.digest().to_bytes());
        writer.send(Body::Subscribe(Subscribe { digest, revision })).await?;
        let charge = Charge::new(self.budget.clone());
        let (peer, metrics) = (self.peer.clone(), self.metrics.clone());
        let mut intake = Intake::new(self.caps, charge, held, revision, peer, metrics);
        let mut meter = Meter::new(clock::now());
        loop {
            let next = timeout(SILENCE, reader.next()).await.map_err(|_| SessionError::Silent)?;
            let Incoming { body, size } = next?;
            let pause = meter.charge(size, cost(&body), clock::now());
            match intake.take(body)? {
                Step::Wait => {}
                Step::Resubscribe => {
                    let digest = intake.mirror.digest().to_bytes();
                    let revision = intake.revision;
                    writer.send(Body::Subscribe(Subscribe { digest, revision })).await?;
                }
                Step::Tell(news) => self.report(news.report(&self)).await?,
            }
            // A peer that floods us waits; its bytes stay in its own kernel.
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }

    async fn report(&self, report: Report) -> Result<(), SessionError> {
        // The hub is gone only when everything ends.
        self.reports.send(report).await.map_err(|_| SessionError::Closed)
    }
}

fn cost(body: &Body) -> Cost {
    match body {
        Body::SnapshotChunk(_) => Cost::Piece,
        Body::Delta(delta) if delta.digest.is_empty() && !delta.upserts.is_empty() => Cost::Piece,
        Body::SnapshotBegin(_) => Cost::Catalog,
        _ => Cost::Message,
    }
}

/// What a message leads to.
#[derive(Debug)]
enum Step {
    Wait,
    /// What is held is not what the publisher has: ask again.
    Resubscribe,
    Tell(News),
}

#[derive(Debug)]
enum News {
    Holds(Arc<Mirror>, u64),
    Over(OverCap),
    Synced(bool),
    Draining(bool),
    Greeted(Greeting),
}

impl News {
    fn report(self, session: &Subscription) -> Report {
        let id = session.id;
        match self {
            Self::Holds(mirror, revision) => Report::Holds { id, mirror, revision },
            Self::Over(cap) => Report::Over { id, cap },
            Self::Synced(synced) => Report::Synced { id, synced },
            Self::Draining(draining) => Report::Draining { id, draining },
            Self::Greeted(greeting) => Report::Greeted { peer: session.peer.clone(), greeting },
        }
    }
}

/// How what is held relates to what the publisher has.
#[derive(Debug)]
enum Standing {
    /// Subscribed; nothing came yet.
    Asked,
    /// A snapshot is coming in.
    Building(Mirror),
    /// Following the publisher's changes.
    Following,
    /// Over a cap, first or in the midst of something: waiting for its end to learn the digest.
    Spilled(OverCap),
    /// Over a cap at this digest: anything else may fit again.
    Full(Bytes),
}

/// Takes in the publisher's messages.
#[derive(Debug)]
struct Intake {
    mirror: Arc<Mirror>,
    standing: Standing,
    revision: u64,
    caps: Caps,
    charge: Charge,
    /// So many bytes of the mirror are held by another session too.
    shared_bytes: usize,
    peer: ClusterId,
    metrics: Metrics,
}

impl Intake {
    fn new(
        caps: Caps,
        charge: Charge,
        held: Option<Arc<Mirror>>,
        revision: u64,
        peer: ClusterId,
        metrics: Metrics,
    ) -> Self {
        let mirror = held.unwrap_or_else(|| Arc::new(Mirror::new(caps)));
        let shared_bytes = mirror.bytes();
        let standing = Standing::Asked;
        Self { mirror, standing, revision, caps, charge, shared_bytes, peer, metrics }
    }

    /// Pays for what is held beyond what another session holds too.
    fn pay(&mut self) -> Result<(), OverCap> {
        let building = match &self.standing {
            Standing::Building(building) => building.bytes(),
            _ => 0,
        };
        self.charge.set(self.mirror.bytes().saturating_sub(self.shared_bytes) + building)
    }

    fn take(&mut self, body: Body) -> Result<Step, SessionError> {
        match body {
            Body::Hello(hello) => {
                let greeting = Greeting::parse(&hello, &self.peer)?;
                Ok(Step::Tell(News::Greeted(greeting)))
            }
            Body::Same(same) => {
                if same.digest != self.mirror.digest().to_bytes() {
                    return Err(SessionError::Protocol("it calls different catalogs the same"));
                }
                self.standing = Standing::Following;
                Ok(self.holds(same.revision))
            }
            Body::SnapshotBegin(_) => {
                self.standing = Standing::Building(Mirror::new(self.caps));
                Ok(Step::Wait)
            }
            Body::SnapshotChunk(chunk) => self.chunk(&chunk),
            Body::SnapshotEnd(end) => self.end(end),
            Body::Delta(delta) => Ok(self.delta(delta)),
            Body::Digest(digest) => Ok(match &self.standing {
                Standing::Following if digest.digest != self.mirror.digest().to_bytes() => {
                    self.resubscribe()
                }
                Standing::Full(full) if digest.digest != *full => self.resubscribe(),
                _ => Step::Wait,
            }),
            Body::Synced(synced) => Ok(Step::Tell(News::Synced(synced.synced))),
            Body::Drain(drain) => Ok(Step::Tell(News::Draining(drain.draining))),
            Body::Subscribe(_) => Err(SessionError::Protocol("a publisher subscribes")),
        }
    }

    fn holds(&mut self, revision: u64) -> Step {
        self.revision = revision;
        Step::Tell(News::Holds(Arc::clone(&self.mirror), revision))
    }

    fn resubscribe(&mut self) -> Step {
        self.standing = Standing::Asked;
        Step::Resubscribe
    }

    fn chunk(&mut self, chunk: &SnapshotChunk) -> Result<Step, SessionError> {
        let building = match &mut self.standing {
            Standing::Building(building) => building,
            Standing::Spilled(_) => return Ok(Step::Wait),
            _ => return Err(SessionError::Protocol("records outside a snapshot")),
        };
        let added = add_all(building, &chunk.records, &self.peer, &self.metrics);
        if let Err(cap) = added.and_then(|()| self.pay()) {
            self.spill(cap);
        }
        Ok(Step::Wait)
    }

    /// Gives up what is coming in.
    fn spill(&mut self, cap: OverCap) {
        self.standing = Standing::Spilled(cap);
        self.give_back();
    }

    /// Corrects the account after something was let go; less is never refused.
    fn give_back(&mut self) {
        if self.pay().is_err() {
            tracing::debug!(peer = %self.peer, "a smaller share was refused");
        }
    }

    fn end(&mut self, end: SnapshotEnd) -> Result<Step, SessionError> {
        match std::mem::replace(&mut self.standing, Standing::Asked) {
            Standing::Building(mut building) => {
                if end.digest != building.digest().to_bytes() {
                    return Err(SessionError::Protocol("a snapshot is not what its digest says"));
                }
                building.settle();
                self.mirror = Arc::new(building);
                self.shared_bytes = 0;
                self.standing = Standing::Following;
                self.give_back();
                Ok(self.holds(end.revision))
            }
            Standing::Spilled(cap) => {
                self.standing = Standing::Full(end.digest);
                Ok(Step::Tell(News::Over(cap)))
            }
            _ => Err(SessionError::Protocol("a snapshot ends that did not begin")),
        }
    }

    fn delta(&mut self, delta: Delta) -> Step {
        if !matches!(self.standing, Standing::Following | Standing::Spilled(_)) {
            // A snapshot is on its way, or nothing fits: the next digest tells what is missing.
            return Step::Wait;
        }
        if delta.revision <= self.revision {
            // Older than what is held, or the same again.
            return Step::Wait;
        }
        if matches!(self.standing, Standing::Following) {
            let mirror = Arc::make_mut(&mut self.mirror);
            for removal in &delta.removals {
                let key = super::convert::service_key(&removal.namespace, &removal.name);
                if let Some(hash) = super::digest::RecordHash::parse(&removal.hash) {
                    mirror.remove(key.as_ref(), hash);
                }
            }
            let added = add_all(mirror, &delta.upserts, &self.peer, &self.metrics);
            if let Err(cap) = added.and_then(|()| self.pay()) {
                self.spill(cap);
            }
        }
        if delta.digest.is_empty() {
            return Step::Wait;
        }
        if let Standing::Spilled(cap) = self.standing {
            self.standing = Standing::Full(delta.digest);
            return Step::Tell(News::Over(cap));
        }
        Arc::make_mut(&mut self.mirror).settle();
        if delta.digest == self.mirror.digest().to_bytes() {
            self.holds(delta.revision)
        } else {
            self.resubscribe()
        }
    }
}

fn add_all(
    mirror: &mut Mirror,
    records: &[Bytes],
    peer: &ClusterId,
    metrics: &Metrics,
) -> Result<(), OverCap> {
    for record in records {
        match mirror.add(record)? {
            Added::Held { skipped_fields: true } => metrics.unknown(Unknown::Field),
            Added::Held { skipped_fields: false } | Added::Known => {}
            Added::Refused(bad) => {
                if bad == super::convert::BadRecord::UnknownKind {
                    metrics.unknown(Unknown::Record);
                }
                metrics.refused(peer, bad.reason());
                tracing::debug!(%peer, %bad, "record refused");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
