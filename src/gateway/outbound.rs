//! Clients' connections: accepted here, each served by a task of its own ([`client`](super::client)).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::listeners::{Listeners, Serves, Task};
use super::live::{Cut, Order, Way};
use super::{Gateway, Shared, bind};
use crate::drain::{Phase, Watch};
use crate::model::{Protocol, canonical};

/// Pause after the system had no descriptor for a client.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

impl Gateway {
    /// Listens for clients as [`Config::listen_on`](super::Config) says until the drain stops it,
    /// then lets open streams run to the deadline.
    pub async fn run_outbound(self, drain: Watch) {
        let shared = self.shared;
        let mut stop = drain.clone();
        if !shared.config.outbound {
            return stop.reached(Phase::Draining).await;
        }
        let gauge = shared.metrics.listeners.clone();
        let listeners = Listeners::new(shared, Protocol::Tcp, listen, gauge);
        listeners.run(drain).await.finish(stop).await;
    }
}

impl Shared {
    /// The drain's deadline has passed for clients.
    pub(super) fn force(&self) {
        self.forced.cancel();
        self.streams.tell(Order::Cut(Cut::Shutdown), |live| live.way != Way::In);
    }
}

fn listen(
    shared: &Arc<Shared>,
    address: SocketAddr,
    serves: Serves,
    stop: CancellationToken,
) -> io::Result<Task> {
    let listener = bind::listen(address)?;
    Ok(Box::pin(accept(Arc::clone(shared), listener, serves, stop)))
}

/// Accepts clients until told to stop, then waits for their streams.
async fn accept(
    shared: Arc<Shared>,
    listener: TcpListener,
    serves: Serves,
    stop: CancellationToken,
) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = clients.join_next() => shared.note_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((client, from)) => {
                    // Thousands of listeners share the permits, so one is taken only for a
                    // client that is there; the others of this port wait in the kernel.
                    let permit = tokio::select! {
                        Some(permit) = shared.places.client() => permit,
                        () = stop.cancelled() => break,
                    };
                    let (callee, port) = serves.clone();
                    // On a dual-stack socket an IPv4 client has a mapped address.
                    let from = SocketAddr::new(canonical(from.ip()), from.port());
                    let shared = Arc::clone(&shared);
                    // Made inside: a future that is handed in stays there beside the one awaited.
                    clients.spawn(async move {
                        shared.serve_client(client, from, callee, port).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "accepting failed");
                    tokio::time::sleep(SHORTAGE_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while let Some(ended) = clients.join_next().await {
        shared.note_panic(ended);
    }
}
