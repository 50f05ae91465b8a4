//! One control connection: messages in and out, counted, with the deadlines that end it.

use std::io;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::metrics::{Direction, Metrics, Unknown};
use super::{Config, Presence};
use crate::clock;
use crate::model::{ClusterId, Locality, PeerAddress, ReplicaId};
use crate::tls::DialError;
use crate::wire::control::{self, Body, DecodeError, Decoder, Hello};

/// For the peer's first message.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// For one message to leave: a subscriber that does not read is given up.
const STALL: Duration = Duration::from_secs(60);
/// The wall clock is compared this often, since it may jump.
const WALL_CHECK: Duration = Duration::from_secs(30);
/// Live replicas of a cluster that are taken note of.
const MAX_REPLICAS: usize = 16;
/// Octets of a peer's `network` and `version`.
const MAX_TEXT_OCTETS: usize = 253;

/// Why a session ended.
#[derive(Debug, Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the session broke off: {0}")]
    Io(#[from] io::Error),
    #[error("the peer closed the session")]
    Closed,
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Hello(#[from] BadHello),
    #[error("the peer was silent too long")]
    Silent,
    #[error("the peer does not read what we send")]
    Stalled,
    #[error("the peer's certificate has expired; the next session needs a fresh one")]
    Expired,
    #[error("the peer breaks the protocol: {0}")]
    Protocol(&'static str),
    #[error("the session failed inside this process; see the panic in the log")]
    Panicked,
}

/// Why a `Hello` was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum BadHello {
    #[error(
        "the peer's certificate says {certificate} but its hello says {claimed}; correct `cluster` in the peer's configuration"
    )]
    Cluster { certificate: ClusterId, claimed: String },
    #[error("the peer speaks protocol {0} to {1}, we {min} to {max}; upgrade the older side", min = control::PROTOCOL_MIN, max = control::PROTOCOL_MAX)]
    Protocol(u32, u32),
    #[error(
        "the peer's network, region or zone is longer than {MAX_TEXT_OCTETS} octets or unprintable"
    )]
    Text,
}

/// A `Hello` as checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) replica: ReplicaId,
    /// The live replicas of the peer, the speaker among them.
    pub(super) replicas: Vec<ReplicaId>,
    pub(super) addresses: Vec<PeerAddress>,
    pub(super) network: Box<str>,
    pub(super) locality: Locality,
    pub(super) version: Box<str>,
}

impl Greeting {
    /// Checks a `Hello` against the certificate. Addresses that cannot be read are left out.
    pub(super) fn parse(hello: &Hello, certificate: &ClusterId) -> Result<Self, BadHello> {
        if hello.cluster != certificate.as_str() {
            let claimed = hello.cluster.chars().take(MAX_TEXT_OCTETS).collect::<String>();
            let claimed = claimed.escape_default().to_string();
            return Err(BadHello::Cluster { certificate: certificate.clone(), claimed });
        }
        let (min, max) = (hello.protocol_min, hello.protocol_max);
        if min > control::PROTOCOL_MAX || max < control::PROTOCOL_MIN || min > max {
            return Err(BadHello::Protocol(min, max));
        }
        let printable = |text: &str| {
            text.len() <= MAX_TEXT_OCTETS && text.bytes().all(|octet| (0x20..0x7f).contains(&octet))
        };
        if ![&hello.network, &hello.region, &hello.zone].into_iter().all(|text| printable(text)) {
            return Err(BadHello::Text);
        }
        let replica = ReplicaId::from_u64(hello.replica);
        let mut replicas = vec![replica];
        for other in hello.replicas.iter().copied().map(ReplicaId::from_u64) {
            if !replicas.contains(&other) && replicas.len() < MAX_REPLICAS {
                replicas.push(other);
            }
        }
        let addresses = hello.addresses.iter().take(super::resolve::MAX_ADDRESSES);
        let version = if printable(&hello.version) { hello.version.as_str() } else { "" };
        Ok(Self {
            replica,
            replicas,
            addresses: addresses.filter_map(|text| PeerAddress::parse(text).ok()).collect(),
            network: hello.network.as_str().into(),
            locality: Locality {
                region: hello.region.as_str().into(),
                zone: hello.zone.as_str().into(),
            },
            version: version.into(),
        })
    }
}

/// Our own `Hello`.
pub(super) fn hello(config: &Config, presence: &Presence) -> Hello {
    Hello {
        protocol_min: control::PROTOCOL_MIN,
        protocol_max: control::PROTOCOL_MAX,
        cluster: config.cluster.to_string(),
        replica: config.replica.as_u64(),
        features: 0,
        addresses: presence.addresses.iter().map(ToString::to_string).collect(),
        network: config.network.to_string(),
        version: config.version.clone(),
        // Replicas that share a source list one another; from files each stands alone.
        replicas: [config.replica].iter().chain(&presence.siblings).map(|id| id.as_u64()).collect(),
        region: presence.locality.region.to_string(),
        zone: presence.locality.zone.to_string(),
    }
}

/// A message as read: what it says, and its size.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) body: Body,
    pub(super) size: usize,
}

/// The reading half.
#[derive(Debug)]
pub(super) struct Reader<R> {
    io: R,
    decoder: Decoder,
    metrics: Metrics,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(io: R, metrics: Metrics) -> Self {
        Self { io, decoder: Decoder::default(), metrics }
    }

    /// The next message that we know. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Result<Incoming, SessionError> {
        loop {
            while let Some(received) = self.decoder.next_message()? {
                if received.unknown_fields {
                    self.metrics.unknown(Unknown::Field);
                }
                if let Some(body) = received.body {
                    self.metrics.message(Direction::In, body.kind());
                    return Ok(Incoming { body, size: received.size });
                }
                self.metrics.unknown(Unknown::Message);
            }
            if self.io.read_buf(self.decoder.buffer()).await? == 0 {
                return Err(SessionError::Closed);
            }
        }
    }

    /// The first message, which must be a `Hello`.
    pub(super) async fn greeting(&mut self, peer: &ClusterId) -> Result<Greeting, SessionError> {
        let first = timeout(HELLO_TIMEOUT, self.next()).await;
        match first.map_err(|_| SessionError::Silent)??.body {
            Body::Hello(hello) => Ok(Greeting::parse(&hello, peer)?),
            _ => Err(SessionError::Protocol("its first message is no hello")),
        }
    }
}

/// The writing half.
#[derive(Debug)]
pub(super) struct Writer<W> {
    io: W,
    buffer: BytesMut,
    metrics: Metrics,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) fn new(io: W, metrics: Metrics) -> Self {
        Self { io, buffer: BytesMut::new(), metrics }
    }

    /// Sends one message, and waits until the connection took it.
    pub(super) async fn send(&mut self, body: Body) -> Result<(), SessionError> {
        self.metrics.message(Direction::Out, body.kind());
        self.buffer.clear();
        control::encode(body, &mut self.buffer);
        let write = async {
            self.io.write_all(&self.buffer).await?;
            self.io.flush().await
        };
        timeout(STALL, write).await.map_err(|_| SessionError::Stalled)??;
        Ok(())
    }

    /// Says properly that nothing more comes.
    pub(super) async fn close(&mut self) {
        // The peer may be gone already; then there is nobody to tell.
        let _told = timeout(Duration::from_secs(1), self.io.shutdown()).await;
    }
}

/// Waits until a leaf's end. The wall clock may jump, so it is asked again and again.
pub(super) async fn expired(leaf_ends: SystemTime) -> SessionError {
    while let Ok(left) = leaf_ends.duration_since(clock::wall()) {
        // Not exactly zero at the very end, so that this does not spin.
        sleep(left.clamp(Duration::from_millis(10), WALL_CHECK)).await;
    }
    SessionError::Expired
}
