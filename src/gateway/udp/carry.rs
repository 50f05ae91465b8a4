//! The life of one lane: frames in and out, pings, and its end.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::conn::{self, Conn, Flow};
use super::lane::Lane;
use super::metrics::End;
use crate::clock;
use crate::gateway::Shared;
use crate::gateway::live::{self, Listed, Order};
use crate::gateway::metrics::Direction;
use crate::wire::datagram::{Frame, OpenerEvent};
use crate::wire::frame::Control;

/// Between looks at silence, expiry and idleness.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Silence after which a lane is pinged.
const PING_AFTER: Duration = Duration::from_secs(10);
/// Silence that ends it.
const SILENCE: Duration = Duration::from_secs(20);
/// A lane without a session is closed after this.
const IDLE: Duration = Duration::from_secs(60);
/// Number of the pings sent here.
const PING: u64 = 1;

/// What a lane's looks find.
enum Found {
    Fine,
    Over(Option<End>),
}

impl Shared {
    /// Carries sessions until the connection is lost, ended or not needed any more.
    pub(super) async fn run_lane(self: Arc<Self>, lane: Arc<Lane>, mut conn: Conn) {
        let gauge = self.udp.metrics.connections.with_label_values(&[Direction::Outbound.as_str()]);
        gauge.inc();
        let way = live::Way::Out(lane.target.clone());
        let Listed { live, .. } = &self.streams.list(Some(conn.peer.clone()), way, None);
        self.cut_if_late(live);
        let mut used = clock::now();
        let end = loop {
            tokio::select! {
                error = poll_fn(|cx| {
                    let polled = conn.poll(cx, &lane.queue, |frame| self.on_frame(&lane, frame));
                    live.heard_at(conn.heard);
                    polled
                }) => {
                    tracing::debug!(peer = %lane.target.peer, %error, "datagram connection lost");
                    break Some(End::PeerLost);
                }
                order = live.ordered() => match order {
                    Order::Ask => lane.queue.control(&Control::Ping(PING)),
                    Order::Drain | Order::Look => {}
                    Order::Cut(cut) => break Some(End::Cut(cut)),
                },
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if let Found::Over(end) = self.look(&lane, &conn, &mut used) {
                        break end;
                    }
                }
            }
        };
        lane.end();
        self.udp.lanes.remove(&lane);
        self.lane_ended(&lane, end.unwrap_or(End::Idle));
        gauge.dec();
        conn.close(&lane.queue).await;
    }

    fn look(&self, lane: &Lane, conn: &Conn, used: &mut Instant) -> Found {
        let now = clock::now();
        if conn.is_expired(clock::wall()) {
            lane.retire();
        }
        let silence = now.saturating_duration_since(conn.heard);
        if lane.sessions() > 0 {
            *used = now;
        } else if !lane.is_open() || now.saturating_duration_since(*used) >= IDLE {
            return Found::Over(None);
        }
        if silence >= SILENCE {
            return Found::Over(Some(End::PeerLost));
        }
        if silence >= PING_AFTER {
            lane.queue.control(&Control::Ping(PING));
        }
        Found::Fine
    }

    fn on_frame(&self, lane: &Arc<Lane>, frame: Frame<'_>) -> Result<Flow, conn::Error> {
        let mut talk = lane.talk();
        match talk.opener.on(frame)? {
            OpenerEvent::Reply(id, verdict) => talk.decide(id, verdict),
            OpenerEvent::Datagram(id, datagram) => {
                drop(talk);
                self.answered((lane.number, id), datagram);
            }
            OpenerEvent::Ended(id) => {
                talk.ended(id);
                drop(talk);
                self.peer_ended((lane.number, id));
            }
            OpenerEvent::Drain => {
                drop(talk);
                self.note_replica_draining(&lane.target);
            }
            OpenerEvent::Ping(number) => lane.queue.control(&Control::Pong(number)),
            OpenerEvent::Ready(_) | OpenerEvent::Nothing => {}
        }
        Ok(Flow::On)
    }
}
