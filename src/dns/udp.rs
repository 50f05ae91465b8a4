//! The UDP sockets of one address.
//!
//! As many as there are processors: the kernel spreads clients over them (`SO_REUSEPORT`), and each
//! is a lane that answers by itself, on a thread of its own ([`lane`]) or on the runtime
//! ([`portable`]). An address that somebody else has is refused even if he would share it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::batch::{Batch, Wait};
use super::shared::Shared;
use super::{lane, portable};
use crate::drain::Watch;

/// How UDP sockets are driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Io {
    /// [`Io::Batch`] where the kernel lets us; some sandboxes refuse its calls.
    #[default]
    Auto,
    /// A thread per socket, and one call of the system for up to 32 datagrams.
    Batch,
    /// The runtime's sockets, one call per datagram. Behind a wildcard address the kernel chooses
    /// the source of an answer by route.
    Portable,
}

/// Sockets of one address at most: more than that is more than this server's cost needs.
const MAX_LANES: usize = 8;
/// The buffer asked for each way, octets: at 100 000 queries a second a pause of a few
/// milliseconds overflows the usual 212 992.
const BUFFER_OCTETS: usize = 4 << 20;

/// The bound sockets of one address.
#[derive(Debug)]
pub(super) struct Sockets {
    address: SocketAddr,
    /// What the kernel grants each, octets.
    receive_buffer: usize,
    lanes: Lanes,
}

#[derive(Debug)]
enum Lanes {
    Batch(Vec<Socket>),
    Portable(Vec<UdpSocket>),
}

/// As many sockets as there are processors to read them.
pub(super) fn lanes() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MAX_LANES)
}

impl Sockets {
    /// Binds that many sockets to one address, or none. Must be called within a runtime.
    pub(super) fn bind(address: SocketAddr, io: Io, lanes: usize) -> io::Result<Self> {
        let io = match io {
            Io::Auto if can_batch(address).unwrap_or(false) => Io::Batch,
            Io::Auto => Io::Portable,
            Io::Batch if !can_batch(address)? => {
                return Err(io::Error::other(
                    "this system does not let recvmmsg through; set dns.io to portable or auto",
                ));
            }
            given => given,
        };
        let sockets = open(address, io, lanes)?;
        // The kernel reports twice what it grants for payload.
        let receive_buffer = sockets[0].recv_buffer_size()? / 2;
        let lanes = if io == Io::Portable {
            let into_tokio = |socket: Socket| {
                socket.set_nonblocking(true)?;
                UdpSocket::from_std(socket.into())
            };
            Lanes::Portable(sockets.into_iter().map(into_tokio).collect::<io::Result<_>>()?)
        } else {
            Lanes::Batch(sockets)
        };
        Ok(Self { address, receive_buffer, lanes })
    }

    /// Starts the lanes: each a task that ends at the drain, when everything that had come is
    /// answered, and that panics if its thread does.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(
        self,
        shared: &Arc<Shared>,
        drain: &Watch,
        tasks: &mut JoinSet<()>,
    ) -> io::Result<()> {
        let Self { address, receive_buffer, lanes } = self;
        let (io, count) = match &lanes {
            Lanes::Batch(sockets) => ("batch", sockets.len()),
            Lanes::Portable(sockets) => ("portable", sockets.len()),
        };
        tracing::info!(%address, io, lanes = count, receive_buffer, "dns is listening");
        if receive_buffer < BUFFER_OCTETS {
            tracing::info!(
                %address,
                receive_buffer,
                wanted = BUFFER_OCTETS,
                "the receive buffer is smaller than asked for; raise net.core.rmem_max for bursts"
            );
        }
        match lanes {
            Lanes::Batch(sockets) => {
                for socket in sockets {
                    tasks.spawn(lane::start(socket, shared)?.until(drain.clone()));
                }
            }
            Lanes::Portable(sockets) => {
                if address.ip().is_unspecified() {
                    tracing::warn!(
                        %address,
                        "answers may leave from another address than was asked if this machine has \
                         several; list its addresses in dns.listen, or leave dns.io at auto"
                    );
                }
                for socket in sockets {
                    tasks.spawn(portable::serve(socket, Arc::clone(shared), drain.clone()));
                }
            }
        }
        Ok(())
    }
}

/// Whether a batch can be received at all, tried on a socket that nothing comes to.
fn can_batch(address: SocketAddr) -> io::Result<bool> {
    let socket = unbound(address, Io::Batch)?;
    let tried = Batch::new().receive(socket.as_fd(), Wait::Not);
    Ok(tried.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
}

/// The sockets, blocking. The first is bound alone, so that an address somebody else has is
/// refused even if he would share it; only then is it shared.
fn open(address: SocketAddr, io: Io, lanes: usize) -> io::Result<Vec<Socket>> {
    let first = unbound(address, io)?;
    first.bind(&address.into())?;
    if lanes > 1 {
        first.set_reuse_port(true)?;
    }
    let mut sockets = vec![first];
    for _ in 1..lanes {
        let socket = unbound(address, io)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn unbound(address: SocketAddr, io: Io) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_recv_buffer_size(BUFFER_OCTETS)?;
    // Answers to a neighbour that is not there lie in it for seconds.
    socket.set_send_buffer_size(BUFFER_OCTETS)?;
    // A socket of one address answers from that one anyway.
    if address.ip().is_unspecified() && io != Io::Portable {
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    Ok(socket)
}

#[cfg(test)]
#[path = "tests/udp.rs"]
mod tests;
