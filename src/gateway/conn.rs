//! One framed TLS connection between gateways, in either role.
//!
//! It owns no buffers while idle: headers are read in place, payload goes through the thread's
//! scratch, and only control frames and the rare unaccepted rest of a frame wait in `out`.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt as _;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};

use super::memory::with_scratch;
use super::role::{Event, Role};
use crate::tls::{self, PeerIdentity};
use crate::wire::datagram;
use crate::wire::frame::{self, Control, HEADER_OCTETS, Header, Illegal, Kind, Payload};

/// How long unacknowledged bytes may wait while no stream is open.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Control frames waiting to be written; more means that the peer asks without reading.
const MOST_WAITING: usize = 256 * 1024;
/// What a closer reads over before it closes, so that its own last frame is not lost.
const CLOSE_OCTETS: u64 = 64 * 1024;
/// How long it does so.
const CLOSE_TIME: Duration = Duration::from_millis(200);

/// Why a connection is of no more use.
#[derive(Debug, Error)]
pub(super) enum Error {
    /// It ended.
    #[error("the connection ended")]
    Ended,
    /// It broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The peer sent what is no frame.
    #[error(transparent)]
    Frame(#[from] frame::Error),
    /// The peer sent a frame at the wrong time.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// The peer sent what is no frame of a datagram connection, or one at the wrong time.
    #[error(transparent)]
    Datagram(#[from] datagram::Error),
    /// The peer asks and asks and does not read.
    #[error("the peer does not read its answers")]
    Flooded,
}

/// Where in a frame the reader stands.
#[derive(Debug)]
enum Reading {
    Header([u8; HEADER_OCTETS], usize),
    Payload(usize, Payload),
    Body(Kind, Vec<u8>, usize),
    Skip(usize),
}

const AT_HEADER: Reading = Reading::Header([0; HEADER_OCTETS], 0);

/// A framed connection.
#[derive(Debug)]
pub(super) struct Conn<R> {
    stream: Box<tls::Stream>,
    reading: Reading,
    out: Vec<u8>,
    written: usize,
    /// Set once writing failed: what was heard before may still be read.
    mute: bool,
    role: R,
    /// Who is at the other end.
    pub(super) peer: PeerIdentity,
    /// When the first of both leaves ends: an idle connection closes then.
    expires: SystemTime,
    /// The address at the other end.
    pub(super) address: SocketAddr,
    /// When it was made.
    pub(super) born: Instant,
    /// When anything was last read.
    pub(super) heard: Instant,
    /// Whether the acceptor asked for no new streams.
    pub(super) draining: bool,
}

impl<R: Role> Conn<R> {
    /// Takes over a connection whose handshake is done.
    /// `own_expiry` is that of the leaf shown to the peer.
    pub(super) fn new(
        stream: tls::Stream,
        peer: PeerIdentity,
        address: SocketAddr,
        own_expiry: SystemTime,
    ) -> Self {
        let now = crate::clock::now();
        let conn = Self {
            stream: Box::new(stream),
            reading: AT_HEADER,
            out: Vec::new(),
            written: 0,
            mute: false,
            role: R::default(),
            expires: peer.expires().min(own_expiry),
            peer,
            address,
            born: now,
            heard: now,
            draining: false,
        };
        conn.watch_acknowledgements(true);
        conn
    }

    /// What may be sent and what was agreed.
    pub(super) fn role(&mut self) -> &mut R {
        &mut self.role
    }

    /// Whether a leaf that made it has ended.
    pub(super) fn is_expired(&self, wall: SystemTime) -> bool {
        self.expires <= wall
    }

    /// Whether no stream is asked for or open.
    pub(super) fn is_idle(&self) -> bool {
        self.role.is_idle()
    }

    /// Unacknowledged bytes end an idle connection in 10 s; an open stream may be paused.
    pub(super) fn watch_acknowledgements(&self, watch: bool) {
        let timeout = watch.then_some(USER_TIMEOUT);
        if let Err(error) = tls::set_user_timeout(&self.stream, timeout) {
            tracing::debug!(%error, "cannot set TCP_USER_TIMEOUT");
        }
    }

    /// Whether the other side's kernel has ended it, by FIN or reset: known even while nothing is
    /// read. All that came before is still to be read here, whichever it was.
    pub(super) fn is_left(&self) -> bool {
        let ready = self.stream.get_ref().0.ready(Interest::READABLE).now_or_never();
        matches!(ready, Some(Ok(ready)) if ready.is_read_closed())
    }

    /// Puts a control frame into the queue.
    pub(super) fn queue(&mut self, frame: &Control) {
        if !self.mute {
            frame.encode(&mut self.out);
        }
    }

    /// Puts a control frame into the queue, if the protocol has one to send now.
    pub(super) fn queue_some(&mut self, frame: Option<Control>) {
        if let Some(frame) = frame {
            self.queue(&frame);
        }
    }

    /// Puts one payload frame into the queue: probes, their echo, and what a client said before its
    /// stream was accepted; the rest of a stream never.
    pub(super) fn queue_payload(&mut self, octets: &[u8]) {
        if !self.mute {
            self.out.extend_from_slice(&Header::payload(octets.len()));
            self.out.extend_from_slice(octets);
        }
    }

    /// Puts octets into the queue as they are.
    #[cfg(test)]
    pub(super) fn queue_raw(&mut self, octets: &[u8]) {
        self.out.extend_from_slice(octets);
    }

    /// Writes what waits, down to the socket.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.mute {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let result = ready!(self.poll_write_out(cx));
        if result.is_err() {
            self.mute = true;
            self.out = Vec::new();
            self.written = 0;
        }
        Poll::Ready(result)
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let rest = &self.out[self.written..];
            match ready!(Pin::new(&mut *self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        if self.written > 0 {
            self.out = Vec::new();
            self.written = 0;
        }
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    /// Writes one whole payload frame. Call it only after a flush was `Ready`: then TLS takes
    /// the frame as a whole, records aligned, and nothing is kept here.
    pub(super) fn write_payload(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> io::Result<()> {
        match Pin::new(&mut *self.stream).poll_write(cx, frame) {
            Poll::Ready(Ok(count)) if count == frame.len() => Ok(()),
            Poll::Ready(Ok(count)) => {
                self.out.extend_from_slice(&frame[count..]);
                Ok(())
            }
            Poll::Pending => {
                self.out.extend_from_slice(frame);
                Ok(())
            }
            Poll::Ready(Err(error)) => {
                self.mute = true;
                Err(error)
            }
        }
    }

    /// The next event; payload lies at the start of `scratch`. Answers to pings are queued.
    pub(super) fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<Result<Event, Error>> {
        loop {
            if self.out.len() > MOST_WAITING {
                return Poll::Ready(Err(Error::Flooded));
            }
            if let Some(event) = ready!(self.poll_part(cx, scratch))? {
                return Poll::Ready(Ok(event));
            }
        }
    }

    /// Reads the next part of a frame: `None` where it makes no event.
    fn poll_part(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<Result<Option<Event>, Error>> {
        match &mut self.reading {
            Reading::Header(word, have) => {
                let count = ready!(read(&mut self.stream, cx, &mut word[*have..]))?;
                *have += count;
                if *have == HEADER_OCTETS {
                    let word = *word;
                    return Poll::Ready(self.begin_frame(word));
                }
            }
            Reading::Payload(left, payload) => {
                let most = scratch.len().min(*left);
                let count = ready!(read(&mut self.stream, cx, &mut scratch[..most]))?;
                let payload = *payload;
                *left -= count;
                if *left == 0 {
                    self.reading = AT_HEADER;
                }
                self.heard = crate::clock::now();
                let deliver = payload == Payload::Deliver;
                return Poll::Ready(Ok(deliver.then_some(Event::Payload(count))));
            }
            Reading::Body(kind, body, have) => {
                let count = ready!(read(&mut self.stream, cx, &mut body[*have..]))?;
                *have += count;
                if *have == body.len() {
                    let control = Control::decode(*kind, body)?;
                    self.reading = AT_HEADER;
                    return Poll::Ready(self.on_control(control));
                }
            }
            Reading::Skip(left) => {
                let most = scratch.len().min(*left);
                *left -= ready!(read(&mut self.stream, cx, &mut scratch[..most]))?;
                if *left == 0 {
                    self.reading = AT_HEADER;
                }
            }
        }
        Poll::Ready(Ok(None))
    }

    fn begin_frame(&mut self, word: [u8; HEADER_OCTETS]) -> Result<Option<Event>, Error> {
        self.reading = match Header::parse(word)? {
            Header::Payload(length) => Reading::Payload(length, self.role.on_payload()?),
            Header::Control(kind, 0) => {
                self.reading = AT_HEADER;
                return self.on_control(Control::decode(kind, &[])?);
            }
            Header::Control(kind, length) => Reading::Body(kind, vec![0; length], 0),
            Header::Skip(0) => AT_HEADER,
            Header::Skip(length) => Reading::Skip(length),
        };
        Ok(None)
    }

    fn on_control(&mut self, control: Control) -> Result<Option<Event>, Error> {
        self.heard = crate::clock::now();
        let event = self.role.on_control(control)?;
        match &event {
            Event::Ping(number) => {
                let pong = Control::Pong(*number);
                self.queue(&pong);
                return Ok(None);
            }
            Event::Stale => return Ok(None),
            Event::Cancelled(Some(reset)) => {
                let reset = Control::Reset(*reset);
                self.queue(&reset);
            }
            Event::Drain => self.draining = true,
            _ => {}
        }
        Ok(Some(event))
    }

    /// Waits for the next event while writing what is queued; payload is appended to `payload`.
    /// Dropping the future loses nothing.
    pub(super) async fn event(&mut self, payload: &mut Vec<u8>) -> Result<Event, Error> {
        poll_fn(|cx| {
            // A failed write is no reason not to read what came before.
            let _written = self.poll_flush(cx);
            let event = with_scratch(|scratch| {
                let event = ready!(self.poll_event(cx, scratch))?;
                if let Event::Payload(count) = event {
                    payload.extend_from_slice(&scratch[..count]);
                }
                Poll::Ready(Ok(event))
            });
            // Reading may have queued an answer.
            let _written = self.poll_flush(cx);
            event
        })
        .await
    }

    /// Writes what is queued, down to the socket.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Closes so that the last frame arrives: says goodbye, then reads over what still comes,
    /// for a bounded time.
    pub(super) async fn close(mut self) {
        let goodbye = async {
            self.flush().await?;
            self.stream.shutdown().await?;
            let mut rest = (&mut *self.stream).take(CLOSE_OCTETS);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map(|_| ())
        };
        // However it ends, it is over.
        let _ended = tokio::time::timeout(CLOSE_TIME, goodbye).await;
    }
}

/// Reads at least one octet; the end of the connection is an error. `buffer` is not empty.
fn read(
    stream: &mut tls::Stream,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<Result<usize, Error>> {
    let mut buffer = ReadBuf::new(buffer);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    Poll::Ready(match buffer.filled().len() {
        0 => Err(Error::Ended),
        count => Ok(count),
    })
}
