//! One peer's connection: `READY`, then one stream after the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::{Backed, Errand};
use super::conn::Conn;
use super::live::{self, Cut, Listed, Order};
use super::metrics::{Direction, Ending};
use super::role::Event;
use super::{Shared, stream};
use crate::catalog::{Caller, LocalExport};
use crate::clock;
use crate::drain::{Phase, Watch};
use crate::model::{ClusterId, HostLabel, PortKey, Protocol, ServiceKey};
use crate::routes::RouteTable;
use crate::tls;
use crate::wire::frame::{Acceptor, Asked, Control, MAX_EARLY, Open, Ready, Verdict};

/// Gateways a stream may have passed.
const MOST_HOPS: u32 = 2;
/// Attempts at backends of one stream.
const BACKEND_TRIES: u32 = 3;
/// For all of them together, unless the opener waits for less.
const BACKEND_TIME: Duration = Duration::from_secs(3);
/// How long an idle connection stays open once no streams are served, for those that cross.
const LAST_REFUSALS: Duration = Duration::from_secs(1);
/// Octets an echo gives back before it has to end.
const MOST_ECHO: usize = 64 * 1024;
/// For a whole echo: probes give up earlier, and nothing else needs one.
const ECHO_TIME: Duration = Duration::from_secs(5);
/// How long a connection may be idle though its peer has all the idle ones that it may.
const STANDING_TIME: Duration = Duration::from_secs(1);
/// How often an idle connection's expiry is looked at.
const EXPIRY_EVERY: Duration = Duration::from_secs(30);

type Session = Conn<Acceptor>;

/// Serves a peer's connection to its end. What was accepted is framed before the future begins,
/// which would hold room for it as long as it lives.
pub(super) fn serve(
    shared: Arc<Shared>,
    accepted: tls::Accepted,
    drain: Watch,
) -> impl Future<Output = ()> {
    let tls::Accepted { peer, stream, remote, lease, .. } = accepted;
    let mut conn: Session = shared.tunnel(stream, peer, remote);
    conn.queue(&Control::Ready(Ready { replica: shared.replica }));
    let drain = Draining { watch: drain, announced: false };
    serve_streams(shared, conn, lease, drain)
}

async fn serve_streams(
    shared: Arc<Shared>,
    mut conn: Session,
    lease: tls::Lease,
    mut drain: Draining,
) {
    while let Some(open) = idle(&shared, &mut conn, &mut drain).await {
        conn = match shared.answer(conn, *open, &mut drain).await {
            Some(conn) => conn,
            None => return drop(lease),
        };
    }
    conn.close().await;
    drop(lease);
}

/// The drain as one session sees it.
struct Draining {
    watch: Watch,
    /// `DRAIN` was sent on this connection.
    announced: bool,
}

impl Draining {
    fn announce(&mut self, conn: &mut Session) {
        if !self.announced && self.watch.phase() >= Phase::Announced {
            self.announced = true;
            conn.queue(&Control::Drain);
        }
    }
}

/// Waits for the next `OPEN`; `None` when the connection is to be closed.
async fn idle(shared: &Shared, conn: &mut Session, drain: &mut Draining) -> Option<Box<Open>> {
    let mut payload = Vec::new();
    let mut generation = shared.trust.generation();
    let mut seat = shared.guests.seat(conn.peer.cluster());
    let standing = clock::now() + STANDING_TIME;
    loop {
        drain.announce(conn);
        if shared.is_spent(conn) {
            return None;
        }
        let (phase, mut watch) = (drain.watch.phase(), drain.watch.clone());
        let next = match phase {
            Phase::Serving => Phase::Announced,
            Phase::Announced => Phase::Draining,
            Phase::Draining | Phase::Forced => Phase::Forced,
        };
        let patience = if phase < Phase::Draining { EXPIRY_EVERY } else { LAST_REFUSALS };
        tokio::select! {
            event = conn.event(&mut payload) => {
                payload.clear();
                match event {
                    Ok(Event::Open(open)) => return Some(open),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(peer = %conn.peer.cluster(), %error, "connection closed");
                        return None;
                    }
                }
            }
            () = watch.reached(next), if phase < Phase::Forced => {
                if next == Phase::Forced {
                    return None;
                }
            }
            _ = generation.changed() => {}
            () = tokio::time::sleep_until(standing.into()), if seat.is_none() => {
                let peer = conn.peer.cluster();
                seat = shared.guests.seat(peer);
                if seat.is_none() {
                    shared.metrics.idle_closed.with_label_values(&[peer.as_str()]).inc();
                    return None;
                }
            }
            () = tokio::time::sleep(patience) => {
                if phase >= Phase::Draining {
                    return None;
                }
            }
        }
        if phase == Phase::Forced {
            return None;
        }
    }
}

/// What an `OPEN` is to be served with.
pub(super) enum Grant {
    Backends(Arc<RouteTable>, ServiceKey, PortKey, Option<HostLabel>),
    Echo,
}

impl Shared {
    /// Serves one `OPEN`; the connection, where it can carry another.
    async fn answer(&self, mut conn: Session, open: Open, drain: &mut Draining) -> Option<Session> {
        let begun = clock::now();
        let decided = match drain.watch.phase() {
            Phase::Serving | Phase::Announced => {
                self.decide(conn.peer.cluster(), &open, Protocol::Tcp)
            }
            Phase::Draining | Phase::Forced => Err(Verdict::Draining),
        };
        let granted = match decided {
            Ok(Grant::Echo) => {
                let echoed = tokio::time::timeout(ECHO_TIME, echo(conn)).await;
                return echoed.unwrap_or_default();
            }
            Ok(Grant::Backends(table, key, port, pod)) => {
                let Some(permit) = self.places.peer() else {
                    return self.refuse(conn, &open, Verdict::Overloaded, begun);
                };
                let dialled =
                    self.dial_backend(&mut conn, &table, (&key, port, pod.as_ref()), &open).await;
                (dialled, key, permit)
            }
            Err(verdict) => return self.refuse(conn, &open, verdict, begun),
        };
        let (dialled, key, _permit) = granted;
        match dialled {
            Dialled::Backend(taken) => {
                let accepted = conn.role().reply(Verdict::Accepted);
                conn.queue_some(accepted);
                self.window.accepted(&key);
                self.carry_in(conn, taken, &open, drain, begun).await
            }
            Dialled::Refused(verdict) => self.refuse(conn, &open, verdict, begun),
            Dialled::Cancelled => Some(conn),
            Dialled::Lost => None,
        }
    }

    /// Whether this caller may have what it asks for, of the protocol that its connection carries. A name that is not exported and one that
    /// is not for this caller take the same way to the same answer.
    pub(super) fn decide(
        &self,
        peer: &ClusterId,
        open: &Open,
        carries: Protocol,
    ) -> Result<Grant, Verdict> {
        if open.asked == Asked::Echo {
            return Ok(Grant::Echo);
        }
        let table = self.routes.load_full();
        let (key, port, pod) = match &open.asked {
            Asked::Port(key, port) => (key, port, None),
            Asked::Pod(key, pod, port) => (key, port, Some(pod.clone())),
            Asked::Echo | Asked::Nothing => return Err(Verdict::NotExported),
        };
        let caller = Caller {
            cluster: peer,
            namespace: open.client.namespace.as_deref(),
            service_account: open.client.service_account.as_deref(),
        };
        let allows = |export: &Arc<LocalExport>| {
            export.clusters.allows(caller.cluster)
                && export.allow.allows(caller)
                && export.export.port(*port).is_some()
                && port.protocol == carries
                && open.hops <= MOST_HOPS
        };
        match table.local_export(key).map(allows) {
            Some(true) => Ok(Grant::Backends(Arc::clone(&table), key.clone(), *port, pod)),
            Some(false) | None => Err(Verdict::NotExported),
        }
    }

    fn refuse(
        &self,
        mut conn: Session,
        open: &Open,
        verdict: Verdict,
        begun: Instant,
    ) -> Option<Session> {
        if let (Verdict::Overloaded, Asked::Port(key, _)) = (verdict, &open.asked) {
            self.window.overloaded(key);
        }
        let reply = conn.role().reply(verdict);
        conn.queue_some(reply);
        let ending = Ending::Refused(verdict);
        let peer = conn.peer.cluster().as_str();
        self.metrics.ended(Direction::Inbound, peer, ending, 0);
        access_line(&conn, open, ending, 0, 0, begun);
        Some(conn)
    }

    /// Connects a backend while listening for what the opener says meanwhile.
    async fn dial_backend(
        &self,
        conn: &mut Session,
        table: &RouteTable,
        (key, port, pod): (&ServiceKey, PortKey, Option<&HostLabel>),
        open: &Open,
    ) -> Dialled {
        let time = match open.deadline_ms {
            0 => BACKEND_TIME,
            ms => Duration::from_millis(ms.into()).min(BACKEND_TIME),
        };
        let client = open.client.address;
        let errand = Errand { key, port, pod, client, tries: BACKEND_TRIES, time };
        let dial = self.connect_backend(table, errand);
        tokio::pin!(dial);
        let mut early = Vec::new();
        loop {
            tokio::select! {
                dialled = &mut dial => return match dialled {
                    Ok(backed) => {
                        let port = (key.clone(), port);
                        Dialled::Backend(Box::new(Taken { backed, early, port }))
                    }
                    Err(verdict) => Dialled::Refused(verdict),
                },
                event = conn.event(&mut early) => match event {
                    Ok(Event::Cancelled(_)) => {
                        // The answer leaves with the next read.
                        return Dialled::Cancelled;
                    }
                    Ok(Event::Reset) | Err(_) => return Dialled::Lost,
                    Ok(Event::Payload(_)) if early.len() > MAX_EARLY => return Dialled::Lost,
                    Ok(_) => {}
                },
            }
        }
    }

    async fn carry_in(
        &self,
        mut conn: Session,
        taken: Box<Taken>,
        open: &Open,
        drain: &mut Draining,
        begun: Instant,
    ) -> Option<Session> {
        let _open = self.metrics.open(Direction::Inbound);
        let Taken { backed, early: first, port } = *taken;
        let identity = conn.peer.clone();
        let remote = conn.address;
        let Listed { live, .. } =
            &self.streams.list(Some(identity.clone()), live::Way::In, Some(port));
        // Listed first: whoever announces, cuts or revokes after this tells the stream itself.
        drain.announce(&mut conn);
        if drain.watch.phase() == Phase::Forced {
            live.tell(Order::Cut(Cut::Shutdown));
        }
        self.cut_if_revoked(live);
        let Backed { socket, seat, place: _place } = backed;
        let start = stream::Start { first, seat: Some(&seat) };
        let finished = stream::carry(socket, conn, live, &self.budget, start).await;
        match finished.ending {
            Ending::Ok => seat.went_well(),
            Ending::AppReset => seat.went_wrong(),
            _ => {}
        }
        let octets = finished.sent + finished.received;
        let peer = identity.cluster().as_str();
        self.metrics.ended(Direction::Inbound, peer, finished.ending, octets);
        let (sent, received) = (finished.sent, finished.received);
        line(peer, remote, open, finished.ending, sent, received, begun);
        finished.conn
    }
}

/// What an `OPEN` came to.
struct Taken {
    backed: Backed,
    /// What the opener sent before the `REPLY`.
    early: Vec<u8>,
    port: (ServiceKey, PortKey),
}

enum Dialled {
    Backend(Box<Taken>),
    Refused(Verdict),
    Cancelled,
    Lost,
}

/// Gives back what a probe sends, within bounds.
async fn echo(mut conn: Session) -> Option<Session> {
    let accepted = conn.role().reply(Verdict::Accepted);
    conn.queue_some(accepted);
    let (mut payload, mut echoed) = (Vec::new(), 0);
    while !conn.is_idle() {
        match conn.event(&mut payload).await.ok()? {
            Event::Payload(_) => {
                echoed += payload.len();
                if echoed > MOST_ECHO {
                    return None;
                }
                conn.queue_payload(&payload);
                payload.clear();
            }
            Event::Fin => {
                let fin = conn.role().fin();
                conn.queue_some(fin);
            }
            Event::Reset => return None,
            _ => {}
        }
    }
    Some(conn)
}

fn access_line(
    conn: &Session,
    open: &Open,
    ending: Ending,
    sent: u64,
    received: u64,
    begun: Instant,
) {
    line(conn.peer.cluster().as_str(), conn.address, open, ending, sent, received, begun);
}

/// One line per finished stream.
fn line(
    peer: &str,
    remote: SocketAddr,
    open: &Open,
    ending: Ending,
    sent: u64,
    received: u64,
    begun: Instant,
) {
    tracing::debug!(
        direction = "inbound",
        asked = ?open.asked,
        client = ?open.client.address,
        peer,
        %remote,
        result = ending.as_str(),
        sent,
        received,
        seconds = (clock::now() - begun).as_secs_f64(),
        trace = %format_args!("{:032x}", u128::from_be_bytes(open.trace)),
        "stream"
    );
}
