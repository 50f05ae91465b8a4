//! One data connection in the hands of a test: frames go out and come in as it says, legal or not.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{PATIENCE, World, trust};
use crate::model::{PortKey, PortNumber, Protocol, ServiceKey};
use crate::tls;
use crate::wire::frame::{
    Asked, Client, Control, HEADER_OCTETS, Header, Open, Reply, Reset, ResetReason, Verdict,
};

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A control frame.
    Control(Control),
    /// The octets of one payload frame.
    Payload(Vec<u8>),
}

/// A data connection whose handshake is done.
#[derive(Debug)]
pub struct Wire {
    stream: tls::Stream,
    buffer: Vec<u8>,
}

impl Wire {
    /// Takes over a connection.
    #[must_use]
    pub fn new(stream: tls::Stream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Dials a cluster's gateway as another cluster would, and reads its `READY`.
    ///
    /// # Panics
    /// When the gateway refuses.
    pub async fn dial(world: &World, from: &str, to: &str, address: SocketAddr) -> Self {
        let pair = trust::Leaf::of(from).signed_by(&world.trust(from));
        let client = trust::Client::of(&world.trust(to), to, Some(pair));
        let stream = client.connect(address).await.expect("a peer is let in");
        let mut wire = Self::new(stream.into());
        let first = wire.heard().await;
        assert!(matches!(first, Heard::Control(Control::Ready(_))), "{first:?} before READY");
        wire
    }

    /// Writes octets as they are.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn raw(&mut self, octets: &[u8]) -> io::Result<()> {
        self.stream.write_all(octets).await?;
        self.stream.flush().await
    }

    /// Writes frames in one piece, so that they arrive together.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send(&mut self, frames: &[Heard]) -> io::Result<()> {
        let mut octets = Vec::new();
        for frame in frames {
            match frame {
                Heard::Control(control) => control.encode(&mut octets),
                Heard::Payload(payload) => {
                    octets.extend_from_slice(&Header::payload(payload.len()));
                    octets.extend_from_slice(payload);
                }
            }
        }
        self.raw(&octets).await
    }

    /// Writes one control frame.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn control(&mut self, frame: Control) -> io::Result<()> {
        self.send(&[Heard::Control(frame)]).await
    }

    /// Writes one payload frame.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn payload(&mut self, octets: &[u8]) -> io::Result<()> {
        self.send(&[Heard::Payload(octets.to_vec())]).await
    }

    /// The next frame. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The connection ended or broke, or what came is no frame.
    pub async fn next(&mut self) -> io::Result<Heard> {
        loop {
            if let Some(heard) = self.take()? {
                return Ok(heard);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Heard>> {
        let Some((word, rest)) = self.buffer.split_first_chunk::<HEADER_OCTETS>() else {
            return Ok(None);
        };
        let header = Header::parse(*word).map_err(io::Error::other)?;
        let (Header::Payload(length) | Header::Control(_, length) | Header::Skip(length)) = header;
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let heard = match header {
            Header::Payload(_) => Some(Heard::Payload(body.to_vec())),
            Header::Control(kind, _) => {
                Some(Heard::Control(Control::decode(kind, body).map_err(io::Error::other)?))
            }
            Header::Skip(_) => None,
        };
        self.buffer.drain(..HEADER_OCTETS + length);
        Ok(heard)
    }

    /// The next frame, which must come.
    ///
    /// # Panics
    /// When it does not.
    pub async fn heard(&mut self) -> Heard {
        tokio::time::timeout(PATIENCE, self.next())
            .await
            .expect("a frame in time")
            .expect("the connection lives")
    }

    /// The next control frame; payload before it is an error.
    ///
    /// # Panics
    /// When another thing comes.
    pub async fn expect(&mut self) -> Control {
        match self.heard().await {
            Heard::Control(control) => control,
            Heard::Payload(octets) => panic!("{} octets of payload", octets.len()),
        }
    }

    /// Reads payload frames until so many octets have come.
    ///
    /// # Panics
    /// When another frame comes.
    pub async fn octets(&mut self, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.heard().await {
                Heard::Payload(octets) => all.extend_from_slice(&octets),
                Heard::Control(control) => panic!("{control:?} after {} octets", all.len()),
            }
        }
        all
    }

    /// Reads on until the other side closes; what came before that.
    ///
    /// # Panics
    /// When it does not close.
    pub async fn until_closed(&mut self) -> Vec<Heard> {
        let mut all = Vec::new();
        let closed = async {
            while let Ok(heard) = self.next().await {
                all.push(heard);
            }
        };
        tokio::time::timeout(PATIENCE, closed).await.expect("the connection is closed");
        all
    }

    /// Whether nothing comes for so long and the connection stays open.
    pub async fn is_quiet(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.next()).await.is_err()
    }

    /// Ends the connection in order: TLS says goodbye, TCP sends FIN.
    pub async fn close(mut self) {
        // The other side may be gone already.
        let _gone = self.stream.shutdown().await;
    }

    /// Ends the connection with a TCP reset.
    ///
    /// # Panics
    /// When the socket has no such option.
    pub fn reset(self) {
        let socket = self.stream.get_ref().0;
        SockRef::from(socket).set_linger(Some(Duration::ZERO)).expect("a socket");
    }
}

/// An `OPEN` for a TCP port of a service (`namespace/name`).
///
/// # Panics
/// When it is no name.
#[must_use]
pub fn open(stream: u64, key: &str, port: u16) -> Control {
    let key = ServiceKey::parse(key).expect("namespace/name");
    let port = PortNumber::new(port.into()).expect("a port");
    Control::Open(Open {
        stream,
        asked: Asked::Port(key, PortKey::new(Protocol::Tcp, port)),
        hops: 0,
        client: Client::default(),
        trace: [0; 16],
        deadline_ms: 0,
        early: false,
    })
}

/// A `REPLY`.
#[must_use]
pub fn reply(stream: u64, verdict: Verdict) -> Control {
    Control::Reply(Reply { stream, verdict })
}

/// A `RESET` of a broken stream.
#[must_use]
pub fn aborted(stream: u64) -> Control {
    Control::Reset(Reset { stream, reason: ResetReason::Aborted })
}

/// A `RESET` that answers a `CANCEL`.
#[must_use]
pub fn cancelled(stream: u64) -> Control {
    Control::Reset(Reset { stream, reason: ResetReason::Cancelled })
}
