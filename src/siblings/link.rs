//! One connection between siblings: messages in and out, counted, with the deadlines that end it.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::Config;
use super::life::Loss;
use super::metrics::{Direction, Metrics};
use crate::model::ReplicaId;
use crate::tls::DialError;
use crate::wire::sibling::{self, BadPorts, Body, DecodeError, Decoder, Hello};

/// For one message to leave: nobody here sends much.
const STALL: Duration = Duration::from_secs(3);
/// Octets of a pod's UID.
const MAX_UID_OCTETS: usize = 253;

/// Why a session ended.
#[derive(Debug, Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the session broke off: {0}")]
    Io(#[from] io::Error),
    #[error("the sibling closed the session")]
    Closed,
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Ports(#[from] BadPorts),
    #[error("the sibling speaks protocol {0} to {1}, we {min} to {max}; upgrade the older one", min = sibling::PROTOCOL_MIN, max = sibling::PROTOCOL_MAX)]
    Version(u32, u32),
    #[error("the sibling breaks the protocol: {0}")]
    Protocol(&'static str),
    #[error("the address leads to this process itself")]
    Ourselves,
    #[error("the address leads to another pod by now ({0})")]
    OtherPod(Box<str>),
    #[error("the sibling was silent too long")]
    Silent,
    #[error("the sibling does not read what we send")]
    Stalled,
    #[error("the sibling's certificate has ended, or the trust in it")]
    Lapsed,
}

impl SessionError {
    /// What it tells of the sibling's process.
    pub(super) fn loss(&self) -> Loss {
        let refused = match self {
            Self::Dial(error) => error.is_refusal(),
            Self::Io(error) => error.kind() == io::ErrorKind::ConnectionReset,
            _ => false,
        };
        if refused { Loss::Refused } else { Loss::Other }
    }
}

/// A `Hello` as checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) replica: ReplicaId,
    /// Empty where it does not know its pod.
    pub(super) uid: Box<str>,
}

impl Greeting {
    fn parse(hello: &Hello) -> Result<Self, SessionError> {
        let (min, max) = (hello.protocol_min, hello.protocol_max);
        if min > sibling::PROTOCOL_MAX || max < sibling::PROTOCOL_MIN || min > max {
            return Err(SessionError::Version(min, max));
        }
        let graphic = hello.uid.bytes().all(|octet| octet.is_ascii_graphic());
        if hello.uid.len() > MAX_UID_OCTETS || !graphic {
            return Err(SessionError::Protocol("its pod's UID is too long or unprintable"));
        }
        Ok(Self { replica: ReplicaId::from_u64(hello.replica), uid: hello.uid.as_str().into() })
    }
}

/// Our own `Hello`.
pub(super) fn hello(config: &Config) -> Body {
    Body::Hello(Hello {
        protocol_min: sibling::PROTOCOL_MIN,
        protocol_max: sibling::PROTOCOL_MAX,
        replica: config.replica.as_u64(),
        uid: config.uid.to_string(),
    })
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

    /// The next message that we know, which must come within so long.
    pub(super) async fn next(&mut self, within: Duration) -> Result<Body, SessionError> {
        timeout(within, self.read()).await.map_err(|_| SessionError::Silent)?
    }

    /// The first message, which must be a `Hello`.
    pub(super) async fn greeting(&mut self, within: Duration) -> Result<Greeting, SessionError> {
        match self.next(within).await? {
            Body::Hello(hello) => Greeting::parse(&hello),
            _ => Err(SessionError::Protocol("its first message is no hello")),
        }
    }

    async fn read(&mut self) -> Result<Body, SessionError> {
        loop {
            while let Some(message) = self.decoder.next_message()? {
                if let Some(body) = message {
                    self.metrics.message(Direction::In, body.kind());
                    return Ok(body);
                }
                self.metrics.message(Direction::In, "unknown");
            }
            if self.io.read_buf(self.decoder.buffer()).await? == 0 {
                return Err(SessionError::Closed);
            }
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
        sibling::encode(body, &mut self.buffer);
        let write = async {
            self.io.write_all(&self.buffer).await?;
            self.io.flush().await
        };
        timeout(STALL, write).await.map_err(|_| SessionError::Stalled)??;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_greetings_are_refused() {
        let good = Hello { protocol_min: 1, protocol_max: 9, replica: 7, uid: "a-b".into() };
        let greeting = Greeting { replica: ReplicaId::from_u64(7), uid: "a-b".into() };
        assert_eq!(Greeting::parse(&good).ok(), Some(greeting));
        for bad in [
            Hello { protocol_min: 2, ..good.clone() },
            Hello { protocol_max: 0, ..good.clone() },
            Hello { uid: "x".repeat(MAX_UID_OCTETS + 1), ..good.clone() },
            Hello { uid: "line\nbreak".into(), ..good },
        ] {
            assert!(Greeting::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_a_port_without_a_process_refuses() {
        let io = |kind: io::ErrorKind| SessionError::Io(kind.into());
        assert_eq!(io(io::ErrorKind::ConnectionReset).loss(), Loss::Refused);
        assert_eq!(io(io::ErrorKind::UnexpectedEof).loss(), Loss::Other);
        assert_eq!(SessionError::Closed.loss(), Loss::Other);
        let address = ([127, 0, 0, 1], 1).into();
        let dial = |kind: io::ErrorKind| {
            let source = std::sync::Arc::new(kind.into());
            SessionError::Dial(DialError::Connect { address, source }).loss()
        };
        assert_eq!(dial(io::ErrorKind::ConnectionRefused), Loss::Refused);
        assert_eq!(dial(io::ErrorKind::HostUnreachable), Loss::Other);
    }
}
