//! The life of a peer's datagram connection: `READY`, then sessions, until it is lost or ended.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::task::JoinSet;

use super::carry::LOOK_EVERY;
use super::conn::{Conn, Error, Flow};
use super::exports::Line;
use super::imports::Answering;
use super::metrics::End;
use crate::clock;
use crate::drain::{Phase, Watch};
use crate::gateway::Shared;
use crate::gateway::live::{self, Cut, Listed, Live, Order};
use crate::gateway::metrics::Direction;
use crate::tls;
use crate::wire::datagram::{Acceptor, AcceptorEvent};
use crate::wire::frame::{Control, Ready, Reply, Verdict};

/// Number of the pings sent here.
const PING: u64 = 1;

/// Sessions asked for in one turn. Those that make room for them give their sockets back only when
/// their own tasks have had theirs.
const BATCH: usize = 32;

/// A session that was accepted just now.
type Begun = (u32, Answering);

/// A peer's connection.
struct Serving {
    shared: Arc<Shared>,
    conn: Conn,
    line: Arc<Line>,
    acceptor: Acceptor,
    drain: Watch,
    announced: bool,
}

/// Serves a peer's datagram connection to its end.
pub(in crate::gateway) async fn serve(shared: Arc<Shared>, accepted: tls::Accepted, drain: Watch) {
    let tls::Accepted { peer, stream, lease, .. } = accepted;
    // Nothing tells an idle one from one in use, so each takes a place for as long as it lasts.
    let Some(_place) = shared.guests.seat(peer.cluster()) else { return };
    let gauge = shared.udp.metrics.connections.with_label_values(&[Direction::Inbound.as_str()]);
    gauge.inc();
    let line = Arc::new(Line::new(peer.cluster().clone()));
    let conn = shared.datagrams(stream, peer.clone());
    line.queue.control(&Control::Ready(Ready { replica: shared.replica }));
    let Listed { live, .. } = &shared.streams.list(Some(peer), live::Way::In, None);
    // Listed first: whoever announces, cuts or revokes after this tells the connection itself.
    if drain.phase() == Phase::Forced {
        live.tell(Order::Cut(Cut::Shutdown));
    }
    shared.cut_if_revoked(live);
    let acceptor = Acceptor::default();
    let mut serving = Serving { shared, conn, line, acceptor, drain, announced: false };
    let mut readers = JoinSet::new();
    let end = serving.run(live, &mut readers).await;
    let Serving { shared, conn, line, .. } = serving;
    shared.end_line(&line, end);
    gauge.dec();
    conn.close(&line.queue).await;
    readers.shutdown().await;
    drop(lease);
}

impl Serving {
    async fn run(&mut self, live: &Live, readers: &mut JoinSet<()>) -> End {
        let mut looks_in_drain = 0;
        loop {
            self.announce();
            tokio::select! {
                stepped = self.step(live) => match stepped {
                    Ok(begun) => {
                        let is_busy = begun.len() >= BATCH;
                        for (id, answering) in begun {
                            let (shared, line) = (Arc::clone(&self.shared), Arc::clone(&self.line));
                            readers.spawn(shared.hear_backend(line, id, answering));
                        }
                        if is_busy {
                            tokio::task::yield_now().await;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(peer = %self.line.peer, %error, "datagram connection ended");
                        return End::PeerLost;
                    }
                },
                order = live.ordered() => match order {
                    Order::Ask => self.line.queue.control(&Control::Ping(PING)),
                    Order::Drain | Order::Look => {}
                    Order::Cut(cut) => return End::Cut(cut),
                },
                Some(ended) = readers.join_next() => self.shared.note_panic(ended),
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let idle = self.line.sessions() == 0;
                    looks_in_drain += u32::from(self.drain.phase() >= Phase::Draining);
                    // One look more for what crossed the announcement.
                    if idle && (looks_in_drain > 1 || self.conn.is_expired(clock::wall())) {
                        return End::Closed;
                    }
                }
            }
        }
    }

    fn announce(&mut self) {
        if !self.announced && self.drain.phase() >= Phase::Announced {
            self.announced = true;
            self.line.queue.control(&Control::Drain);
        }
    }

    /// Reads and writes until sessions began.
    async fn step(&mut self, live: &Live) -> Result<Vec<Begun>, Error> {
        let Self { shared, conn, line, acceptor, drain, .. } = self;
        let mut begun = Vec::new();
        poll_fn(|cx| {
            let mut asked = 0;
            let draining = drain.phase() >= Phase::Draining;
            let polled = conn.poll(cx, &line.queue, |frame| {
                match acceptor.on(frame)? {
                    AcceptorEvent::Open(id, open) => {
                        asked += 1;
                        let accepted = shared.accept_session(line, id, &open, draining);
                        let verdict = accepted.as_ref().err().copied();
                        let verdict = verdict.unwrap_or(Verdict::Accepted);
                        let reply = Reply { stream: id.into(), verdict };
                        line.queue.control(&Control::Reply(reply));
                        match accepted {
                            Ok(answering) => begun.push((id, answering)),
                            Err(verdict) => {
                                let (peer, end) = (line.peer.as_str(), End::Refused(verdict));
                                shared.udp.metrics.ended(Direction::Inbound, peer, end);
                            }
                        }
                    }
                    AcceptorEvent::Datagram(id, datagram) => {
                        shared.to_backend(line, id, datagram);
                    }
                    AcceptorEvent::Ended(id) => {
                        shared.end_export(line, id, End::PeerEnded);
                    }
                    AcceptorEvent::Ping(number) => line.queue.control(&Control::Pong(number)),
                    AcceptorEvent::Nothing => {}
                }
                Ok(if asked < BATCH { Flow::On } else { Flow::Pause })
            });
            live.heard_at(conn.heard);
            match polled {
                Poll::Ready(error) => Poll::Ready(Err(error)),
                Poll::Pending if begun.is_empty() => Poll::Pending,
                Poll::Pending => Poll::Ready(Ok(std::mem::take(&mut begun))),
            }
        })
        .await
    }
}
