//! The one listener of the gateway port: permit, accept, spawn. Handshakes run in tasks of their
//! own, so that a slow one delays nobody; nothing that a stranger does ends the loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::CipherSuite;
use rustls::server::Acceptor;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::dialer::check;
use super::error::Error;
use super::identity::{Claims, PeerIdentity};
use super::kind::Kind;
use super::limits::Limits;
use super::lobby::Lease;
use super::lobby::{Lobby, Place, Source};
use super::material::{Material, SERVED};
use super::refusal::Refusal;
use super::trust::Trust;
use super::verify::{reason, tls_error};
use super::{Stream, socket};
use crate::model::ClusterId;
use crate::telemetry::Throttle;
use crate::{clock, drain};

/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between log lines about failing accepts.
const ACCEPT_LOG_EVERY: Duration = Duration::from_secs(10);
/// How long, and for how many bytes, a refused connection is read so that the alert arrives.
const LINGER: (Duration, u64) = (Duration::from_millis(200), 64 * 1024);
/// A fatal `no_application_protocol` alert in the clear (RFC 8446 §5.1, RFC 7301 §3.2).
const NO_PROTOCOL_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];

/// A connection of a verified peer.
#[derive(Debug)]
pub struct Accepted {
    /// What it is for.
    pub kind: Kind,
    /// Who it is.
    pub peer: PeerIdentity,
    /// The connection: TCP_NODELAY and keepalive are set.
    pub stream: Stream,
    /// Where it came from.
    pub remote: SocketAddr,
    /// Hold it as long as the connection: a source with a live one has the larger cap.
    pub lease: Lease,
}

/// Where accepted connections go; a kind without a place is refused and counted.
#[derive(Debug, Clone)]
pub struct Handlers {
    /// Control sessions.
    pub control: mpsc::Sender<Accepted>,
    /// Data connections, probes among them, and datagram connections.
    pub data: mpsc::Sender<Accepted>,
    /// Connections of the own cluster's other replicas, where it has any.
    pub sibling: Option<mpsc::Sender<Accepted>>,
}

/// The gateway port, bound.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    trust: Trust,
    limits: Limits,
    lobby: Lobby,
}

impl Listener {
    /// Binds at once (call it inside a tokio runtime).
    pub fn bind(address: SocketAddr, trust: Trust, limits: Limits) -> Result<Self, Error> {
        let bound = listen(address).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (address, socket) = bound.map_err(|source| Error::Bind { address, source })?;
        Ok(Self { socket, address, trust, limits, lobby: Lobby::default() })
    }

    /// The address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until drain reaches `Draining`, then lets handshakes in flight finish.
    pub async fn run(self, handlers: Handlers, mut drain: drain::Watch) -> Result<(), Error> {
        let Self { socket, trust, limits, lobby, .. } = self;
        let reception = Arc::new(Reception { trust, limits, handlers });
        let mut tasks = JoinSet::new();
        let brake = Throttle::new(ACCEPT_LOG_EVERY);
        loop {
            tokio::select! {
                biased;
                () = drain.reached(drain::Phase::Draining) => break,
                Some(ended) = tasks.join_next() => reception.trust.metrics().ended(ended),
                accepted = socket.accept() => match accepted {
                    Ok((tcp, remote)) => match lobby.enter(Source::of(remote), &reception.limits) {
                        Some(place) => {
                            tasks.spawn(Arc::clone(&reception).receive(tcp, remote, place));
                        }
                        None => reception.refuse(
                            Refusal::Other,
                            remote,
                            "its source has all the unfinished handshakes it may",
                        ),
                    },
                    Err(error) => pause(&error, &brake).await,
                },
            }
        }
        drop(socket);
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    Some(ended) => reception.trust.metrics().ended(ended),
                    None => return Ok(()),
                },
                () = drain.reached(drain::Phase::Forced) => return Ok(()),
            }
        }
    }
}

/// A listening socket that a restarted process gets at once.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A connection that died in the queue costs nothing; anything else (descriptors, memory) needs
/// time. Neither ends the loop.
async fn pause(error: &io::Error, brake: &Throttle) {
    if matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    ) {
        return;
    }
    if let Some(unsaid) = brake.pass(clock::now()) {
        tracing::warn!(%error, unsaid, "cannot accept; raise the descriptor limit (ulimit -n)");
    }
    sleep(ACCEPT_PAUSE).await;
}

/// What every handshake shares.
struct Reception {
    trust: Trust,
    limits: Limits,
    handlers: Handlers,
}

/// Why a connection was refused, with the socket where there is still something to tell.
struct Refused {
    reason: Refusal,
    problem: String,
    socket: Option<TcpStream>,
    /// The other side went away, and was refused nothing: a health check that only connects, a
    /// dial whose stream found another way or whose process ended.
    left: bool,
}

impl Refused {
    fn new(reason: Refusal, problem: impl Into<String>) -> Self {
        Self { reason, problem: problem.into(), socket: None, left: false }
    }

    fn from_handshake(error: &io::Error, socket: Option<TcpStream>) -> Self {
        let told = tls_error(error).map(reason);
        let gone = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset];
        let left = told.is_none() && gone.contains(&error.kind());
        let reason = told.unwrap_or(Refusal::Other);
        Self { reason, problem: error.to_string(), socket, left }
    }
}

impl Reception {
    /// One connection, from accept to its handler.
    async fn receive(self: Arc<Self>, tcp: TcpStream, remote: SocketAddr, place: Place) {
        let outcome = tokio::select! {
            done = timeout(self.limits.handshake, self.shake(tcp)) => done.unwrap_or_else(|_| {
                Err(Refused::new(Refusal::Timeout, "the handshake was not finished in time"))
            }),
            () = place.evicted() => Err(Refused::new(
                Refusal::Timeout,
                "it made room for newer ones: too many unfinished handshakes",
            )),
        };
        match outcome {
            Ok((kind, peer, stream)) => {
                if kind != Kind::Sibling {
                    self.trust.metrics().expires(peer.cluster(), peer.expires());
                }
                let lease = place.authenticated();
                self.hand_over(Accepted { kind, peer, stream, remote, lease }).await;
            }
            Err(Refused { reason, problem, socket, left }) => {
                if left {
                    self.trust.metrics().left(reason, remote, &problem);
                } else {
                    self.refuse(reason, remote, &problem);
                }
                if let Some(socket) = socket {
                    linger(socket).await;
                }
            }
        }
    }

    /// The handshake: exactly one ALPN, a client certificate of a pinned cluster.
    async fn shake(&self, tcp: TcpStream) -> Result<(Kind, PeerIdentity, Stream), Refused> {
        let other = |error: io::Error| Refused::new(Refusal::Other, error.to_string());
        socket::prepare(&tcp).map_err(other)?;
        let mut hello = LazyConfigAcceptor::new(Acceptor::default(), tcp);
        let start = match (&mut hello).await {
            Ok(start) => start,
            Err(error) => return Err(Refused::from_handshake(&error, hello.take_io())),
        };
        let material = self.trust.material();
        let kind = match self.offered(&start) {
            Offer::Kind(kind) => kind,
            Offer::OldVersion => return Err(refuse_version(start, &material).await),
            Offer::Unserved(problem) => return Err(refuse_protocol(start, problem).await),
        };
        let Some(server) = material.server_of(kind).cloned() else {
            return Err(refuse_protocol(start, "without ca.pem no sibling can be believed").await);
        };
        let accept = start.into_stream(server).into_fallible();
        let stream = accept
            .await
            .map_err(|(error, socket)| Refused::from_handshake(&error, Some(socket)))?;
        let stream = Stream::from(stream);
        let peer = self.identify(&stream, kind, &material)?;
        Ok((kind, peer, stream))
    }

    /// What is asked for, as far as it is served here.
    fn offered(&self, start: &StartHandshake<TcpStream>) -> Offer {
        let hello = start.client_hello();
        let modern = [
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        if !hello.cipher_suites().iter().any(|suite| modern.contains(suite)) {
            return Offer::OldVersion;
        }
        let Some(mut protocols) = hello.alpn() else {
            return Offer::Unserved("it offered no ALPN protocol");
        };
        match (protocols.next().map(Kind::from_alpn), protocols.next()) {
            (Some(Some(kind)), None) if self.serves(kind) => Offer::Kind(kind),
            (Some(_), None) => {
                Offer::Unserved("it offered an ALPN protocol that is not served here")
            }
            _ => Offer::Unserved("it offered more than one ALPN protocol"),
        }
    }

    fn serves(&self, kind: Kind) -> bool {
        SERVED.contains(&kind) && (kind != Kind::Sibling || self.handlers.sibling.is_some())
    }

    /// Who was verified; unless what verified it went out of force in the meantime.
    fn identify(
        &self,
        stream: &Stream,
        kind: Kind,
        material: &Material,
    ) -> Result<PeerIdentity, Refused> {
        let bundle = named(stream)
            .and_then(|cluster| material.bundle(kind, &cluster))
            .ok_or_else(|| Refused::new(Refusal::UnknownCa, "no bundle is pinned for it"))?;
        let peer = check(stream, kind, bundle)
            .map_err(|(reason, problem)| Refused::new(reason, problem))?;
        if !self.trust.still_trusts(&peer) {
            return Err(Refused::new(Refusal::UnknownCa, "its bundle was removed just now"));
        }
        Ok(peer)
    }

    /// Waits for the handler as long as a handshake may take, then drops the connection: a
    /// handler that far behind is better told by a new dial.
    async fn hand_over(&self, accepted: Accepted) {
        let (kind, remote) = (accepted.kind, accepted.remote);
        let handler = match kind {
            Kind::Control => Some(&self.handlers.control),
            Kind::Data | Kind::Udp => Some(&self.handlers.data),
            Kind::Sibling => self.handlers.sibling.as_ref(),
            Kind::Park | Kind::Join => None,
        };
        let Some(handler) = handler else {
            return self.refuse(Refusal::Alpn, remote, "nothing here serves its protocol");
        };
        if timeout(self.limits.handshake, handler.send(accepted)).await.is_err() {
            self.refuse(Refusal::Other, remote, "the gateway is overloaded");
        }
    }

    fn refuse(&self, reason: Refusal, remote: SocketAddr, problem: &str) {
        self.trust.metrics().refuse(reason, remote, problem);
    }
}

/// What a ClientHello asks for.
enum Offer {
    Kind(Kind),
    /// No TLS 1.3 suite: rustls words the refusal.
    OldVersion,
    Unserved(&'static str),
}

/// rustls refuses with the right alert.
async fn refuse_version(start: StartHandshake<TcpStream>, material: &Material) -> Refused {
    let accept = start.into_stream(Arc::clone(&material.server)).into_fallible();
    let socket = match accept.await {
        Ok(stream) => stream.into_inner().0,
        Err((_, socket)) => socket,
    };
    let problem = "it does not offer TLS 1.3".to_owned();
    Refused { reason: Refusal::TlsVersion, problem, socket: Some(socket), left: false }
}

async fn refuse_protocol(start: StartHandshake<TcpStream>, problem: &'static str) -> Refused {
    let mut socket = start.io;
    // A stranger that does not read its alert has not earned another try.
    let _unsent = socket.write_all(&NO_PROTOCOL_ALERT).await;
    Refused {
        reason: Refusal::Alpn,
        problem: problem.to_owned(),
        socket: Some(socket),
        left: false,
    }
}

/// The cluster in the DNS name of the leaf that was verified.
fn named(stream: &Stream) -> Option<ClusterId> {
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    Claims::read(leaf).ok().map(|claims| claims.cluster)
}

/// Reads on for a moment: closing a socket with unread bytes would reset it and lose the alert.
async fn linger(mut socket: TcpStream) {
    let (time, bytes) = LINGER;
    let drained = async {
        socket.shutdown().await?;
        let mut rest = socket.take(bytes);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _ended = timeout(time, drained).await;
}
