//! The dialer's side: asks one sibling for life, again and again, and reports what it hears.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::life::{ASK_EVERY, Report, SILENCE};
use super::link::{Reader, SessionError, Writer, hello};
use super::metrics::Metrics;
use super::{Config, Member};
use crate::backoff::Backoff;
use crate::tls::{DialError, Dialed, Dialer, Kind, Trust};
use crate::wire::sibling::{Body, Ping};

/// For a connection inside one cluster, its handshake included.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// A lost session is begun again between these: the first two tries tell a dead process.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What one task per sibling needs.
#[derive(Debug)]
pub(super) struct Session {
    /// Told with every report, so that those of an earlier task are known as such.
    pub(super) number: u64,
    pub(super) member: Member,
    pub(super) config: Arc<Config>,
    pub(super) dialer: Dialer,
    pub(super) trust: Trust,
    pub(super) reports: mpsc::Sender<(u64, Report)>,
    pub(super) metrics: Metrics,
}

impl Session {
    /// Dials, asks, and dials again, until it is aborted.
    pub(super) async fn run(self) -> Infallible {
        let (min, max) = PAUSE;
        let mut pauses = Backoff::try_new(min, max).expect("the range is in order");
        let mut addresses = self.member.addresses.iter().cycle().copied().peekable();
        loop {
            let Some(address) = addresses.peek().copied() else {
                return std::future::pending().await;
            };
            let error = match self.dial(address).await {
                Ok(dialed) => match self.converse(dialed, &mut pauses).await {
                    Ok(never) => match never {},
                    Err(error) => error,
                },
                Err(error) => {
                    // Perhaps it is reached over its other family.
                    addresses.next();
                    error
                }
            };
            tracing::debug!(sibling = %self.member.name, %address, %error, "session ended");
            self.report(Report::Lost(error.loss())).await;
            sleep(pauses.pause()).await;
        }
    }

    async fn dial(&self, address: SocketAddr) -> Result<Dialed, SessionError> {
        let dial = self.dialer.dial(self.trust.cluster(), address, Kind::Sibling);
        Ok(timeout(DIAL_TIMEOUT, dial).await.map_err(|_| DialError::Timeout(address))??)
    }

    /// One session, from the greeting to its end.
    async fn converse(
        &self,
        dialed: Dialed,
        pauses: &mut Backoff,
    ) -> Result<Infallible, SessionError> {
        let Dialed { stream, peer } = dialed;
        let (reader, writer) = tokio::io::split(stream);
        let mut reader = Reader::new(reader, self.metrics.clone());
        let mut writer = Writer::new(writer, self.metrics.clone());
        writer.send(hello(&self.config)).await?;
        let greeting = reader.greeting(SILENCE).await?;
        if greeting.replica == self.config.replica {
            return Err(SessionError::Ourselves);
        }
        if !greeting.uid.is_empty() && greeting.uid != self.member.uid {
            return Err(SessionError::OtherPod(greeting.uid));
        }
        self.report(Report::Greeted(greeting.replica)).await;
        let asked = AtomicU64::new(0);
        tokio::select! {
            ended = self.listen(reader, &asked, pauses) => ended,
            ended = ask(writer, &asked) => ended,
            () = self.trust.lapsed(&peer) => Err(SessionError::Lapsed),
        }
    }

    async fn listen<R: AsyncRead + Unpin>(
        &self,
        mut reader: Reader<R>,
        asked: &AtomicU64,
        pauses: &mut Backoff,
    ) -> Result<Infallible, SessionError> {
        let mut answered = 0;
        loop {
            match reader.next(SILENCE).await? {
                Body::State(state) => {
                    let open = Arc::new(state.open()?.collect());
                    self.report(Report::Told { open, draining: state.draining }).await;
                }
                Body::Pong(pong) => {
                    let awaited = answered + 1..=asked.load(Ordering::Relaxed);
                    if !awaited.contains(&pong.number) {
                        return Err(SessionError::Protocol("it answers what was not asked"));
                    }
                    answered = pong.number;
                    pauses.reset();
                    self.report(Report::Answered).await;
                }
                Body::Hello(_) | Body::Ping(_) => {
                    return Err(SessionError::Protocol("it asks where it should answer"));
                }
            }
        }
    }

    async fn report(&self, report: Report) {
        // Nobody hears it any more when the process ends.
        let _ending = self.reports.send((self.number, report)).await;
    }
}

/// The writing half: a question, and the next.
async fn ask<W: AsyncWrite + Unpin>(
    mut writer: Writer<W>,
    asked: &AtomicU64,
) -> Result<Infallible, SessionError> {
    let mut times = interval(ASK_EVERY);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        times.tick().await;
        let number = asked.fetch_add(1, Ordering::Relaxed) + 1;
        writer.send(Body::Ping(Ping { number })).await?;
    }
}
