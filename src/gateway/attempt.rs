//! One attempt at one candidate: a connection, `OPEN`, and what became of it.
//!
//! An attempt that lost its race is not dropped but wound up as a [`Loose`] end: it sends
//! `CANCEL`, waits for the answer, and gives its connection back to the pool.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::backend::Backed;
use super::pool::Tunnel;
use super::race::{self, Way};
use super::role::Event;
use crate::clock;
use crate::health::{DialFault, Target};
use crate::model::{Callee, ClusterId, PortKey};
use crate::tls::Kind;
use crate::wire::frame::{Asked, Client, Control, Open, Verdict};

/// Shortest and longest wait for any sign of life, in which 4 round trips fit.
const SIGN_OF_LIFE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(1));
/// How long a cancelled stream may stay unanswered by a connection that lives.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);
/// How long a fresh connection may take to say `READY`.
const READY_PATIENCE: Duration = Duration::from_secs(3);
/// How long a dial may take before the peer's next address is dialled beside it.
const HEAD_START: Duration = Duration::from_millis(250);
/// Addresses dialled for one attempt.
const MOST_ADDRESSES: usize = 3;
/// Number of the ping that asks beside an unanswered `OPEN`.
const BESIDE_OPEN: u64 = 1;
/// What the client said goes with the `OPEN` only over a connection that was heard so lately: a
/// second, less the time that an answer may lie in the kernel before an idle connection is read.
const HEARD_LATELY: Duration = Duration::from_millis(500);

/// A future that winds up a lost attempt.
pub(super) type Loose = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the stream is for.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// The service, or the one pod of it that will do.
    pub(super) callee: Callee,
    /// Its port.
    pub(super) port: PortKey,
    /// The client's address.
    pub(super) client: SocketAddr,
    /// Joins the access lines of all gateways on the way.
    pub(super) trace: [u8; 16],
    /// When the client is given up.
    pub(super) deadline: Instant,
    /// What the client said before anybody accepted, where that may be read.
    pub(super) early: Vec<u8>,
}

/// What became of an attempt.
#[derive(Debug)]
pub(super) enum Tried {
    /// The peer connected its backend.
    Accepted(Box<Tunnel>, Target, Early),
    /// The own cluster's backend is connected.
    Local(Backed),
    /// Refused, and why.
    Refused(Verdict),
    /// Lost or silent before `REPLY`.
    Lost,
    /// Given up, and the peer knows.
    Cancelled,
    /// Lost or silent after what the client said was sent: an application may have it, so nobody
    /// else may get it.
    Spoiled,
}

/// Whether what the client said before anybody accepted was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Early {
    /// It is still to be sent, if there is any.
    Kept,
    /// It went with the `OPEN`.
    Sent,
}

/// Whether other attempts of the same stream run, or may run beside this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    Alone,
    Others,
}

impl Wish {
    /// Whether what the client said may go with the `OPEN` over this connection: one that was
    /// lost meanwhile would cost the client its stream.
    fn may_go_over(&self, conn: &Tunnel) -> bool {
        !self.early.is_empty() && clock::now().duration_since(conn.heard) <= HEARD_LATELY
    }
}

/// An attempt at a peer, prepared.
#[derive(Debug)]
pub(super) struct Attempt {
    shared: Arc<Shared>,
    peer: ClusterId,
    wish: Arc<Wish>,
    rtt: Option<Duration>,
    spare: Option<Tunnel>,
    /// For the spare; a fresh connection was never heard.
    early: Early,
    addresses: Vec<SocketAddr>,
    cancel: CancellationToken,
}

impl Attempt {
    /// Takes a spare, if there is one; else the attempt will dial. `None`: no address is known.
    pub(super) fn prepare(
        shared: &Arc<Shared>,
        peer: &ClusterId,
        wish: &Arc<Wish>,
        rtt: Option<Duration>,
        company: Company,
        cancel: CancellationToken,
    ) -> Option<(Self, Way)> {
        let choice = shared.choose(peer);
        let spare = shared.pool.take(peer, &choice.targets);
        let way = match &spare {
            Some(spare) if company == Company::Alone && wish.may_go_over(spare) => Way::Alone,
            Some(_) => Way::Spare,
            None => Way::Dialled,
        };
        let early = if way == Way::Alone { Early::Sent } else { Early::Kept };
        if choice.addresses.is_empty() && spare.is_none() {
            return None;
        }
        if way == Way::Dialled {
            shared.metrics.pool_misses.with_label_values(&[peer.as_str()]).inc();
        }
        let (shared, wish) = (Arc::clone(shared), Arc::clone(wish));
        let (peer, addresses) = (peer.clone(), choice.addresses);
        Some((Self { shared, peer, wish, rtt, spare, early, addresses, cancel }, way))
    }

    /// Runs it to its end. A reused connection that is lost before `REPLY` says nothing about
    /// the peer: it is asked again over a fresh one.
    pub(super) async fn run(mut self) -> Tried {
        if let Some(spare) = self.spare.take() {
            match self.ask(spare, self.early).await {
                Asking::Lost(_) | Asking::Silent if self.early == Early::Sent => {
                    return Tried::Spoiled;
                }
                Asking::Lost(_) => {}
                Asking::Silent => return Tried::Lost,
                Asking::Done(tried) => return tried,
            }
        }
        if self.cancel.is_cancelled() {
            return Tried::Cancelled;
        }
        let Some(fresh) = self.dial().await else { return Tried::Lost };
        if self.cancel.is_cancelled() {
            // Not wasted: it becomes a spare.
            self.shared.stock_spare(fresh).await;
            return Tried::Cancelled;
        }
        match self.ask(fresh, Early::Kept).await {
            Asking::Lost(replica) => {
                // Not a reused connection: after `READY` it counts against the replica.
                if let Some(target) = replica {
                    self.shared.news.unanswered(target);
                }
                Tried::Lost
            }
            Asking::Silent => Tried::Lost,
            Asking::Done(tried) => tried,
        }
    }

    /// Dials the first address, and beside it the next whenever a head start has passed or a
    /// dial has failed: a replica that is stuck must not cost a stream the whole dial's time.
    async fn dial(&self) -> Option<Tunnel> {
        let mut left = self.addresses.iter().copied().take(MOST_ADDRESSES);
        if left.len() == 1 {
            return self.shared.dial(&self.peer, left.next()?).await.ok();
        }
        let mut dials = JoinSet::new();
        loop {
            match left.next() {
                Some(address) => {
                    let (shared, peer) = (Arc::clone(&self.shared), self.peer.clone());
                    dials.spawn(async move { shared.dial(&peer, address).await });
                }
                None if dials.is_empty() => return None,
                None => {}
            }
            tokio::select! {
                Some(ended) = dials.join_next() => match ended {
                    Ok(Ok(conn)) => {
                        self.leave(dials);
                        return Some(conn);
                    }
                    Ok(Err(_)) => {}
                    Err(error) => self.shared.note_panic(Err(error)),
                },
                () = tokio::time::sleep(HEAD_START), if left.len() > 0 => {}
            }
        }
    }

    /// The other dials go on: one cut off in its handshake is trouble in the peer's log, one that
    /// ends well is a spare.
    fn leave(&self, mut dials: JoinSet<Result<Tunnel, Undialled>>) {
        if dials.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let rest = async move {
            while let Some(ended) = dials.join_next().await {
                match ended {
                    Ok(Ok(conn)) => shared.stock_spare(conn).await,
                    Ok(Err(_)) => {}
                    Err(error) => shared.note_panic(Err(error)),
                }
            }
        };
        let _full = self.shared.loose.try_send(Box::pin(rest));
    }

    /// Sends `OPEN` and waits for what becomes of it.
    async fn ask(&self, conn: Tunnel, early: Early) -> Asking {
        let mut asking = Question::new(self, conn, early);
        let mut payload = Vec::new();
        loop {
            let next = asking.next_look();
            tokio::select! {
                event = asking.conn.event(&mut payload) => {
                    payload.clear();
                    let done = match event {
                        Ok(event) => asking.on_event(event),
                        Err(error) => Some(asking.on_loss(&error)),
                    };
                    if let Some(what) = done {
                        return asking.finish(what);
                    }
                }
                () = self.cancel.cancelled(), if asking.cancelled.is_none() => asking.cancel(),
                () = tokio::time::sleep_until(next.into()) => {
                    if let Some(what) = asking.on_look(clock::now()) {
                        return asking.finish(what);
                    }
                }
            }
        }
    }
}

enum Asking {
    /// The connection was lost; to which replica, if it had said so.
    Lost(Option<Target>),
    /// Nothing at all came back.
    Silent,
    Done(Tried),
}

/// What ended a question.
#[derive(Clone, Copy)]
enum What {
    Reply(Verdict),
    Cancelled,
    Lost,
    Silent,
}

/// An `OPEN` under way.
struct Question<'a> {
    attempt: &'a Attempt,
    conn: Tunnel,
    asked: Instant,
    early: Early,
    cancelled: Option<Instant>,
    /// The ping beside the `OPEN` is sent.
    pinged: bool,
}

impl<'a> Question<'a> {
    fn new(attempt: &'a Attempt, mut conn: Tunnel, early: Early) -> Self {
        let asked = clock::now();
        let wish = &attempt.wish;
        if let Some(stream) = conn.role().open() {
            let left = wish.deadline.saturating_duration_since(asked).as_millis();
            conn.queue(&Control::Open(Open {
                stream,
                asked: Asked::of(&wish.callee, wish.port),
                hops: 0,
                client: Client { address: Some(wish.client), ..Client::default() },
                trace: wish.trace,
                deadline_ms: u32::try_from(left).unwrap_or(u32::MAX),
                early: early == Early::Sent,
            }));
            if early == Early::Sent {
                conn.queue_payload(&wish.early);
            }
        }
        Self { attempt, conn, asked, early, cancelled: None, pinged: false }
    }

    fn life(&self) -> Duration {
        let (least, most) = SIGN_OF_LIFE;
        (self.attempt.rtt.unwrap_or_default() * 4).clamp(least, most)
    }

    /// When silence is looked at next.
    fn next_look(&self) -> Instant {
        if let Some(cancelled) = self.cancelled {
            let heard_since = self.conn.heard > cancelled;
            return cancelled + if heard_since { CANCEL_PATIENCE } else { SIGN_OF_LIFE.1 };
        }
        let patience = race::patience(self.attempt.rtt, Way::Spare);
        if !self.pinged {
            self.asked + patience
        } else if self.is_silent() {
            self.asked + patience + self.life()
        } else {
            // It lives and takes its time; the race decides how long to wait.
            self.attempt.wish.deadline.max(self.asked) + CANCEL_PATIENCE
        }
    }

    fn is_silent(&self) -> bool {
        self.conn.heard <= self.asked
    }

    fn on_look(&mut self, now: Instant) -> Option<What> {
        if let Some(cancelled) = self.cancelled {
            let silent = self.conn.heard <= cancelled;
            return Some(if silent { What::Silent } else { What::Lost });
        }
        if !self.pinged {
            self.pinged = true;
            self.conn.queue(&Control::Ping(BESIDE_OPEN));
            return None;
        }
        let patience = race::patience(self.attempt.rtt, Way::Spare) + self.life();
        let silent = self.is_silent() && now >= self.asked + patience;
        silent.then_some(What::Silent)
    }

    fn cancel(&mut self) {
        self.cancelled = Some(clock::now());
        let cancel = self.conn.role().cancel();
        self.conn.queue_some(cancel);
    }

    fn on_event(&mut self, event: Event) -> Option<What> {
        match event {
            Event::Ready => {
                if let Some(target) = self.conn.target() {
                    self.attempt.shared.news.seen(target);
                }
                None
            }
            Event::Reply(verdict) => Some(What::Reply(verdict)),
            Event::Cancelled(_) => Some(What::Cancelled),
            Event::Reset => Some(What::Lost),
            Event::Drain => {
                self.attempt.shared.note_draining(&mut self.conn);
                None
            }
            _ => None,
        }
    }

    /// Before `READY` it counts against the address; a reused connection counts for nothing.
    fn on_loss(&mut self, error: &super::conn::Error) -> What {
        tracing::debug!(peer = %self.attempt.peer, %error, "lost before the reply");
        if self.conn.role().ready().is_none() {
            let Attempt { shared, peer, .. } = self.attempt;
            shared.news.dial_failed(peer, self.conn.address, DialFault::Refused);
        }
        What::Lost
    }

    fn finish(mut self, what: What) -> Asking {
        let shared = &self.attempt.shared;
        let target = self.conn.target();
        match (what, target) {
            (What::Lost, target) => Asking::Lost(target.filter(|_| self.cancelled.is_none())),
            (What::Silent, Some(target)) => {
                shared.news.unanswered(target.clone());
                shared.pool.challenge(&target);
                Asking::Silent
            }
            (What::Silent, None) => {
                let peer = &self.attempt.peer;
                shared.news.dial_failed(peer, self.conn.address, DialFault::Timeout);
                Asking::Silent
            }
            (What::Reply(_) | What::Cancelled, None) => Asking::Lost(None),
            (What::Reply(Verdict::Accepted), Some(target)) => {
                shared.news.replied(&target);
                Asking::Done(Tried::Accepted(Box::new(self.conn), target, self.early))
            }
            (What::Reply(verdict), Some(target)) => {
                shared.news.replied(&target);
                if verdict == Verdict::Draining {
                    self.conn.draining = true;
                    shared.note_draining(&mut self.conn);
                }
                shared.pool.put(self.conn);
                Asking::Done(Tried::Refused(verdict))
            }
            (What::Cancelled, Some(target)) => {
                shared.news.replied(&target);
                shared.pool.put(self.conn);
                Asking::Done(Tried::Cancelled)
            }
        }
    }
}

/// Why a dial gave no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undialled {
    /// This machine lacked something: nothing was learned of the peer.
    Ours,
    /// The way or the peer; health was told.
    Theirs,
}

impl Shared {
    /// Dials a peer's data port; a failure that is not our own is told to health.
    pub(super) async fn dial(
        &self,
        peer: &ClusterId,
        address: SocketAddr,
    ) -> Result<Tunnel, Undialled> {
        match self.dialer.dial(peer, address, Kind::Data).await {
            Ok(dialed) => Ok(self.tunnel(dialed.stream, dialed.peer, address)),
            Err(error) => {
                tracing::debug!(%peer, %address, %error, "dial failed");
                if error.is_ours() {
                    return Err(Undialled::Ours);
                }
                self.news.dial_failed(peer, address, error.fault());
                Err(Undialled::Theirs)
            }
        }
    }

    /// Waits for a fresh connection's `READY`; `None` if it never comes.
    pub(super) async fn ready(&self, conn: &mut Tunnel) -> Option<Target> {
        let mut payload = Vec::new();
        let waited = tokio::time::timeout(READY_PATIENCE, async {
            loop {
                match conn.event(&mut payload).await {
                    Ok(Event::Ready) => return Ok(()),
                    Ok(_) => {}
                    Err(_) => return Err(DialFault::Refused),
                }
            }
        });
        match waited.await.unwrap_or(Err(DialFault::Timeout)) {
            Ok(()) => {
                let target = conn.target()?;
                self.news.seen(target.clone());
                Some(target)
            }
            Err(fault) => {
                self.news.dial_failed(conn.peer.cluster(), conn.address, fault);
                None
            }
        }
    }

    /// Makes a fresh connection a spare, once it has said `READY`.
    pub(super) async fn stock_spare(&self, mut conn: Tunnel) {
        if self.ready(&mut conn).await.is_some() {
            self.pool.add(conn);
        }
    }

    /// The replica at the other end asked for no new streams.
    pub(super) fn note_draining(&self, conn: &mut Tunnel) {
        if let Some(target) = conn.target() {
            self.note_replica_draining(&target);
        }
    }

    /// That replica asked for no new streams.
    pub(super) fn note_replica_draining(&self, target: &Target) {
        if self.pool.note_draining(&target.peer, target.replica) {
            tracing::info!(peer = %target.peer, replica = %target.replica, "the peer's replica drains");
            self.news.draining(&target.peer, target.replica);
        }
    }
}
