//! Sessions of clients here: from a client's datagram to whoever carries it, and back.
//!
//! A session is (listener, client, address asked). Its first datagrams are kept until somebody has
//! accepted it ([`chase`](super::chase)): so a refusal, a silence or a lost connection moves to
//! the next candidate, and nothing was lost. When whoever carries it is gone, the client's next
//! datagram looks for another. Datagrams of one session stay in order: one task hears a client's,
//! one task its answers.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::backend::{Outlet, send};
use super::ear::{Ear, Heard};
use super::lane::{Berth, Lane};
use super::metrics::{Dropped, End};
use super::table::{Table, Ticket, Way};
use crate::clock;
use crate::gateway::Shared;
use crate::gateway::metrics::Direction;
use crate::model::{Callee, ClusterId, PortKey, ServiceKey, canonical};
use crate::wire::datagram::MAX_DATAGRAM;

/// Datagrams kept for a session until it is accepted, and their octets after the first.
const MOST_KEPT: usize = 16;
const MOST_KEPT_OCTETS: usize = 16 * 1024;
/// Octets kept for all sessions together.
const MOST_KEPT_IN_ALL: usize = 16 * 1024 * 1024;
/// Sessions that wait for an acceptance at one time; a flood of new ones gets no further.
const MOST_OPENING: usize = 4_096;
/// A session that nobody accepted is not tried again for so long.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// A listener: where clients ask, and for what.
#[derive(Debug)]
pub(super) struct Door {
    /// Its socket.
    pub(super) ear: Ear,
    /// The service, or one pod of it.
    pub(super) callee: Callee,
    /// Its port.
    pub(super) port: PortKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    ear: u64,
    client: SocketAddr,
    asked: Option<IpAddr>,
}

#[derive(Debug)]
struct Session {
    door: Arc<Door>,
    carrier: Carrier,
    /// Who accepted it last.
    peer: Option<ClusterId>,
    trace: [u8; 16],
    begun: Instant,
}

/// Who carries a session.
#[derive(Debug)]
enum Carrier {
    /// Nobody yet: what came so far.
    Opening(Kept),
    /// A peer.
    Tunnel(Berth),
    /// A backend of our own export.
    Local { outlet: Arc<Outlet>, _stop: DropGuard },
    /// Nobody any more; the next datagram looks for another.
    Lost,
    /// Nobody accepted it: not tried again before that instant.
    Failed(Instant),
}

/// Datagrams that wait for an acceptance.
#[derive(Debug, Default)]
struct Kept {
    datagrams: VecDeque<Box<[u8]>>,
    octets: usize,
}

impl Kept {
    /// Keeps one more, `in_all` being what all sessions keep.
    fn keep(&mut self, datagram: &[u8], in_all: &mut usize) -> Option<Dropped> {
        let fits = self.datagrams.is_empty()
            || (self.datagrams.len() < MOST_KEPT
                && self.octets + datagram.len() <= MOST_KEPT_OCTETS);
        if !fits || *in_all + datagram.len() > MOST_KEPT_IN_ALL {
            return Some(Dropped::Kept);
        }
        self.octets += datagram.len();
        *in_all += datagram.len();
        self.datagrams.push_back(datagram.into());
        None
    }
}

/// A session for which somebody is to be found.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Which session.
    pub(super) ticket: Ticket,
    /// Where its client asked.
    pub(super) door: Arc<Door>,
    /// Its client.
    pub(super) client: SocketAddr,
    /// Joins the access lines of all gateways on the way.
    pub(super) trace: [u8; 16],
}

/// Who accepted a session.
#[derive(Debug)]
pub(super) enum Won {
    /// A peer.
    Tunnel(ClusterId, Berth),
    /// A backend of our own export.
    Local(Outlet),
}

/// A local backend whose answers are to be read until the token says so.
pub(super) type Answering = (Arc<Outlet>, CancellationToken);

/// The sessions of clients here.
#[derive(Debug)]
pub(in crate::gateway) struct Imports {
    inner: Mutex<Inner>,
    opening: AtomicUsize,
    draining: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    table: Table<Key, Session>,
    /// By the number of the lane, and the session's on it.
    carried: HashMap<(u64, u32), Ticket>,
    /// Octets that all sessions keep.
    kept: usize,
}

impl Imports {
    /// Room for so many sessions.
    pub(super) fn new(most: usize) -> Self {
        let inner = Inner { table: Table::new(most), carried: HashMap::new(), kept: 0 };
        Self {
            inner: Mutex::new(inner),
            opening: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins no session any more; those there are may be idle for so long.
    pub(super) fn drain(&self, most_idle: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        self.lock().table.hurry(most_idle);
    }

    /// Whether it begins no session any more.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Sessions with a backend of our own export: of one service, or of all.
    pub(super) fn local(&self, of: Option<&ServiceKey>) -> usize {
        self.lock().table.count(|_, session| {
            let is_local = matches!(session.carrier, Carrier::Local { .. });
            is_local && of.is_none_or(|key| session.door.callee.service == *key)
        })
    }

    /// Sessions that a peer carries.
    pub(super) fn carried_by(&self, peer: &ClusterId) -> usize {
        self.lock().table.count(|_, session| {
            let carried = matches!(session.carrier, Carrier::Tunnel(_));
            carried && session.peer.as_ref() == Some(peer)
        })
    }

    /// Whether a listener has sessions.
    pub(super) fn has_any(&self, ear: u64) -> bool {
        self.lock().table.any(|key| key.ear == ear)
    }

    /// Why no session may begin now.
    fn refusal(&self) -> Option<Dropped> {
        if self.is_draining() {
            Some(Dropped::Draining)
        } else if self.opening.load(Ordering::Relaxed) >= MOST_OPENING {
            Some(Dropped::Overloaded)
        } else {
            None
        }
    }
}

impl Shared {
    /// A client's datagram; the session to be opened, where that is due.
    pub(super) fn hear(&self, door: &Arc<Door>, heard: Heard, datagram: &[u8]) -> Option<Wanted> {
        let dropped = if datagram.len() > MAX_DATAGRAM {
            Err(Dropped::TooLarge)
        } else {
            self.pass_on(door, heard, datagram)
        };
        match dropped {
            Ok(wanted) => {
                self.udp.outbound[0].inc();
                wanted
            }
            Err(dropped) => {
                self.udp.metrics.dropped(dropped);
                None
            }
        }
    }

    fn pass_on(
        &self,
        door: &Arc<Door>,
        heard: Heard,
        datagram: &[u8],
    ) -> Result<Option<Wanted>, Dropped> {
        let (imports, now) = (&self.udp.imports, clock::now());
        let key = Key { ear: door.ear.number, client: heard.client, asked: heard.asked };
        let mut inner = imports.lock();
        let Some(ticket) = inner.table.find(&key) else {
            return self.begin(&mut inner, door, key, datagram, now).map(Some);
        };
        inner.table.touch(ticket, Way::Asking, now);
        let Inner { table, kept, .. } = &mut *inner;
        let session = table.get_mut(ticket).ok_or(Dropped::Ended)?;
        let dropped = match &mut session.carrier {
            Carrier::Tunnel(berth) => berth.send(datagram).err().map(|_| Dropped::Queue),
            Carrier::Local { outlet, .. } => send(&outlet.socket, datagram),
            Carrier::Opening(waiting) => waiting.keep(datagram, kept),
            Carrier::Failed(until) if now < *until => Some(Dropped::Unaccepted),
            Carrier::Failed(_) | Carrier::Lost => {
                if let Some(refusal) = imports.refusal() {
                    return Err(refusal);
                }
                let mut waiting = Kept::default();
                if let Some(dropped) = waiting.keep(datagram, kept) {
                    return Err(dropped);
                }
                session.carrier = Carrier::Opening(waiting);
                let (client, trace) = (key.client, session.trace);
                let wanted = Wanted { ticket, door: Arc::clone(door), client, trace };
                return Ok(Some(wanted));
            }
        };
        dropped.map_or(Ok(None), Err)
    }

    fn begin(
        &self,
        inner: &mut Inner,
        door: &Arc<Door>,
        key: Key,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Wanted, Dropped> {
        if let Some(refusal) = self.udp.imports.refusal() {
            return Err(refusal);
        }
        let mut waiting = Kept::default();
        if let Some(dropped) = waiting.keep(datagram, &mut inner.kept) {
            return Err(dropped);
        }
        let trace = rand::random();
        let carrier = Carrier::Opening(waiting);
        let session = Session { door: Arc::clone(door), carrier, peer: None, trace, begun: now };
        let (ticket, evicted) = inner.table.insert(key, session, now);
        if let Some((key, session)) = evicted {
            self.over(inner, key, session, End::Evicted);
        }
        Ok(Wanted { ticket, door: Arc::clone(door), client: key.client, trace })
    }

    /// A search for somebody begins; the guard ends it.
    pub(super) fn opening(&self) -> Opening<'_> {
        self.udp.imports.opening.fetch_add(1, Ordering::Relaxed);
        Opening(&self.udp.imports.opening)
    }

    /// The search for somebody is over; the answers of a local backend are to be read.
    pub(super) fn settle(&self, ticket: Ticket, won: Result<Won, End>) -> Option<Answering> {
        let mut inner = self.udp.imports.lock();
        let Inner { table, carried, kept } = &mut *inner;
        let session = table.get_mut(ticket)?;
        let waiting = match std::mem::replace(&mut session.carrier, Carrier::Lost) {
            Carrier::Opening(waiting) => waiting,
            other => {
                session.carrier = other;
                return None;
            }
        };
        *kept -= waiting.octets;
        let own = &self.cluster;
        let count = waiting.datagrams.len() as u64;
        match won {
            Ok(Won::Tunnel(peer, berth)) => {
                let sent = waiting.datagrams.iter().map(|datagram| berth.send(datagram));
                let full = sent.filter(Result::is_err).count() as u64;
                self.udp.metrics.dropped_by(Dropped::Queue, full);
                if berth.take_up() {
                    carried.insert(berth.place(), ticket);
                    session.carrier = Carrier::Tunnel(berth);
                } else {
                    let peer = peer.as_str();
                    self.udp.metrics.ended(Direction::Outbound, peer, End::PeerEnded);
                }
                session.peer = Some(peer);
                None
            }
            Ok(Won::Local(outlet)) => {
                let (outlet, stop) = (Arc::new(outlet), CancellationToken::new());
                for dropped in waiting.datagrams.iter().filter_map(|d| send(&outlet.socket, d)) {
                    self.udp.metrics.dropped(dropped);
                }
                session.peer = Some(own.clone());
                let answering = (Arc::clone(&outlet), stop.clone());
                session.carrier = Carrier::Local { outlet, _stop: stop.drop_guard() };
                Some(answering)
            }
            Err(end) => {
                self.udp.metrics.dropped_by(Dropped::Unaccepted, count);
                self.udp.metrics.ended(Direction::Outbound, "none", end);
                session.carrier = Carrier::Failed(clock::now() + FAILED_PAUSE);
                None
            }
        }
    }

    /// A peer's answer.
    pub(super) fn answered(&self, place: (u64, u32), datagram: &[u8]) {
        let ticket = self.udp.imports.lock().carried.get(&place).copied();
        match ticket {
            Some(ticket) => self.answer_client(ticket, datagram),
            None => self.udp.metrics.dropped(Dropped::Ended),
        }
    }

    /// Hands an answer to the client of a session; whether it still lives.
    pub(super) fn answer_client(&self, ticket: Ticket, datagram: &[u8]) {
        let mut inner = self.udp.imports.lock();
        inner.table.touch(ticket, Way::Answering, clock::now());
        let Some((key, session)) = inner.table.both_mut(ticket) else {
            return self.udp.metrics.dropped(Dropped::Ended);
        };
        let (door, client, asked) = (Arc::clone(&session.door), key.client, key.asked);
        drop(inner);
        match door.ear.answer(datagram, client, asked) {
            Ok(()) => self.udp.outbound[1].inc(),
            Err(error) => {
                tracing::debug!(%client, %error, "a client's answer could not be sent");
                self.udp.metrics.dropped(Dropped::Socket);
            }
        }
    }

    /// The other gateway ended a session; the client's next datagram looks for another place.
    pub(super) fn peer_ended(&self, place: (u64, u32)) {
        let mut inner = self.udp.imports.lock();
        if let Some(ticket) = inner.carried.remove(&place) {
            self.lose(&mut inner, ticket, End::PeerEnded);
        }
    }

    /// A lane is over: all it carried looks for another place.
    pub(super) fn lane_ended(&self, lane: &Lane, end: End) {
        let mut inner = self.udp.imports.lock();
        let on_it = inner.carried.extract_if(|(number, _), _| *number == lane.number);
        let tickets: Vec<Ticket> = on_it.map(|(_, ticket)| ticket).collect();
        for ticket in tickets {
            self.lose(&mut inner, ticket, end);
        }
    }

    /// The local backend of a session refused.
    pub(super) fn local_refused(&self, ticket: Ticket) {
        self.lose(&mut self.udp.imports.lock(), ticket, End::BackendRefused);
    }

    fn lose(&self, inner: &mut Inner, ticket: Ticket, end: End) {
        let Some(session) = inner.table.get_mut(ticket) else { return };
        let peer = session.peer.as_ref().map_or("none", ClusterId::as_str);
        self.udp.metrics.ended(Direction::Outbound, peer, end);
        session.carrier = Carrier::Lost;
    }

    /// Ends sessions that have been idle for too long.
    pub(super) fn expire_imports(&self) {
        let mut inner = self.udp.imports.lock();
        let now = clock::now();
        while let Some((key, session)) = inner.table.expire(now) {
            self.over(&mut inner, key, session, End::Idle);
        }
        self.udp.metrics.show(Direction::Outbound, inner.table.len());
    }

    /// Ends every session of a listener.
    pub(super) fn close_door(&self, ear: u64) {
        let mut inner = self.udp.imports.lock();
        for (key, session) in inner.table.drain_where(|key, _| key.ear == ear) {
            self.over(&mut inner, key, session, End::Closed);
        }
    }

    /// A session was taken out of the table.
    fn over(&self, inner: &mut Inner, key: Key, session: Session, end: End) {
        match &session.carrier {
            Carrier::Opening(waiting) => {
                inner.kept -= waiting.octets;
                self.udp.metrics.dropped_by(Dropped::Ended, waiting.datagrams.len() as u64);
            }
            Carrier::Tunnel(berth) => drop(inner.carried.remove(&berth.place())),
            Carrier::Local { .. } => {}
            // Counted when it was lost.
            Carrier::Lost | Carrier::Failed(_) => return,
        }
        let peer = session.peer.as_ref().map_or("none", ClusterId::as_str);
        self.udp.metrics.ended(Direction::Outbound, peer, end);
        tracing::debug!(
            direction = "outbound",
            service = %session.door.callee,
            port = %session.door.port,
            client = %SocketAddr::new(canonical(key.client.ip()), key.client.port()),
            peer,
            result = end.as_str(),
            seconds = (clock::now() - session.begun).as_secs_f64(),
            trace = %format_args!("{:032x}", u128::from_be_bytes(session.trace)),
            "session"
        );
    }
}

/// Counts a search while it lasts.
pub(super) struct Opening<'a>(&'a AtomicUsize);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
