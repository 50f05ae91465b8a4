//! DNS over TLS (RFC 7858): its listeners, and the handshake before a [`Connection`].
//!
//! Slots, limits and frames are those of TCP; a handshake holds a place and has a deadline of its
//! own, and the time to the first query begins behind it. Clients show no certificate: who may
//! ask, the access list says.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::connection::Connection;
use super::respond::Transport;
use super::server::{Error, Server, listen_tcp};
use super::shared::Shared;
use super::slots::Slot;
use crate::drain::{Phase, Watch};
use crate::tls::ServerCertificate;

/// The protocol that is negotiated where a client names any (RFC 7858, section 3.1).
pub const ALPN: &[u8] = b"dot";

/// For the whole handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Encrypted octets that may wait within a connection.
const BUFFER_OCTETS: usize = 16 << 10;

/// Listeners with what they show.
#[derive(Debug)]
pub(super) struct Secure {
    pub(super) listeners: Vec<(SocketAddr, TcpListener)>,
    pub(super) certificate: Arc<ServerCertificate>,
}

impl Server {
    /// Listens on these addresses too, over TLS alone; the certificate is asked for at every
    /// handshake, and its owner keeps it current. Must be called within the runtime.
    ///
    /// # Errors
    /// Names the address that cannot be had.
    pub fn with_tls(
        mut self,
        listen: &[SocketAddr],
        certificate: Arc<ServerCertificate>,
    ) -> Result<Self, Error> {
        let bind = |address: &SocketAddr| {
            let listener = listen_tcp(*address)?;
            Ok((listener.local_addr()?, listener))
        };
        let mut listeners = Vec::new();
        for address in listen {
            let fault = |source| Error::BindTls { address: *address, source };
            listeners.push(bind(address).map_err(fault)?);
        }
        self.secure = Some(Secure { listeners, certificate });
        Ok(self)
    }

    /// The addresses bound for TLS, in the order given.
    #[must_use]
    pub fn tls_addrs(&self) -> Vec<SocketAddr> {
        let listeners = self.secure.iter().flat_map(|secure| &secure.listeners);
        listeners.map(|(address, _)| *address).collect()
    }
}

/// A connection that was let in.
pub(super) struct Caller {
    pub(super) stream: TcpStream,
    pub(super) source: IpAddr,
    pub(super) slot: Slot,
}

/// Shakes hands, then serves as over TCP.
pub(super) async fn serve(
    caller: Caller,
    config: Arc<ServerConfig>,
    shared: Arc<Shared>,
    mut drain: Watch,
) {
    let Caller { stream, source, slot } = caller;
    // Its state is large, and gone after the handshake.
    let handshake = Box::pin(timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)));
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        // It has asked nothing yet.
        () = drain.reached(Phase::Draining) => return,
    };
    let Ok(Ok(mut stream)) = shaken else {
        shared.metrics.handshake_failed();
        return tracing::debug!(%source, "a dns client ended in its handshake: {:?}", shaken.err());
    };
    stream.get_mut().1.set_buffer_limit(Some(BUFFER_OCTETS));
    Connection::new(stream, Transport::Tls, source, slot, shared).serve(drain).await;
}
