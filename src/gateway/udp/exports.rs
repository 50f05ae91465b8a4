//! Sessions of peers' clients: each with a backend of our own export.
//!
//! Who may is looked up as for a stream, and refused with the same words.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::backend::{self, Outlet, send};
use super::fair::Fair;
use super::imports::Answering;
use super::metrics::{Dropped, End};
use super::queue::Queue;
use super::table::Way;
use crate::catalog::Backend;
use crate::clock;
use crate::gateway::Shared;
use crate::gateway::affinity::Client;
use crate::gateway::backend::keeps_clients;
use crate::gateway::metrics::Direction;
use crate::gateway::session::Grant;
use crate::model::{ClusterId, HostLabel, PortKey, Protocol, ServiceKey};
use crate::routes::RouteTable;
use crate::wire::datagram::MAX_DATAGRAM;
use crate::wire::frame::{Control, Open, Reset, ResetReason, Verdict};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A peer's datagram connection, as its sessions see it.
#[derive(Debug)]
pub(super) struct Line {
    /// Its number in this process.
    pub(super) number: u64,
    /// Whose it is.
    pub(super) peer: ClusterId,
    /// What is to be written.
    pub(super) queue: Queue,
    sessions: AtomicUsize,
}

impl Line {
    /// A connection that was accepted.
    pub(super) fn new(peer: ClusterId) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { number, peer, queue: Queue::default(), sessions: AtomicUsize::new(0) }
    }

    /// Sessions on it.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }
}

/// A session of a peer's client.
#[derive(Debug)]
struct Session {
    line: Arc<Line>,
    outlet: Arc<Outlet>,
    _stop: DropGuard,
    asked: (ServiceKey, PortKey),
    trace: [u8; 16],
    begun: Instant,
}

/// The sessions of peers' clients, by peer, the number of the connection and theirs on it.
#[derive(Debug)]
pub(in crate::gateway) struct Exports(Mutex<Fair<(u64, u32), Session>>);

impl Exports {
    /// Room for so many sessions.
    pub(super) fn new(most: usize) -> Self {
        Self(Mutex::new(Fair::new(most)))
    }

    fn lock(&self) -> MutexGuard<'_, Fair<(u64, u32), Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sessions of one service, or of all.
    pub(super) fn count(&self, of: Option<&ServiceKey>) -> usize {
        self.lock().count(|session| of.is_none_or(|key| session.asked.0 == *key))
    }

    /// Sessions may be idle for so long and no longer.
    pub(super) fn drain(&self, most_idle: Duration) {
        self.lock().hurry(most_idle);
    }
}

impl Shared {
    /// A socket connected to a backend of that port; the same one for a client's address where the
    /// export wants that. "Overloaded" where streams and sessions have all descriptors.
    pub(super) fn outlet(
        &self,
        table: &RouteTable,
        key: &ServiceKey,
        (port, pod): (PortKey, Option<&HostLabel>),
        client: Option<IpAddr>,
    ) -> Result<Outlet, Verdict> {
        let export = table.local_export(key).ok_or(Verdict::NoEndpoint)?;
        let backends = export.backends.get(&port).ok_or(Verdict::NoEndpoint)?;
        let is_allowed = |backend: &Backend| {
            let asked = pod.is_none_or(|pod| backend.hostname.as_ref() == Some(pod));
            asked && self.is_backend(table, backend.address)
        };
        let kept = client.filter(|_| keeps_clients(table, export)).map(Client::of);
        let place = self.places.session().ok_or(Verdict::Overloaded)?;
        Ok(Outlet::new(backend::connect(backends, is_allowed, kept)?, place))
    }

    /// Answers a peer's `OPEN`; what answers of its backend are read from.
    pub(super) fn accept_session(
        &self,
        line: &Arc<Line>,
        id: u32,
        open: &Open,
        draining: bool,
    ) -> Result<Answering, Verdict> {
        if draining {
            return Err(Verdict::Draining);
        }
        let granted = self.decide(&line.peer, open, Protocol::Udp)?;
        let Grant::Backends(table, key, port, pod) = granted else {
            return Err(Verdict::NotExported);
        };
        let client = open.client.address.map(|address| address.ip());
        let outlet = self.outlet(&table, &key, (port, pod.as_ref()), client);
        if outlet.as_ref().err() == Some(&Verdict::Overloaded) {
            // For the next one: what is given up is free only once its own task has had its turn.
            let evicted = self.udp.exports.lock().make_room(&line.peer);
            if let Some((place, session)) = evicted {
                self.export_over(place, session, End::Evicted);
            }
        }
        let outlet = Arc::new(outlet?);
        let stop = CancellationToken::new();
        let session = Session {
            line: Arc::clone(line),
            outlet: Arc::clone(&outlet),
            _stop: stop.clone().drop_guard(),
            asked: (key, port),
            trace: open.trace,
            begun: clock::now(),
        };
        line.sessions.fetch_add(1, Ordering::Relaxed);
        let mut exports = self.udp.exports.lock();
        let evicted = exports.insert(&line.peer, (line.number, id), session, clock::now());
        drop(exports);
        if let Some((place, session)) = evicted {
            self.export_over(place, session, End::Evicted);
        }
        Ok((outlet, stop))
    }

    /// A datagram of a peer's client.
    pub(super) fn to_backend(&self, line: &Line, id: u32, datagram: &[u8]) {
        let mut exports = self.udp.exports.lock();
        let outlet = exports.of(&line.peer).and_then(|sessions| {
            let ticket = sessions.find(&(line.number, id))?;
            sessions.touch(ticket, Way::Asking, clock::now());
            sessions.get_mut(ticket).map(|session| Arc::clone(&session.outlet))
        });
        drop(exports);
        match outlet.map_or(Some(Dropped::Ended), |outlet| send(&outlet.socket, datagram)) {
            None => self.udp.inbound[0].inc(),
            Some(dropped) => self.udp.metrics.dropped(dropped),
        }
    }

    /// Hands every answer of a session's backend to its peer, until nobody wants them.
    pub(super) async fn hear_backend(
        self: Arc<Self>,
        line: Arc<Line>,
        id: u32,
        (outlet, stop): Answering,
    ) {
        let answers =
            backend::answers(&outlet.socket, |datagram| self.to_peer(&line, id, datagram));
        tokio::select! {
            () = stop.cancelled() => {}
            stopped = answers => {
                if stopped == backend::Stopped::Refused {
                    self.end_export(&line, id, End::BackendRefused);
                }
            }
        }
    }

    fn to_peer(&self, line: &Line, id: u32, datagram: &[u8]) -> backend::Wanted {
        let mut exports = self.udp.exports.lock();
        let found = exports.of(&line.peer).and_then(|sessions| {
            let ticket = sessions.find(&(line.number, id))?;
            sessions.touch(ticket, Way::Answering, clock::now());
            Some(())
        });
        drop(exports);
        if found.is_none() {
            return backend::Wanted::No;
        }
        if datagram.len() > MAX_DATAGRAM {
            self.udp.metrics.dropped(Dropped::TooLarge);
        } else if line.queue.datagram(id, datagram).is_err() {
            self.udp.metrics.dropped(Dropped::Queue);
        } else {
            self.udp.inbound[1].inc();
        }
        backend::Wanted::Yes
    }

    /// Ends one session.
    pub(super) fn end_export(&self, line: &Line, id: u32, end: End) {
        let mut exports = self.udp.exports.lock();
        let taken = exports.of(&line.peer).and_then(|sessions| {
            let ticket = sessions.find(&(line.number, id))?;
            sessions.remove(ticket)
        });
        drop(exports);
        if let Some((place, session)) = taken {
            self.export_over(place, session, end);
        }
    }

    /// Ends every session of a connection.
    pub(super) fn end_line(&self, line: &Line, end: End) {
        let mut exports = self.udp.exports.lock();
        let of_line = |(number, _): &(u64, u32), _: &Session| *number == line.number;
        let all = exports.of(&line.peer).map(|sessions| sessions.drain_where(of_line));
        drop(exports);
        for (place, session) in all.into_iter().flatten() {
            self.export_over(place, session, end);
        }
    }

    /// Ends sessions that have been idle for too long.
    pub(super) fn expire_exports(&self) {
        let now = clock::now();
        let mut expired = Vec::new();
        let mut exports = self.udp.exports.lock();
        while let Some(taken) = exports.expire(now) {
            expired.push(taken);
        }
        let left = exports.len();
        drop(exports);
        for (place, session) in expired {
            self.export_over(place, session, End::Idle);
        }
        self.udp.metrics.show(Direction::Inbound, left);
    }

    /// A session was taken out of the table: its peer is told, unless it knows.
    fn export_over(&self, (_, id): (u64, u32), session: Session, end: End) {
        let line = &session.line;
        line.sessions.fetch_sub(1, Ordering::Relaxed);
        if end != End::PeerEnded {
            let (stream, reason) = (id.into(), ResetReason::Aborted);
            line.queue.control(&Control::Reset(Reset { stream, reason }));
        }
        let peer = line.peer.as_str();
        self.udp.metrics.ended(Direction::Inbound, peer, end);
        tracing::debug!(
            direction = "inbound",
            service = %session.asked.0,
            port = %session.asked.1,
            peer,
            result = end.as_str(),
            seconds = (clock::now() - session.begun).as_secs_f64(),
            trace = %format_args!("{:032x}", u128::from_be_bytes(session.trace)),
            "session"
        );
    }
}
