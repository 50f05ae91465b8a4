//! Socket options of the connections between gateways.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::Stream;

/// Silence before the first keepalive.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// Between keepalives.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// Unanswered keepalives that end a connection.
const KEEPALIVE_PROBES: u32 = 3;

/// TCP_NODELAY and keepalive.
pub(super) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    SockRef::from(socket).set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_EVERY)
            .with_retries(KEEPALIVE_PROBES),
    )
}

/// How long unacknowledged bytes may wait before the kernel ends the connection; `None` leaves
/// it to the kernel (open streams: a paused reader is alive).
pub fn set_user_timeout(stream: &Stream, timeout: Option<Duration>) -> io::Result<()> {
    SockRef::from(stream.get_ref().0).set_tcp_user_timeout(timeout)
}
