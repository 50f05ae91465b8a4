//! Dialling a local backend: of an exported service, never anything else.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rustix::io::Errno;
use tokio::net::TcpStream;

use super::{Shared, ends};
use crate::catalog::Backend;
use crate::model::canonical;
use crate::routes::RouteTable;
use crate::wire::frame::Verdict;

impl Shared {
    /// Whether an address that a manifest names may be dialled: never a clusterset address, a
    /// peer's gateway or a listener of our own, which would loop or open what is not exported.
    pub(super) fn is_backend(&self, table: &RouteTable, address: SocketAddr) -> bool {
        let is_ours = |listener: &SocketAddr| {
            let everywhere = listener.ip().is_unspecified() && address.ip().is_loopback();
            listener.port() == address.port() && (listener.ip() == address.ip() || everywhere)
        };
        !table.vips.contains_key(&address.ip())
            && !self.gateways.borrow().contains(&canonical(address.ip()))
            && !self.listeners.iter().any(is_ours)
            && !table.peers.values().any(|peer| peer.addresses.contains(&address))
    }
}

/// Connects to one of `backends`, each picked at random and at most once, `tries` in all and all
/// within `time`.
pub(super) async fn connect(
    backends: &[Backend],
    is_allowed: impl Fn(SocketAddr) -> bool,
    tries: u32,
    time: Duration,
) -> Result<TcpStream, Verdict> {
    let mut left: Vec<SocketAddr> =
        backends.iter().map(|backend| backend.address).filter(|a| is_allowed(*a)).collect();
    let each = time / tries.max(1);
    let mut verdict = Verdict::NoEndpoint;
    for _ in 0..tries {
        if left.is_empty() {
            break;
        }
        let address = left.swap_remove(rand::rng().random_range(0..left.len()));
        match tokio::time::timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                if let Err(error) = ends::prepare(&socket) {
                    tracing::debug!(%address, %error, "cannot set the options of a backend");
                }
                return Ok(socket);
            }
            Ok(Err(error)) if is_own_shortage(&error) => verdict = Verdict::Overloaded,
            Ok(Err(error)) => tracing::debug!(%address, %error, "a backend refused"),
            Err(_) => tracing::debug!(%address, "a backend did not answer in time"),
        }
    }
    Err(verdict)
}

/// No local port or descriptor: our trouble, never the backend's.
fn is_own_shortage(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        code,
        Some(Errno::ADDRNOTAVAIL | Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}
