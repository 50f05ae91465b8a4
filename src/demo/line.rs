//! The delay line between two clouds: a user-space TCP relay on loopback addresses.
//!
//! Bytes (and the ends of a stream) arrive half a round trip later, ± 10 %, in order. While a
//! link is *swallowed* nothing moves in either direction and nothing is closed: what was on its
//! way stays there and flows on after healing, as retransmission would have it. The kernel goes
//! on accepting connections at both ends, so a line of this kind keeps TCP handshakes alive that
//! a network without packets would not; `conformance/net` drops real packets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use crate::clock;

/// One-way delay varies by this share.
const JITTER: f64 = 0.1;

/// What sets out within this time is delayed alike. Were every chunk delayed by itself, a burst
/// kept in order would always wait for its slowest, and the mean would not be the round trip.
const SAME_DELAY: Duration = Duration::from_millis(20);

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// Chunks on their way in one direction of one connection: 2 MiB at most, then the sender waits.
const IN_FLIGHT: usize = 128;

/// Wait before accepting again when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a link swallowed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Swallowed {
    /// Bytes that entered the line while it was cut.
    pub(super) bytes: u64,
    /// Reads that yielded those bytes: frames, roughly.
    pub(super) chunks: u64,
    /// Connections that began while it was cut.
    pub(super) connections: u64,
}

/// The way between two clouds; shared by the lines of both directions.
#[derive(Debug)]
pub(super) struct Link {
    one_way: Duration,
    delay: Mutex<(Instant, Duration)>,
    cut: watch::Sender<bool>,
    bytes: AtomicU64,
    chunks: AtomicU64,
    connections: AtomicU64,
}

impl Link {
    /// A link with that round trip.
    pub(super) fn new(round_trip: Duration) -> Arc<Self> {
        let one_way = round_trip / 2;
        Arc::new(Self {
            one_way,
            delay: Mutex::new((clock::now(), one_way)),
            cut: watch::Sender::new(false),
            bytes: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        })
    }

    /// From now on nothing passes and nobody is told.
    pub(super) fn swallow(&self) {
        self.cut.send_replace(true);
    }

    /// Everything passes again.
    pub(super) fn heal(&self) {
        self.cut.send_replace(false);
    }

    /// What was swallowed so far.
    pub(super) fn swallowed(&self) -> Swallowed {
        Swallowed {
            bytes: self.bytes.load(Ordering::Relaxed),
            chunks: self.chunks.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
        }
    }

    fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }

    async fn passing(&self) {
        let mut cut = self.cut.subscribe();
        // The sender is `self`, so the wait cannot end by its loss.
        let _passes = cut.wait_for(|cut| !cut).await.is_ok();
    }

    fn saw(&self, bytes: usize) {
        if self.is_cut() {
            self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            self.chunks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The delay of what sets out now.
    fn delay(&self) -> Duration {
        let now = clock::now();
        // The pair is written in one assignment: what a panicking writer left is still whole.
        let mut delay = self.delay.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= delay.0 {
            let share = rand::random_range(1.0 - JITTER..=1.0 + JITTER);
            *delay = (now + SAME_DELAY, self.one_way.mul_f64(share));
        }
        delay.1
    }
}

/// One direction of dialling over a link: a listener near the dialler, a target beyond.
#[derive(Debug)]
pub(super) struct Line {
    link: Arc<Link>,
    listener: TcpListener,
    from: IpAddr,
    target: SocketAddr,
}

impl Line {
    /// Listens at `at`; what arrives is carried to `target`, where it appears to come from the
    /// line's own address.
    pub(super) async fn bind(
        at: SocketAddr,
        target: SocketAddr,
        link: Arc<Link>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        Ok(Self { link, listener, from: at.ip(), target })
    }

    /// Where it listens.
    #[cfg(test)]
    fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound listener has an address")
    }

    /// Carries connections until dropped.
    pub(super) async fn run(self) {
        let mut carried = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((near, _)) => {
                        let (link, from, target) = (self.link.clone(), self.from, self.target);
                        carried.spawn(async move { convey(near, from, target, &link).await });
                    }
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
                Some(_ended) = carried.join_next() => {}
            }
        }
    }
}

/// One connection from its accept to its end.
async fn convey(near: TcpStream, from: IpAddr, target: SocketAddr, link: &Link) {
    if link.is_cut() {
        link.connections.fetch_add(1, Ordering::Relaxed);
        link.passing().await;
        // Whoever gave up meanwhile would not have reached the other side at all.
        if has_closed(&near).await {
            return;
        }
    }
    let Ok(far) = connect(from, target).await else {
        sleep(link.delay() * 2).await;
        link.passing().await;
        reset(near);
        return;
    };
    let _nodelay = (near.set_nodelay(true), far.set_nodelay(true));
    relay(near, far, link).await;
}

async fn connect(from: IpAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(target).await
}

/// Whether the other side has ended its direction, seen without reading what it sent first.
async fn has_closed(stream: &TcpStream) -> bool {
    tokio::select! {
        biased;
        ready = stream.ready(Interest::READABLE) => ready.is_ok_and(|ready| ready.is_read_closed()),
        () = std::future::ready(()) => false,
    }
}

fn reset(stream: TcpStream) {
    // If even that fails, the drop closes it in order: an end all the same.
    let _lingers = stream.set_zero_linger();
    drop(stream);
}

async fn relay(mut near: TcpStream, mut far: TcpStream, link: &Link) {
    let ended = {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        tokio::try_join!(carry(near_read, far_write, link), carry(far_read, near_write, link))
    };
    if ended.is_err() {
        reset(near);
        reset(far);
    }
}

/// What travels in one direction.
enum Parcel {
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

/// Carries one direction to its FIN; an error is a reset, which ends the other direction too.
async fn carry(from: ReadHalf<'_>, mut to: WriteHalf<'_>, link: &Link) -> io::Result<()> {
    let (queue, mut due) = mpsc::channel::<(Instant, Parcel)>(IN_FLIGHT);
    let empty = async move {
        while let Some((at, parcel)) = due.recv().await {
            sleep_until(at.into()).await;
            link.passing().await;
            let delivered = match parcel {
                Parcel::Bytes(bytes) => to.write_all(&bytes).await,
                Parcel::Fin => return to.shutdown().await,
                Parcel::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            };
            if let Err(refused) = delivered {
                // The refusal has to travel back before the sender may hear of it.
                sleep(link.delay()).await;
                link.passing().await;
                return Err(refused);
            }
        }
        Ok(())
    };
    tokio::try_join!(fill(from, queue, link), empty).map(|_| ())
}

async fn fill(
    mut from: ReadHalf<'_>,
    queue: mpsc::Sender<(Instant, Parcel)>,
    link: &Link,
) -> io::Result<()> {
    let mut last = clock::now();
    loop {
        let Ok(place) = queue.reserve().await else { return Ok(()) };
        let mut bytes = Vec::with_capacity(CHUNK);
        let parcel = match pin!(from.read_buf(&mut bytes)).await {
            Ok(0) => Parcel::Fin,
            Ok(read) => {
                link.saw(read);
                bytes.shrink_to_fit();
                Parcel::Bytes(bytes)
            }
            Err(_) => Parcel::Reset,
        };
        // Never earlier than what went before: jitter must not reorder.
        last = last.max(clock::now() + link.delay());
        let ends = !matches!(parcel, Parcel::Bytes(_));
        place.send((last, parcel));
        if ends {
            return Ok(());
        }
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
