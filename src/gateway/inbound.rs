//! Peers' connections: accepted here, each served by a [`session`](super::session) of its own, or
//! by [`udp`](super::udp) where it carries datagrams.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use super::live::{Cut, Order, Way};
use super::{Gateway, Shared, session, udp};
use crate::drain::{Phase, Watch};
use crate::tls;

impl Gateway {
    /// Serves peers' data and datagram connections until the drain's end: announced to peers first, then no
    /// new streams, then what is left is reset.
    pub async fn run_inbound(self, mut accepted: mpsc::Receiver<tls::Accepted>, drain: Watch) {
        let shared = self.shared;
        let mut sessions = JoinSet::new();
        let (mut announce, mut force) = (drain.clone(), drain.clone());
        let (mut announced, mut closed) = (false, false);
        loop {
            if closed && sessions.is_empty() {
                return;
            }
            tokio::select! {
                connection = accepted.recv(), if !closed => match connection {
                    Some(connection) => {
                        let (shared, drain) = (Arc::clone(&shared), drain.clone());
                        if connection.kind == tls::Kind::Udp {
                            sessions.spawn(udp::serve(shared, connection, drain));
                        } else {
                            sessions.spawn(session::serve(shared, connection, drain));
                        }
                    }
                    None => closed = true,
                },
                Some(ended) = sessions.join_next() => shared.note_panic(ended),
                () = announce.reached(Phase::Announced), if !announced => {
                    announced = true;
                    shared.streams.tell(Order::Drain, |live| live.way == Way::In);
                }
                () = force.reached(Phase::Forced) => break,
            }
        }
        shared.streams.tell(Order::Cut(Cut::Shutdown), |live| live.way == Way::In);
        while let Some(ended) = sessions.join_next().await {
            shared.note_panic(ended);
        }
    }
}

impl Shared {
    /// A panic ends one connection only, and is counted.
    pub(super) fn note_panic(&self, ended: Result<(), JoinError>) {
        if ended.is_err_and(|error| error.is_panic()) {
            self.metrics.panics.inc();
            tracing::error!("a task of one connection panicked; please report it");
        }
    }
}
