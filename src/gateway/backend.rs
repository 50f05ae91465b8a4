//! Dialling a local backend: of an exported service, never anything else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use smallvec::SmallVec;
use tokio::net::TcpStream;

use super::affinity::Client;
use super::load::{Place, Seat, Wanted};
use super::{Shared, ends, proxy};
use crate::catalog::{LocalExport, ProxyProtocol, SessionAffinity};
use crate::clock;
use crate::model::{HostLabel, PortKey, ServiceKey, canonical};
use crate::routes::RouteTable;
use crate::wire::frame::Verdict;

/// A dial that was given less time than this says nothing about the backend.
const LEAST_PATIENCE: Duration = Duration::from_millis(500);

/// No backend in reach needs so long to take a connection; importers turn away after it.
const SILENT: Duration = Duration::from_millis(250);

/// A backend that took the connection, with what counts the stream.
#[derive(Debug)]
pub(super) struct Backed {
    /// The connection.
    pub(super) socket: TcpStream,
    /// The stream at its backend.
    pub(super) seat: Seat,
    /// The stream in its service.
    pub(super) place: Place,
}

/// A dial under way. Whoever asked may turn to somebody else meanwhile; a backend that was silent
/// for so long by then is as bad as one that was waited for to the end.
struct Dialling(Option<(Seat, Instant)>);

impl Dialling {
    fn new(seat: Seat) -> Self {
        Self(Some((seat, clock::now())))
    }

    /// It was waited for to its end.
    fn over(mut self) -> Option<Seat> {
        self.0.take().map(|(seat, _)| seat)
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        if let Some((seat, since)) = self.0.take()
            && clock::now().saturating_duration_since(since) >= SILENT
        {
            seat.went_wrong();
        }
    }
}

/// A stream that wants a backend.
#[derive(Debug, Clone, Copy)]
pub(super) struct Errand<'a> {
    /// The service.
    pub(super) key: &'a ServiceKey,
    /// Its port.
    pub(super) port: PortKey,
    /// The one pod of a headless service that it is to be.
    pub(super) pod: Option<&'a HostLabel>,
    /// The client, as its own cluster vouches for it.
    pub(super) client: Option<SocketAddr>,
    /// Backends that are tried.
    pub(super) tries: u32,
    /// For all of them together.
    pub(super) time: Duration,
}

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

    /// Connects to a backend of the own export, each tried at most once. What the backend is to
    /// hear before the client's bytes is written.
    pub(super) async fn connect_backend(
        &self,
        table: &RouteTable,
        errand: Errand<'_>,
    ) -> Result<Backed, Verdict> {
        let Errand { key, port, pod, client, tries, time } = errand;
        let export = table.local_export(key).ok_or(Verdict::NoEndpoint)?;
        let place = self.loads.admit(key, export.most_streams).ok_or(Verdict::Overloaded)?;
        let stays = client.filter(|_| keeps_clients(table, export));
        let stays = stays.map(|from| Client::of(from.ip()));
        let wanted = Wanted { key, port, export, revision: table.revision, stays };
        let patience = time / tries.max(1);
        let mut tried: SmallVec<[SocketAddr; 4]> = SmallVec::new();
        let mut verdict = Verdict::NoEndpoint;
        for _ in 0..tries {
            let fits = |address| {
                !tried.contains(&address)
                    && self.is_backend(table, address)
                    && pod.is_none_or(|pod| is_of_pod(export, port, pod, address))
            };
            let Some(seat) = self.loads.seat(wanted, fits) else { break };
            let address = seat.address;
            tried.push(address);
            let dialling = Dialling::new(seat);
            let dialled = tokio::time::timeout(patience, TcpStream::connect(address)).await;
            let Some(seat) = dialling.over() else { break };
            match dialled {
                Ok(Ok(socket)) => match greet(&socket, export, client, address) {
                    Ok(()) => return Ok(Backed { socket, seat, place }),
                    Err(error) => {
                        tracing::debug!(%address, %error, "a backend took no greeting");
                        seat.went_wrong();
                    }
                },
                Ok(Err(error)) if is_own_shortage(&error) => {
                    tracing::debug!(%address, %error, "this machine cannot dial a backend");
                    verdict = Verdict::Overloaded;
                }
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "a backend refused");
                    seat.went_wrong();
                }
                Err(_) => {
                    tracing::debug!(%address, "a backend did not answer in time");
                    if patience >= LEAST_PATIENCE {
                        seat.went_wrong();
                    }
                }
            }
        }
        Err(verdict)
    }
}

/// Whether a backend is that pod's, which has one per family.
fn is_of_pod(export: &LocalExport, port: PortKey, pod: &HostLabel, address: SocketAddr) -> bool {
    let backends = export.backends.get(&port).map(Vec::as_slice).unwrap_or_default();
    backends.iter().any(|of| of.address == address && of.hostname.as_ref() == Some(pod))
}

/// Whether a client's streams all go to one backend: as the import has it, which all clusters see
/// alike.
pub(super) fn keeps_clients(table: &RouteTable, export: &Arc<LocalExport>) -> bool {
    let route = table.services.get(&export.export.key);
    let affinity = route.map_or(export.export.session_affinity, |route| route.session_affinity);
    matches!(affinity, SessionAffinity::ClientIp { .. })
}

/// Sets the socket's options and tells the backend who the client is, where it is to be told.
fn greet(
    socket: &TcpStream,
    export: &LocalExport,
    client: Option<SocketAddr>,
    backend: SocketAddr,
) -> io::Result<()> {
    if let Err(error) = ends::prepare(socket) {
        tracing::debug!(%backend, %error, "cannot set the options of a backend");
    }
    match export.export.settings.proxy_protocol {
        ProxyProtocol::None => Ok(()),
        ProxyProtocol::V2 => {
            let header = proxy::header(client, backend);
            // A fresh connection has room for 52 octets.
            let written = socket.try_write(&header)?;
            if written == header.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
        }
    }
}

/// No local port or descriptor: our trouble, never the backend's.
pub(super) fn is_own_shortage(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        code,
        Some(Errno::ADDRNOTAVAIL | Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_machine_lacks_is_no_fault_of_the_backend() {
        let is_ours = |errno: Errno| is_own_shortage(&errno.into());
        for ours in [Errno::ADDRNOTAVAIL, Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(is_ours(ours), "{ours}");
        }
        for theirs in [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::CONNRESET, Errno::TIMEDOUT] {
            assert!(!is_ours(theirs), "{theirs}");
        }
        assert!(!is_own_shortage(&io::ErrorKind::WriteZero.into()));
    }
}
