//! The backend's end of a session: one connected socket, so that only the backend's answers are
//! heard and its refusals are.

use std::io;
use std::net::SocketAddr;

use rand::RngExt;
use rustix::io::Errno;
use rustix::net::SendFlags;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::metrics::Dropped;
use crate::catalog::Backend;
use crate::gateway::affinity::{Client, Name};
use crate::gateway::backend::is_own_shortage as is_shortage;
use crate::gateway::descriptors::SessionPlace;
use crate::gateway::memory::with_scratch;
use crate::wire::frame::Verdict;

/// Backends tried for one session; only what this machine can tell at once is a failure.
const TRIES: usize = 3;
/// What a reader waits for.
const INTEREST: Interest = Interest::READABLE.add(Interest::ERROR);
/// Asked of the kernel for a backend's bursts; it gives what `net.core.rmem_max` allows.
const BUFFER_OCTETS: usize = 1024 * 1024;
/// Datagrams read in one turn.
const BATCH: usize = 32;

/// A session's socket, with its place among the descriptors.
#[derive(Debug)]
pub(super) struct Outlet {
    /// Connected to the backend.
    pub(super) socket: UdpSocket,
    _place: SessionPlace,
}

impl Outlet {
    /// A socket that has a place.
    pub(super) fn new(socket: UdpSocket, place: SessionPlace) -> Self {
        Self { socket, _place: place }
    }
}

/// Connects a socket to one of `backends`: at random, or for a client that is to be kept to one
/// the same each time, whichever replica is asked, as long as that backend is there.
pub(super) fn connect(
    backends: &[Backend],
    is_allowed: impl Fn(&Backend) -> bool,
    kept: Option<Client>,
) -> Result<UdpSocket, Verdict> {
    let all = backends.iter().filter(|backend| is_allowed(backend));
    let mut left: Vec<SocketAddr> = all.map(|backend| backend.address).collect();
    let mut verdict = Verdict::NoEndpoint;
    for _ in 0..TRIES.min(left.len()) {
        let address = left.swap_remove(choose(&left, kept));
        match open(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => {
                tracing::debug!(%address, %error, "cannot send to a backend");
                if is_own_shortage(&error) {
                    verdict = Verdict::Overloaded;
                }
            }
        }
    }
    Err(verdict)
}

/// A place in `left`, which is not empty. By the highest hash, so that a backend that goes moves
/// only its own clients.
fn choose(left: &[SocketAddr], kept: Option<Client>) -> usize {
    let Some(client) = kept else { return rand::rng().random_range(0..left.len()) };
    let score = |place: &usize| client.score(Name::of_backend(left[*place]));
    (0..left.len()).max_by_key(score).unwrap_or_default()
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(BUFFER_OCTETS)?;
    socket.connect(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Our trouble, never the backend's; for datagrams the system has more words for it.
fn is_own_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    is_shortage(error) || matches!(errno, Some(Errno::AGAIN | Errno::ADDRINUSE))
}

/// Sends to a backend without waiting. That it refused is told to whoever reads its answers. Past
/// the runtime, which takes a socket for writable only after it has asked the kernel once.
pub(super) fn send(socket: &UdpSocket, datagram: &[u8]) -> Option<Dropped> {
    let send = || rustix::net::send(socket, datagram, SendFlags::DONTWAIT);
    match send() {
        Ok(_) => None,
        // The refusal of an earlier datagram stands in the way once; this one is sent after it.
        Err(Errno::CONNREFUSED) => send().err().map(|_| Dropped::Socket),
        Err(_) => Some(Dropped::Socket),
    }
}

/// How reading from a backend ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Its port is closed, or there is no way to it.
    Refused,
    /// Nobody wants its answers any more.
    Unwanted,
}

/// Whether answers are still wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Yes,
    No,
}

/// Hands every answer of the backend to `deliver`, in order.
pub(super) async fn answers(
    socket: &UdpSocket,
    mut deliver: impl FnMut(&[u8]) -> Wanted,
) -> Stopped {
    loop {
        // A refusal alone makes a socket not readable.
        let Ok(ready) = socket.ready(INTEREST).await else { return Stopped::Refused };
        if ready.is_error() && is_refused(socket) {
            return Stopped::Refused;
        }
        match with_scratch(|scratch| batch(socket, scratch, &mut deliver)) {
            Some(stopped) => return stopped,
            None => tokio::task::yield_now().await,
        }
    }
}

/// Takes the error that made the socket ready, unless a sender has taken it.
fn is_refused(socket: &UdpSocket) -> bool {
    let taken = socket.try_io(Interest::ERROR, || match socket.take_error()? {
        Some(error) => Ok(error),
        None => Err(io::ErrorKind::WouldBlock.into()),
    });
    taken.is_ok()
}

fn batch(
    socket: &UdpSocket,
    scratch: &mut [u8],
    deliver: &mut impl FnMut(&[u8]) -> Wanted,
) -> Option<Stopped> {
    for _ in 0..BATCH {
        match socket.try_recv(scratch) {
            Ok(octets) => {
                if deliver(&scratch[..octets]) == Wanted::No {
                    return Some(Stopped::Unwanted);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) => {
                tracing::debug!(%error, "a backend refused a datagram");
                return Some(Stopped::Refused);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_client_stays_and_a_backend_that_goes_moves_only_its_own() {
        let backends: Vec<SocketAddr> = (1..=5).map(|n| ([10, 0, 0, n], 53).into()).collect();
        let fewer = &backends[..4];
        let clients = (0..=255).map(|n| Client::of([192, 0, 2, n].into()));
        let mut used = [0; 5];
        for client in clients {
            let place = choose(&backends, Some(client));
            used[place] += 1;
            assert_eq!(choose(&backends, Some(client)), place);
            if place < fewer.len() {
                assert_eq!(choose(fewer, Some(client)), place);
            }
        }
        assert!(used.iter().all(|count| *count > 20), "{used:?}");
    }
}
