//! TCP: the accept loop, of plain connections and of those over TLS.
//!
//! Invariants: it never waits for a connection; at a cap a connection is closed within the same
//! turn, since a resolver that is turned away quickly asks the next server, while one that waits
//! keeps its client waiting; no error ends it, and one that lasts (no descriptors) is tried again
//! a few times a second.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};

use super::connection::Connection;
use super::dot;
use super::metrics::Metrics;
use super::respond::Transport;
use super::shared::Shared;
use super::slots::Slot;
use crate::clock;
use crate::drain::{Phase, Watch};
use crate::telemetry::Throttle;
use crate::tls::ServerCertificate;

/// The pause after a failed accept (out of descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between log lines about failing accepts.
const ACCEPT_LOG_EVERY: Duration = Duration::from_secs(10);

/// What is spoken at a listener.
#[derive(Debug, Clone)]
pub(super) enum Door {
    /// DNS as it is.
    Plain,
    /// TLS first, with this certificate.
    Tls(Arc<ServerCertificate>),
}

/// Accepts until the drain; then waits for the connections, and cuts them when it is forced.
pub(super) async fn serve(listener: TcpListener, door: Door, shared: Arc<Shared>, drain: Watch) {
    let connections = JoinSet::new();
    let brake = Throttle::new(ACCEPT_LOG_EVERY);
    let mut reception = Reception { connections, door, shared, drain: drain.clone(), brake };
    reception.accept(&listener, drain.clone()).await;
    drop(listener);
    reception.close(drain).await;
}

/// What connections are made of, and the connections.
struct Reception {
    connections: JoinSet<()>,
    door: Door,
    shared: Arc<Shared>,
    drain: Watch,
    brake: Throttle,
}

impl Reception {
    /// Takes whoever comes, until the drain.
    async fn accept(&mut self, listener: &TcpListener, mut drain: Watch) {
        let mut ending = pin!(drain.reached(Phase::Draining));
        loop {
            let failed = poll_fn(|cx| match ending.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => self.admit(listener, cx).map(Some),
            });
            let Some(error) = failed.await else { return };
            self.shared.metrics.socket_error();
            if let Some(unsaid) = self.brake.pass(clock::now()) {
                tracing::warn!(
                    %error, unsaid,
                    "cannot accept dns connections; trying on; raise the descriptor limit (ulimit -n)"
                );
            }
            tokio::select! {
                () = &mut ending => return,
                () = tokio::time::sleep(ACCEPT_PAUSE) => {}
            }
        }
    }

    /// Takes all that wait; ready with an error that needs time.
    fn admit(&mut self, listener: &TcpListener, cx: &mut Context<'_>) -> Poll<io::Error> {
        while let Poll::Ready(Some(ended)) = self.connections.poll_join_next(cx) {
            note_end(&self.shared.metrics, ended);
        }
        loop {
            match listener.poll_accept(cx) {
                Poll::Ready(Ok((stream, remote))) => {
                    // Without a place it is closed here and now.
                    if let Some(slot) = self.shared.slots.take(remote.ip()) {
                        self.spawn(stream, remote, slot);
                    }
                }
                // The client, or the way to it, went away between its handshake and our accept.
                Poll::Ready(Err(error)) if is_gone(&error) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn spawn(&mut self, stream: TcpStream, remote: SocketAddr, slot: Slot) {
        let (shared, drain) = (Arc::clone(&self.shared), self.drain.clone());
        match &self.door {
            Door::Plain => {
                let of = remote.ip();
                let connection = Connection::new(stream, Transport::Tcp, of, slot, shared);
                self.connections.spawn(connection.serve(drain));
            }
            Door::Tls(certificate) => {
                let caller = dot::Caller { stream, source: remote.ip(), slot };
                let config = certificate.config();
                self.connections.spawn(dot::serve(caller, config, shared, drain));
            }
        }
    }

    /// Waits for the connections; what is left when the drain is forced is cut.
    async fn close(mut self, mut drain: Watch) {
        loop {
            tokio::select! {
                () = drain.reached(Phase::Forced) => return,
                ended = self.connections.join_next() => match ended {
                    Some(ended) => note_end(&self.shared.metrics, ended),
                    None => return,
                }
            }
        }
    }
}

/// Errors of one connection that accept tells, as accept(2) lists them.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}

fn note_end(metrics: &Metrics, ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        metrics.panicked();
        tracing::error!(%error, "a dns connection died; this is a bug, report it with the log");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn p13_a_panic_in_one_connection_is_counted_and_ends_no_other() {
        let registry = prometheus::Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let mut connections = JoinSet::new();
        connections.spawn(async { assert!(std::hint::black_box(false), "on purpose") });
        connections.spawn(async {});
        while let Some(ended) = connections.join_next().await {
            note_end(&metrics, ended);
        }
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains("portolan_panics_total{component=\"dns\"} 1"), "{text}");
    }
}
