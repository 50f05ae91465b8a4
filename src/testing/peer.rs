//! A peer that vanishes, refuses or lies on its data port, at a test's word.
//!
//! Its catalog is a real agent's: control connections are told by their ClientHello and passed
//! on to that agent as they are. Data connections end here; probes are answered well, streams
//! are handed to the test or meet the fault that is set.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::version::TLS13;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::wire::{Heard, Wire, aborted, cancelled, reply};
use super::{PATIENCE, World, trust};
use crate::model::ReplicaId;
use crate::tls;
use crate::wire::frame::{Asked, Control, Open, Ready, Verdict};

/// Of the server's flight in the handshake, so many octets go out before it is cut.
const HALF_A_FLIGHT: usize = 600;
/// Between looks at a ClientHello that is not whole.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How far a data connection gets before the peer vanishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Nobody listens.
    Listening,
    /// The ClientHello was received.
    Hello,
    /// Half of the server's flight was sent.
    Flight,
    /// The handshake is done.
    Shaken,
    /// `READY` was sent.
    Ready,
    /// The `OPEN` was read.
    Asked,
    /// Half of the `REPLY` was sent.
    HalfReply,
}

/// How it vanishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// The connection is closed in order.
    Close,
    /// It is reset.
    Reset,
    /// It stays open and silent.
    Silence,
}

/// What new streams meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The peer vanishes.
    Vanish(Point, Manner),
    /// It refuses.
    Refuse(Verdict),
    /// It resets the stream instead of a `REPLY`.
    Reset,
}

/// An `OPEN` that the test answers.
#[derive(Debug)]
pub struct Stream {
    /// Its connection.
    pub wire: Wire,
    /// What was asked.
    pub open: Open,
}

/// The scripted data port of a cluster.
#[derive(Debug)]
pub struct Peer {
    streams: mpsc::Receiver<Stream>,
    fault: watch::Sender<Option<Fault>>,
    met: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

struct Shared {
    acceptor: TlsAcceptor,
    replica: ReplicaId,
    upstream: SocketAddr,
    streams: mpsc::Sender<Stream>,
    fault: watch::Sender<Option<Fault>>,
    met: Arc<AtomicU64>,
}

impl Peer {
    /// Listens at `address` in front of the agent of `cluster`, whose gateway is `upstream`.
    ///
    /// # Panics
    /// When the address is taken.
    pub async fn start(
        world: &World,
        cluster: &str,
        address: SocketAddr,
        upstream: SocketAddr,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free address");
        let (streams_tx, streams) = mpsc::channel(64);
        let (fault, _) = watch::channel(None);
        let met = Arc::new(AtomicU64::new(0));
        let shared = Arc::new(Shared {
            acceptor: acceptor(world, cluster),
            replica: ReplicaId::from_u64(rand::random()),
            upstream,
            streams: streams_tx,
            fault: fault.clone(),
            met: Arc::clone(&met),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(shared.accept(listener, address));
        Self { streams, fault, met, _tasks: tasks }
    }

    /// From now on streams, and connections where the fault comes before `OPEN`, meet this.
    /// Idle spares then end, so that the next stream must dial.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(Some(fault));
    }

    /// From now on all is well; what was kept silent ends.
    pub fn heal(&self) {
        self.fault.send_replace(None);
    }

    /// Streams and connections that have met a fault.
    #[must_use]
    pub fn met(&self) -> u64 {
        self.met.load(Ordering::Relaxed)
    }

    /// A stream that no fault took, if one is there.
    ///
    /// # Errors
    /// None is.
    pub fn try_stream(&mut self) -> Result<Stream, mpsc::error::TryRecvError> {
        self.streams.try_recv()
    }

    /// The next stream that no fault took.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn stream(&mut self) -> Stream {
        tokio::time::timeout(PATIENCE, self.streams.recv())
            .await
            .expect("a stream in time")
            .expect("the peer runs")
    }
}

fn acceptor(world: &World, cluster: &str) -> TlsAcceptor {
    let pair = trust::Leaf::of(cluster).signed_by(&world.trust(cluster));
    let chain = CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a matching pair");
    config.alpn_protocols = vec![tls::Kind::Data.alpn().to_vec()];
    config.send_tls13_tickets = 0;
    TlsAcceptor::from(Arc::new(config))
}

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener, address: SocketAddr) {
        let mut listener = Some(listener);
        let mut fault = self.fault.subscribe();
        let mut connections = JoinSet::new();
        loop {
            let away = matches!(*fault.borrow(), Some(Fault::Vanish(Point::Listening, _)));
            if away {
                listener = None;
            } else if listener.is_none() {
                listener = Some(TcpListener::bind(address).await.expect("its own address"));
            }
            let accepted = async {
                match &listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                accepted = accepted => {
                    if let Ok((tcp, _)) = accepted {
                        connections.spawn(Arc::clone(&self).receive(tcp));
                    }
                }
                _ = connections.join_next(), if !connections.is_empty() => {}
                _ = fault.changed() => {}
            }
        }
    }

    fn fault(&self) -> Option<Fault> {
        *self.fault.borrow()
    }

    /// How a connection at this point vanishes, if it does.
    fn vanishes(&self, here: Point) -> Option<Manner> {
        match self.fault() {
            Some(Fault::Vanish(point, manner)) if point == here => {
                self.met.fetch_add(1, Ordering::Relaxed);
                Some(manner)
            }
            _ => None,
        }
    }

    /// Waits until the fault is another.
    async fn wait(&self) {
        let mut fault = self.fault.subscribe();
        let _changed = fault.changed().await;
    }

    async fn receive(self: Arc<Self>, mut tcp: TcpStream) {
        let Ok(true) = is_data(&tcp).await else {
            if let Ok(mut agent) = TcpStream::connect(self.upstream).await {
                let _ended = tokio::io::copy_bidirectional(&mut tcp, &mut agent).await;
            }
            return;
        };
        if let Some(manner) = self.vanishes(Point::Hello) {
            // Unread octets would turn a close into a reset.
            let _hello = tcp.read(&mut [0; 16 * 1024]).await;
            return self.leave(tcp, manner).await;
        }
        if let Some(manner) = self.vanishes(Point::Flight) {
            let short = Short { tcp, left: HALF_A_FLIGHT };
            if let Err((_, short)) = self.acceptor.accept(short).into_fallible().await {
                self.leave(short.tcp, manner).await;
            }
            return;
        }
        let Ok(stream) = self.acceptor.accept(tcp).await else { return };
        let wire = Wire::new(stream.into());
        if let Some(manner) = self.vanishes(Point::Shaken) {
            return self.end(wire, manner).await;
        }
        // However it ends, the other side has ended it.
        let _ended = self.serve(wire).await;
    }

    async fn leave(&self, mut tcp: TcpStream, manner: Manner) {
        match manner {
            Manner::Close => drop(tcp.shutdown().await),
            Manner::Reset => {
                SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).expect("a socket");
            }
            Manner::Silence => self.wait().await,
        }
    }

    async fn end(&self, wire: Wire, manner: Manner) {
        match manner {
            Manner::Close => wire.close().await,
            Manner::Reset => wire.reset(),
            Manner::Silence => {
                self.wait().await;
                drop(wire);
            }
        }
    }

    async fn serve(&self, mut wire: Wire) -> io::Result<()> {
        let mut fault = self.fault.subscribe();
        wire.control(Control::Ready(Ready { replica: self.replica })).await?;
        if let Some(manner) = self.vanishes(Point::Ready) {
            self.end(wire, manner).await;
            return Ok(());
        }
        // Whoever pings is a probe, which goes on.
        let mut probes = false;
        loop {
            let heard = tokio::select! {
                heard = wire.next() => heard?,
                _ = fault.changed() => {
                    let now = *fault.borrow_and_update();
                    match now {
                        Some(Fault::Vanish(point, _)) if point < Point::Asked && !probes => {
                            wire.close().await;
                            return Ok(());
                        }
                        _ => continue,
                    }
                }
            };
            match heard {
                Heard::Control(Control::Ping(number)) => {
                    probes = true;
                    wire.control(Control::Pong(number)).await?;
                }
                Heard::Control(Control::Cancel(stream)) => wire.control(cancelled(stream)).await?,
                Heard::Control(Control::Open(open)) if open.asked == Asked::Echo => {
                    echo(&mut wire, open.stream).await?;
                }
                Heard::Control(Control::Open(open)) => match self.answer(wire, open).await? {
                    Some(back) => wire = back,
                    None => return Ok(()),
                },
                Heard::Control(_) | Heard::Payload(_) => {}
            }
        }
    }

    /// Answers a stream's `OPEN`; the connection, where it goes on here.
    async fn answer(&self, mut wire: Wire, open: Open) -> io::Result<Option<Wire>> {
        match self.fault() {
            None => {
                // Without a test that listens the connection ends.
                let _unheard = self.streams.try_send(Stream { wire, open });
                return Ok(None);
            }
            Some(Fault::Refuse(verdict)) => {
                self.met.fetch_add(1, Ordering::Relaxed);
                wire.control(reply(open.stream, verdict)).await?;
                return Ok(Some(wire));
            }
            Some(Fault::Reset) => {
                self.met.fetch_add(1, Ordering::Relaxed);
                wire.control(aborted(open.stream)).await?;
                wire.close().await;
                return Ok(None);
            }
            Some(Fault::Vanish(..)) => {}
        }
        if let Some(manner) = self.vanishes(Point::Asked) {
            self.end(wire, manner).await;
        } else if let Some(manner) = self.vanishes(Point::HalfReply) {
            let mut whole = Vec::new();
            reply(open.stream, Verdict::Accepted).encode(&mut whole);
            wire.raw(&whole[..whole.len() - 1]).await?;
            self.end(wire, manner).await;
        } else {
            wire.close().await;
        }
        Ok(None)
    }
}

/// Answers a fresh probe.
async fn echo(wire: &mut Wire, stream: u64) -> io::Result<()> {
    wire.control(reply(stream, Verdict::Accepted)).await?;
    loop {
        match wire.next().await? {
            Heard::Payload(octets) => wire.payload(&octets).await?,
            Heard::Control(Control::Fin) => return wire.control(Control::Fin).await,
            Heard::Control(Control::Cancel(stream)) => {
                return wire.control(cancelled(stream)).await;
            }
            Heard::Control(_) => {}
        }
    }
}

/// Whether the ClientHello offers the data protocol; it is left unread. ALPN is in the clear.
async fn is_data(tcp: &TcpStream) -> io::Result<bool> {
    let mut hello = vec![0; 16 * 1024];
    loop {
        let count = tcp.peek(&mut hello).await?;
        let offers = |kind: tls::Kind| {
            hello[..count].windows(kind.alpn().len()).any(|octets| octets == kind.alpn())
        };
        if offers(tls::Kind::Data) {
            return Ok(true);
        }
        if offers(tls::Kind::Control) || count == 0 {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A connection that takes only so many octets and then breaks.
struct Short {
    tcp: TcpStream,
    left: usize,
}

impl AsyncRead for Short {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Short {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let most = octets.len().min(self.left);
        if most == 0 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = Pin::new(&mut self.tcp).poll_write(cx, &octets[..most]);
        if let Poll::Ready(Ok(count)) = written {
            self.left -= count;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
