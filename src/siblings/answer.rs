//! The acceptor's side: answers one sibling's questions, and tells it how we are.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use super::Config;
use super::link::{Reader, SessionError, Writer, hello};
use super::metrics::Metrics;
use crate::drain::{self, Phase};
use crate::routes::OpenPorts;
use crate::tls::{Accepted, Trust};
use crate::wire::sibling::{Body, Pong, State};

/// A sibling that asks nothing for so long has gone, or will dial again.
const QUIET: Duration = Duration::from_secs(10);

/// What one accepted connection needs.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) config: Arc<Config>,
    pub(super) trust: Trust,
    pub(super) open: watch::Receiver<Arc<OpenPorts>>,
    pub(super) drain: drain::Watch,
    pub(super) metrics: Metrics,
}

impl Answer {
    /// Serves one sibling until the session ends, which it only does by a fault.
    pub(super) async fn run(self, accepted: Accepted) -> SessionError {
        let Accepted { peer, stream, lease, .. } = accepted;
        let (reader, writer) = tokio::io::split(stream);
        let reader = Reader::new(reader, self.metrics.clone());
        let writer = Writer::new(writer, self.metrics.clone());
        let trust = self.trust.clone();
        let ended = tokio::select! {
            ended = self.serve(reader, writer) => ended,
            () = trust.lapsed(&peer) => Err(SessionError::Lapsed),
        };
        drop(lease);
        match ended {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn serve<R, W>(
        self,
        mut reader: Reader<R>,
        mut writer: Writer<W>,
    ) -> Result<Infallible, SessionError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let greeting = reader.greeting(QUIET).await?;
        tracing::debug!(replica = %greeting.replica, "a sibling watches us");
        writer.send(hello(&self.config)).await?;
        // One question at a time: a sibling that asks faster than we answer is not read.
        let (ask, asked) = mpsc::channel(1);
        tokio::select! {
            ended = read(reader, ask) => ended,
            ended = self.tell(writer, asked) => ended,
        }
    }

    /// The writing half.
    async fn tell<W: AsyncWrite + Unpin>(
        mut self,
        mut writer: Writer<W>,
        mut asked: mpsc::Receiver<u64>,
    ) -> Result<Infallible, SessionError> {
        let mut draining = self.drain.phase() >= Phase::Announced;
        let (mut news, mut watched) = (true, true);
        loop {
            if std::mem::take(&mut news) {
                let open = Arc::clone(&self.open.borrow_and_update());
                writer.send(Body::State(State::new(open.iter(), draining))).await?;
            }
            tokio::select! {
                Some(number) = asked.recv() => writer.send(Body::Pong(Pong { number })).await?,
                changed = self.open.changed(), if watched => {
                    watched = changed.is_ok();
                    news = watched;
                }
                () = self.drain.reached(Phase::Announced), if !draining => {
                    (draining, news) = (true, true);
                }
            }
        }
    }
}

/// The reading half.
async fn read<R: AsyncRead + Unpin>(
    mut reader: Reader<R>,
    ask: mpsc::Sender<u64>,
) -> Result<Infallible, SessionError> {
    loop {
        match reader.next(QUIET).await? {
            Body::Ping(ping) => ask.send(ping.number).await.map_err(|_| SessionError::Closed)?,
            Body::Hello(_) | Body::State(_) | Body::Pong(_) => {
                return Err(SessionError::Protocol("it tells where it should ask"));
            }
        }
    }
}
