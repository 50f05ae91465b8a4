//! Binding a socket for clients, and what helps where that fails.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::ends;

/// Connections the kernel holds for us.
const BACKLOG: i32 = 1024;

/// Listens on an address; on `[::]` for both families, or for IPv4 alone where the host has no
/// IPv6.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match bind(address) {
        Err(error) if address.ip().is_unspecified() && lacks_family(&error) => {
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        bound => bound,
    }
}

/// Whether the host has no address of that family.
pub(super) fn lacks_family(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted process gets its ports at once, whatever its predecessor left behind.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    ends::prepare(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What helps against a failed bind.
pub(super) fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ADDRINUSE) => "free the port: `ss -lntup` shows who has it",
        Some(Errno::ADDRNOTAVAIL) => {
            "give this host the address (`ip addr add ADDRESS dev lo`) or choose `vips` inside 127.0.0.0/8"
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            "ports below 1024 need CAP_NET_BIND_SERVICE or the sysctl net.ipv4.ip_unprivileged_port_start"
        }
        Some(Errno::MFILE | Errno::NFILE) => "raise the descriptor limit (LimitNOFILE)",
        _ => "see the error",
    }
}
