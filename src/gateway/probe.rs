//! Probing one replica: `PING` on a standing connection, and fresh dials with an echo.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Shared;
use super::attempt::Undialled;
use super::pool::Tunnel;
use super::role::Event;
use crate::clock;
use crate::health::{Fact, Pace, ProbeKind, Target};
use crate::wire::frame::{Asked, Client, Control, Open, Verdict};

/// Between probes of a healthy replica, ± [`JITTER`].
const STEADY: Duration = Duration::from_secs(1);
const JITTER: f64 = 0.1;
/// Between probes of a doubtful one.
const QUICK: Duration = Duration::from_millis(300);
/// At the steady pace every so-many-th probe is fresh.
const FRESH_EVERY: u64 = 10;
/// For a whole fresh probe.
const FRESH_TIME: Duration = Duration::from_secs(3);
/// Dials until one lands on the replica that is meant.
const MOST_DIALS: u32 = 8;
/// Octets echoed: more than a path with a small MTU passes in one piece.
const ECHO_OCTETS: usize = 1_400;
/// Pings remembered; an answer to an older one still counts as heard, at its own time.
const MOST_PINGS: usize = 256;

struct Probe {
    shared: Arc<Shared>,
    target: Target,
    standing: Option<Tunnel>,
    pings: VecDeque<(u64, Instant)>,
    fresh: JoinSet<(u64, Result<Landed, Missed>)>,
    finds: mpsc::Sender<Find>,
    next_id: u64,
    count: u64,
    last: Instant,
    interval: Duration,
    pace: Pace,
    /// The standing connection was just lost: the next probe is due at once.
    hurry: bool,
    /// Dials that led to other replicas behind the address since this one was last found.
    strays: u32,
}

/// How far one fresh probe came.
#[derive(Debug, Default)]
struct Search {
    /// Dials that led to another replica behind the same address.
    strays: u32,
    /// One led to the replica that is meant.
    found: bool,
}

struct Landed {
    conn: Tunnel,
    rtt: Duration,
}

/// A connection to a replica, found while looking for another or for any.
#[derive(Debug)]
pub(super) struct Find {
    /// The replica.
    pub(super) target: Target,
    /// Its connection, to stand.
    pub(super) conn: Tunnel,
}

/// Why a fresh probe did not land.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missed {
    /// It came back with nothing, or not in time.
    Failed,
    /// It never left, for want of something here.
    Void,
    /// So many dials led to another replica behind the same address, as far as there was time.
    Elsewhere(u32),
}

impl Search {
    /// Its time is over.
    fn late(&self) -> Missed {
        match self.strays {
            // Over a long way there is no time for many dials: not found is not failed.
            strays if strays > 0 && !self.found => Missed::Elsewhere(strays),
            _ => Missed::Failed,
        }
    }
}

/// Probes `target` for ever.
pub(super) async fn run(
    shared: Arc<Shared>,
    target: Target,
    standing: Option<Tunnel>,
    finds: mpsc::Sender<Find>,
) {
    let mut changed = shared.changed.clone();
    let now = clock::now();
    let mut probe = Probe {
        shared,
        target,
        standing,
        pings: VecDeque::new(),
        fresh: JoinSet::new(),
        finds,
        // Distinct from what an earlier prober of this replica sent.
        next_id: u64::from(rand::random::<u32>()) << 32,
        count: 0,
        last: now,
        interval: Duration::ZERO,
        pace: Pace::Steady,
        hurry: false,
        strays: 0,
    };
    let mut payload = Vec::new();
    loop {
        let due = probe.due();
        let standing = async {
            match probe.standing.as_mut() {
                Some(conn) => conn.event(&mut payload).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = standing => {
                payload.clear();
                match event {
                    Ok(event) => probe.on_event(event),
                    Err(error) => probe.on_loss(&error),
                }
            }
            Some(ended) = probe.fresh.join_next() => match ended {
                Ok((id, landed)) => probe.on_fresh(id, landed),
                Err(error) => probe.shared.note_panic(Err(error)),
            },
            Ok(()) = changed.changed() => probe.pace = probe.asked_pace(),
            () = tokio::time::sleep_until(due.into()) => probe.send(),
        }
    }
}

impl Probe {
    fn asked_pace(&self) -> Pace {
        let table = self.shared.routes.load();
        let status = table.peers.get(&self.target.peer);
        let view = status.and_then(|status| {
            status.health.replicas.iter().find(|view| view.target == self.target)
        });
        view.map_or(Pace::Steady, |view| view.pace)
    }

    fn due(&self) -> Instant {
        let interval = match self.pace {
            _ if self.hurry => self.interval.min(QUICK),
            Pace::Steady => self.interval,
            Pace::Quick => self.interval.min(QUICK),
        };
        self.last + interval
    }

    /// Sends the next probe, whether or not the last was answered.
    fn send(&mut self) {
        let now = clock::now();
        self.pace = self.asked_pace();
        self.hurry = false;
        self.last = now;
        self.interval = match self.pace {
            Pace::Steady => STEADY.mul_f64(rand::rng().random_range(1.0 - JITTER..=1.0 + JITTER)),
            Pace::Quick => QUICK,
        };
        self.count += 1;
        self.next_id += 1;
        self.drop_expired();
        let fresh = match self.pace {
            Pace::Steady => self.count.is_multiple_of(FRESH_EVERY),
            Pace::Quick => self.count.is_multiple_of(2),
        };
        let id = self.next_id;
        let (target, at) = (self.target.clone(), now);
        match self.standing.as_mut() {
            Some(conn) if !fresh => {
                let kind = ProbeKind::Standing;
                self.shared.news.tell(Fact::ProbeSent { target, kind, id, at });
                conn.queue(&Control::Ping(id));
                self.pings.push_back((id, now));
                if self.pings.len() > MOST_PINGS {
                    self.pings.pop_front();
                }
            }
            _ => {
                let kind = ProbeKind::Fresh;
                self.shared.news.tell(Fact::ProbeSent { target, kind, id, at });
                let (shared, target) = (Arc::clone(&self.shared), self.target.clone());
                let finds = self.finds.clone();
                self.fresh.spawn(async move {
                    let mut search = Search::default();
                    let fresh = fresh_probe(shared, target, finds, &mut search);
                    let landed = tokio::time::timeout(FRESH_TIME, fresh).await;
                    (id, landed.unwrap_or_else(|_| Err(search.late())))
                });
            }
        }
    }

    /// A standing connection ends with its leaf, or the trust in it; that is no loss, nor are the
    /// pings under way on it.
    fn drop_expired(&mut self) {
        if self.standing.take_if(|conn| self.shared.is_spent(conn)).is_some() {
            for (id, _) in std::mem::take(&mut self.pings) {
                self.void(ProbeKind::Standing, id);
            }
        }
    }

    fn void(&self, kind: ProbeKind, id: u64) {
        let (target, at) = (self.target.clone(), clock::now());
        self.shared.news.tell(Fact::ProbeVoid { target, kind, id, at });
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Pong(id) => {
                let at = clock::now();
                let Some(place) = self.pings.iter().position(|(sent, _)| *sent == id) else {
                    return;
                };
                let Some((_, sent)) = self.pings.remove(place) else { return };
                let (target, kind) = (self.target.clone(), ProbeKind::Standing);
                let rtt = at.saturating_duration_since(sent);
                self.shared.news.tell(Fact::ProbeAnswered { target, kind, id, at, rtt });
            }
            Event::Drain => {
                if let Some(conn) = self.standing.as_mut() {
                    self.shared.note_draining(conn);
                }
            }
            _ => {}
        }
    }

    fn on_loss(&mut self, error: &super::conn::Error) {
        tracing::debug!(peer = %self.target.peer, %error, "the standing connection ended");
        self.standing = None;
        self.pings.clear();
        self.hurry = true;
        let (target, at) = (self.target.clone(), clock::now());
        self.shared.news.tell(Fact::StandingLost { target, at });
    }

    /// Whether a replica that so many more dials did not find behind its address has failed. A
    /// shared address need not lead to it: while its old connection stands, that one tells
    /// whether it lives; without, only [`MOST_DIALS`] that found others say that it is gone.
    fn is_lost(&mut self, strays: u32) -> bool {
        if self.standing.is_some() {
            self.strays = 0;
            return false;
        }
        self.strays += strays;
        let is_lost = self.strays >= MOST_DIALS;
        if is_lost {
            self.strays -= MOST_DIALS;
        }
        is_lost
    }

    fn on_fresh(&mut self, id: u64, landed: Result<Landed, Missed>) {
        let (target, kind, at) = (self.target.clone(), ProbeKind::Fresh, clock::now());
        match landed {
            Err(Missed::Elsewhere(strays)) if !self.is_lost(strays) => self.void(kind, id),
            Err(Missed::Failed | Missed::Elsewhere(_)) => {
                self.shared.news.tell(Fact::ProbeFailed { target, kind, id, at });
            }
            Err(Missed::Void) => self.void(kind, id),
            Ok(Landed { conn, rtt }) => {
                self.strays = 0;
                self.shared.news.tell(Fact::ProbeAnswered { target, kind, id, at, rtt });
                if self.standing.is_none() {
                    self.standing = Some(conn);
                } else {
                    self.shared.pool.add(conn);
                }
            }
        }
    }
}

/// Dials until a connection lands on the replica, then has it echo.
async fn fresh_probe(
    shared: Arc<Shared>,
    target: Target,
    finds: mpsc::Sender<Find>,
    search: &mut Search,
) -> Result<Landed, Missed> {
    for _ in 0..MOST_DIALS {
        let dialled = shared.dial(&target.peer, target.address).await;
        let mut conn = dialled.map_err(|undialled| match undialled {
            Undialled::Ours => Missed::Void,
            Undialled::Theirs => Missed::Failed,
        })?;
        let mut payload = Vec::new();
        ask_echo(&mut conn);
        let mut sent = None;
        loop {
            match conn.event(&mut payload).await {
                Ok(Event::Ready) => {
                    let landed = conn.target().ok_or(Missed::Failed)?;
                    shared.news.seen(landed.clone());
                    search.found = landed == target;
                    if !search.found {
                        search.strays += 1;
                        // Another replica behind the same address: it can stand for itself once
                        // its echo is called off.
                        let _wound_up = hand_over(conn, landed, &finds).await;
                        break;
                    }
                }
                Ok(Event::Reply(Verdict::Accepted)) => {
                    sent = Some(clock::now());
                    conn.queue_payload(&[0xa5; ECHO_OCTETS]);
                }
                Ok(Event::Reply(Verdict::Draining)) => {
                    shared.note_draining(&mut conn);
                    return Err(Missed::Failed);
                }
                Ok(Event::Reply(_) | Event::Reset | Event::Cancelled(_)) => {
                    return Err(Missed::Failed);
                }
                Ok(Event::Drain) => shared.note_draining(&mut conn),
                Ok(Event::Fin) => {}
                Ok(_) => {
                    if payload.len() >= ECHO_OCTETS
                        && let Some(at) = sent
                    {
                        let rtt = clock::now().saturating_duration_since(at);
                        let conn = end_echo(conn).await.ok_or(Missed::Failed)?;
                        return Ok(Landed { conn, rtt });
                    }
                }
                Err(error) => {
                    tracing::debug!(peer = %target.peer, %error, "a fresh probe was lost");
                    if conn.role().ready().is_none() {
                        let fault = crate::health::DialFault::Refused;
                        shared.news.dial_failed(&target.peer, target.address, fault);
                    }
                    return Err(Missed::Failed);
                }
            }
        }
    }
    Err(Missed::Elsewhere(search.strays))
}

fn ask_echo(conn: &mut Tunnel) {
    if let Some(stream) = conn.role().open() {
        let deadline_ms = u32::try_from(FRESH_TIME.as_millis()).unwrap_or(0);
        conn.queue(&Control::Open(Open {
            stream,
            asked: Asked::Echo,
            hops: 0,
            client: Client::default(),
            trace: rand::random(),
            deadline_ms,
            early: false,
        }));
    }
}

/// FIN both ways, so that the connection is idle again.
async fn end_echo(mut conn: Tunnel) -> Option<Tunnel> {
    let fin = conn.role().fin();
    conn.queue_some(fin);
    let mut payload = Vec::new();
    while !conn.is_idle() {
        conn.event(&mut payload).await.ok()?;
    }
    Some(conn)
}

/// Calls the echo off and offers the connection to the prober of the replica it leads to.
async fn hand_over(mut conn: Tunnel, target: Target, finds: &mpsc::Sender<Find>) -> Option<()> {
    let cancel = conn.role().cancel();
    conn.queue_some(cancel);
    let mut payload = Vec::new();
    while !conn.is_idle() {
        match conn.event(&mut payload).await.ok()? {
            // Accepted before it was called off, and the echo is over at once.
            Event::Reset => return None,
            _ => payload.clear(),
        }
    }
    finds.send(Find { target, conn }).await.ok()
}
