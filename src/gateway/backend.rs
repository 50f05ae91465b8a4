//! Dialling a local backend: of an exported service, never anything else.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rustix::io::Errno;
use tokio::net::TcpStream;

use super::ends;
use crate::catalog::Backend;
use crate::wire::frame::Verdict;

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
