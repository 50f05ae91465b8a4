//! The acceptor's side of a session: publish our catalog, as far as the subscriber may import it.
//!
//! A reader task and a writer task. The writer always works from the catalog of this moment and
//! sends the difference from what it sent last, at most ten times a second; a subscriber that
//! reads slowly misses steps, never the result, and costs no queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::link::{self, Greeting, Reader, SessionError, Writer};
use super::meter::{Cost, Meter};
use super::metrics::Metrics;
use super::subscribe::{Report, USER_TIMEOUT};
use super::view::View;
use super::{Config, Presence};
use crate::catalog::LocalCatalog;
use crate::clock;
use crate::drain::{self, Phase};
use crate::model::ClusterId;
use crate::tls::{self, Accepted};
use crate::wire::control::{
    Body, Digest, Drain, Same, SnapshotBegin, SnapshotChunk, SnapshotEnd, Subscribe, Synced, chunks,
};

/// Between two changes sent.
const COALESCE: Duration = Duration::from_millis(100);
/// Between two digests, so that drift shows and silence means death.
const DIGEST_EVERY: Duration = Duration::from_secs(30);

/// Everything one publishing session needs.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) config: Arc<Config>,
    pub(super) local: watch::Receiver<Arc<LocalCatalog>>,
    pub(super) presence: watch::Receiver<Presence>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) metrics: Metrics,
    pub(super) drain: drain::Watch,
}

impl Publication {
    /// Serves one subscriber until the session ends.
    pub(super) async fn run(self, accepted: Accepted) -> Result<(), SessionError> {
        let Accepted { peer, stream, lease, .. } = accepted;
        tls::set_user_timeout(&stream, Some(USER_TIMEOUT))?;
        let (reader, writer) = tokio::io::split(stream);
        let expires = peer.expires();
        let ended = tokio::select! {
            ended = self.serve(peer.cluster().clone(), reader, writer) => ended,
            error = link::expired(expires) => Err(error),
        };
        drop(lease);
        ended
    }

    async fn serve<R, W>(self, peer: ClusterId, reader: R, writer: W) -> Result<(), SessionError>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let mut reader = Reader::new(reader, self.metrics.clone());
        let writer = Writer::new(writer, self.metrics.clone());
        match reader.greeting(&peer).await {
            Ok(greeting) => self.report(Report::Greeted { peer: peer.clone(), greeting }).await?,
            Err(SessionError::Hello(bad)) => {
                let error = bad.to_string();
                self.report(Report::Misbehaved { peer, error }).await?;
                return Err(bad.into());
            }
            Err(other) => return Err(other),
        }
        // One request at a time: a subscriber that asks faster than we answer is not read.
        let (ask, asked) = mpsc::channel(1);
        let metrics = self.metrics.clone();
        let mut halves = JoinSet::new();
        halves.spawn(read(reader, peer.clone(), ask, self.reports.clone()));
        let sources = Sources {
            config: self.config,
            local: self.local,
            presence: self.presence,
            asked,
            drain: self.drain,
        };
        halves.spawn(Told::new(peer, writer).run(sources));
        // Either half ends the session; dropping the set ends the other.
        match halves.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => {
                metrics.panicked();
                Err(SessionError::Panicked)
            }
            None => Err(SessionError::Closed),
        }
    }

    async fn report(&self, report: Report) -> Result<(), SessionError> {
        self.reports.send(report).await.map_err(|_| SessionError::Closed)
    }
}

/// The reader half.
async fn read<R: AsyncRead + Unpin>(
    mut reader: Reader<R>,
    peer: ClusterId,
    ask: mpsc::Sender<Subscribe>,
    reports: mpsc::Sender<Report>,
) -> Result<(), SessionError> {
    let mut meter = Meter::new(clock::now());
    loop {
        let incoming = reader.next().await?;
        let mut cost = Cost::Message;
        match incoming.body {
            Body::Subscribe(subscribe) => {
                cost = Cost::Catalog;
                ask.send(subscribe).await.map_err(|_| SessionError::Closed)?;
            }
            Body::Hello(hello) => {
                let greeting = Greeting::parse(&hello, &peer)?;
                let report = Report::Greeted { peer: peer.clone(), greeting };
                reports.send(report).await.map_err(|_| SessionError::Closed)?;
            }
            // Only a peer without an inbound path publishes on a session that it dialled.
            _ => return Err(SessionError::Protocol("a subscriber publishes")),
        }
        sleep(meter.charge(incoming.size, cost, clock::now())).await;
    }
}

/// What the writer half hears.
#[derive(Debug)]
struct Sources {
    config: Arc<Config>,
    local: watch::Receiver<Arc<LocalCatalog>>,
    presence: watch::Receiver<Presence>,
    asked: mpsc::Receiver<Subscribe>,
    drain: drain::Watch,
}

/// The writer half: what the subscriber was told.
#[derive(Debug)]
struct Told<W> {
    peer: ClusterId,
    writer: Writer<W>,
    /// What it holds; nothing before it subscribed.
    view: Option<View>,
    synced: Option<bool>,
    draining: Option<bool>,
    digest_at: Instant,
    /// Before this no further change is sent.
    quiet_until: Instant,
}

impl<W: AsyncWrite + Unpin> Told<W> {
    fn new(peer: ClusterId, writer: Writer<W>) -> Self {
        let now = clock::now();
        Self {
            peer,
            writer,
            view: None,
            synced: None,
            draining: None,
            digest_at: now + DIGEST_EVERY,
            quiet_until: now,
        }
    }

    async fn run(mut self, sources: Sources) -> Result<(), SessionError> {
        let Sources { config, mut local, mut presence, mut asked, mut drain } = sources;
        let mut ending = drain.clone();
        self.tell_hello(&config, &mut presence).await?;
        self.tell_drain(&drain).await?;
        // A closed channel changes no more; the session lives on with what there is.
        let (mut local_open, mut presence_open) = (true, true);
        loop {
            let serving = self.draining == Some(false);
            let subscribed = self.view.is_some();
            let quiet_until = self.quiet_until;
            let changed = async {
                sleep_until(quiet_until.into()).await;
                local.changed().await
            };
            tokio::select! {
                request = asked.recv() => {
                    let Some(request) = request else { return Err(SessionError::Closed) };
                    let catalog = Arc::clone(&local.borrow_and_update());
                    self.answer(&request, &catalog).await?;
                }
                changed = changed, if subscribed && local_open => {
                    local_open = changed.is_ok();
                    let catalog = Arc::clone(&local.borrow_and_update());
                    self.advance(&catalog).await?;
                }
                changed = presence.changed(), if presence_open => {
                    presence_open = changed.is_ok();
                    self.tell_hello(&config, &mut presence).await?;
                }
                () = sleep_until(self.digest_at.into()) => self.tell_digest().await?,
                () = drain.reached(Phase::Announced), if serving => self.tell_drain(&drain).await?,
                () = ending.reached(Phase::Draining) => return self.end(&ending).await,
            }
        }
    }

    async fn tell_hello(
        &mut self,
        config: &Config,
        presence: &mut watch::Receiver<Presence>,
    ) -> Result<(), SessionError> {
        let hello = link::hello(config, &presence.borrow_and_update());
        self.writer.send(Body::Hello(hello)).await
    }

    async fn tell_drain(&mut self, drain: &drain::Watch) -> Result<(), SessionError> {
        let draining = drain.phase() >= Phase::Announced;
        self.draining = Some(draining);
        self.writer.send(Body::Drain(Drain { draining })).await
    }

    /// The last words: that we drain, if that was not said yet, and a proper end.
    async fn end(mut self, drain: &drain::Watch) -> Result<(), SessionError> {
        if self.draining != Some(true) {
            self.tell_drain(drain).await?;
        }
        self.writer.close().await;
        Ok(())
    }

    async fn tell_synced(&mut self, synced: bool) -> Result<(), SessionError> {
        if self.synced == Some(synced) {
            return Ok(());
        }
        self.synced = Some(synced);
        self.writer.send(Body::Synced(Synced { synced })).await
    }

    async fn tell_digest(&mut self) -> Result<(), SessionError> {
        let early = rand::rng().random_range(0.0..0.1);
        self.digest_at = clock::now() + DIGEST_EVERY.mul_f64(1.0 - early);
        let Some(view) = &self.view else { return Ok(()) };
        let (digest, revision) = (view.digest().to_bytes(), view.revision());
        self.writer.send(Body::Digest(Digest { digest, revision })).await
    }

    /// Answers a subscription: nothing new, or everything.
    async fn answer(
        &mut self,
        request: &Subscribe,
        catalog: &LocalCatalog,
    ) -> Result<(), SessionError> {
        // Said before what it is about when it takes belief away, and after it when it gives it.
        if !catalog.synced {
            self.tell_synced(false).await?;
        }
        let view = View::of(catalog, &self.peer);
        let (digest, revision) = (view.digest().to_bytes(), view.revision());
        if request.digest == digest {
            self.writer.send(Body::Same(Same { digest, revision })).await?;
        } else {
            self.writer.send(Body::SnapshotBegin(SnapshotBegin { revision })).await?;
            for records in chunks(view.records()) {
                self.writer.send(Body::SnapshotChunk(SnapshotChunk { records })).await?;
            }
            self.writer.send(Body::SnapshotEnd(SnapshotEnd { revision, digest })).await?;
        }
        self.view = Some(view);
        self.quiet_until = clock::now() + COALESCE;
        self.tell_synced(catalog.synced).await
    }

    /// Sends what changed since.
    async fn advance(&mut self, catalog: &LocalCatalog) -> Result<(), SessionError> {
        let Some(view) = &mut self.view else { return Ok(()) };
        if !catalog.synced && self.synced != Some(false) {
            self.synced = Some(false);
            self.writer.send(Body::Synced(Synced { synced: false })).await?;
        }
        let mut change = view.advance(catalog, &self.peer);
        while let Some(part) = change.next_part(view) {
            self.writer.send(Body::Delta(part)).await?;
            self.quiet_until = clock::now() + COALESCE;
        }
        self.tell_synced(catalog.synced).await
    }
}

#[cfg(test)]
mod tests;
