//! Honest ends of applications' connections: a FIN only where one was sent, a reset otherwise,
//! and what arrived before an abnormal end is delivered before it.

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Silence before the first keepalive to a client or backend.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// Between keepalives.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// Unanswered keepalives that end a connection.
const KEEPALIVE_PROBES: u32 = 3;
/// A receiver that takes nothing for so long does not get the rest before a reset.
const DELIVERY_STALL: Duration = Duration::from_secs(10);
/// How long sent bytes may need to leave the kernel before a reset.
const SETTLE_TIME: Duration = Duration::from_millis(500);
/// Between looks at that.
const SETTLE_STEP: Duration = Duration::from_millis(2);
/// What is read over before a connection closes whose other side may still send.
const LINGER_OCTETS: usize = 64 * 1024;
/// How long it is.
const LINGER_TIME: Duration = Duration::from_millis(200);

/// TCP_NODELAY and keepalive; and until [`close`] says otherwise the connection ends with a reset,
/// even where its task or the whole process dies: half an answer must never look like all of it.
/// A listener hands all of it on to what it accepts, at no cost per connection.
pub(super) fn prepare<'s>(socket: impl Into<SockRef<'s>>) -> io::Result<()> {
    let socket = socket.into();
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_EVERY)
            .with_retries(KEEPALIVE_PROBES),
    )
}

/// Sends FIN; an error means that the connection is broken, which reading will tell.
pub(super) fn finish(socket: &TcpStream) {
    let _told_by_reading = SockRef::from(socket).shutdown(Shutdown::Write);
}

/// Ends as agreed: both sides have sent their FIN, or what is left to send is still sent.
pub(super) fn close(socket: TcpStream) {
    // A failure means that it is broken already.
    let _broken = SockRef::from(&socket).set_linger(None);
    drop(socket);
}

/// Ends with a reset, at once.
pub(super) fn reset(socket: TcpStream) {
    // Without it the end would look like a FIN; nothing better can be done about a failure.
    let _unlikely = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    drop(socket);
}

/// Delivers `rest`, waits until the kernel has sent it, then resets.
pub(super) async fn deliver_and_reset(socket: TcpStream, rest: &[u8]) {
    if deliver(&socket, rest).await.is_ok() {
        settle(&socket).await;
    }
    reset(socket);
}

/// Writes all of `rest` as long as the receiver takes some now and then.
pub(super) async fn deliver(socket: &TcpStream, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        tokio::time::timeout(DELIVERY_STALL, socket.writable())
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        match socket.try_write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The socket is not ready after all; nothing is wrong with it.
pub(super) fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Whether the other side has reset it: known even while nothing is read. That both directions
/// have their FIN (`HUP`) is no reset: what came before may still be to be read.
pub(super) fn is_reset(socket: &TcpStream) -> bool {
    let mut asked = [PollFd::new(socket, PollFlags::empty())];
    let is_told = poll(&mut asked, Some(&Timespec::default())).is_ok();
    is_told && asked[0].revents().intersects(PollFlags::ERR)
}

/// Waits, for a bounded time, until nothing unsent is left in the kernel: a reset would throw it
/// away. With the low mark at one octet the kernel calls a socket writable only then.
async fn settle(socket: &TcpStream) {
    if SockRef::from(socket).set_tcp_notsent_lowat(1).is_err() {
        return;
    }
    let sent = async {
        while !is_all_sent(socket) {
            tokio::time::sleep(SETTLE_STEP).await;
        }
    };
    let _either_way = tokio::time::timeout(SETTLE_TIME, sent).await;
}

fn is_all_sent(socket: &TcpStream) -> bool {
    let mut asked = [PollFd::new(socket, PollFlags::OUT)];
    // An error will not get better by waiting.
    poll(&mut asked, Some(&Timespec::default())).is_err() || !asked[0].revents().is_empty()
}

/// Closes a connection whose sender may not have finished, without turning what was delivered
/// into a reset: reads over a bounded amount for a bounded time.
pub(super) async fn linger(socket: TcpStream) {
    let over = async {
        let mut left = LINGER_OCTETS;
        while left > 0 && socket.readable().await.is_ok() {
            match socket.try_read(&mut [0; 1024]) {
                Ok(0) => break,
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    };
    let _either_way = tokio::time::timeout(LINGER_TIME, over).await;
    close(socket);
}
