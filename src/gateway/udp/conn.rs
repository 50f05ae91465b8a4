//! One datagram connection between gateways, in either role: whole frames in, a [`Queue`] out.
//!
//! It owns no buffers while idle: what comes is read through the thread's scratch, and only a
//! frame that has come in part is kept. Nothing here knows sessions.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::queue::Queue;
use crate::clock;
pub(super) use crate::gateway::conn::Error;
use crate::gateway::memory::with_scratch;
use crate::tls::{self, PeerIdentity};
use crate::wire::datagram::{self, Frame};

/// How long unacknowledged octets may wait: the reader at the other end never pauses.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// For the goodbye.
const CLOSE_TIME: Duration = Duration::from_millis(200);
/// A buffer larger than this is not kept for the next octets.
const KEPT_OCTETS: usize = 64 * 1024;

/// Whether more frames are wanted in this turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// As many as have come.
    On,
    /// None: what they ask for must be seen to first.
    Pause,
}

/// A framed connection.
#[derive(Debug)]
pub(super) struct Conn {
    stream: Box<tls::Stream>,
    /// A frame that has come in part, behind those that wait for the next turn.
    rest: Vec<u8>,
    /// Whole frames wait for the next turn.
    paused: bool,
    out: Vec<u8>,
    written: usize,
    /// Who is at the other end.
    pub(super) peer: PeerIdentity,
    /// When the first of both leaves ends.
    expires: SystemTime,
    /// When anything was last read.
    pub(super) heard: Instant,
}

impl Conn {
    /// Takes over a connection whose handshake is done. `own_expiry` is that of the leaf shown to
    /// the peer.
    pub(super) fn new(stream: tls::Stream, peer: PeerIdentity, own_expiry: SystemTime) -> Self {
        if let Err(error) = tls::set_user_timeout(&stream, Some(USER_TIMEOUT)) {
            tracing::debug!(%error, "cannot set TCP_USER_TIMEOUT");
        }
        Self {
            stream: Box::new(stream),
            rest: Vec::new(),
            paused: false,
            out: Vec::new(),
            written: 0,
            expires: peer.expires().min(own_expiry),
            peer,
            heard: clock::now(),
        }
    }

    /// Whether a leaf that made it has ended.
    pub(super) fn is_expired(&self, wall: SystemTime) -> bool {
        self.expires <= wall
    }

    /// Writes what waits and hands every frame that has come to `on_frame`, in order; after
    /// [`Flow::Pause`] the rest comes in another turn, which is due at once. Ready only when it is
    /// over.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        queue: &Queue,
        mut on_frame: impl FnMut(Frame<'_>) -> Result<Flow, Error>,
    ) -> Poll<Error> {
        queue.watch(cx.waker());
        if let Poll::Ready(Err(error)) = self.poll_write(cx, queue) {
            return Poll::Ready(error.into());
        }
        match self.poll_read(cx, &mut on_frame) {
            Poll::Ready(Ok(never)) => match never {},
            Poll::Ready(Err(error)) => Poll::Ready(error),
            Poll::Pending if queue.is_flooded() => Poll::Ready(Error::Flooded),
            // Reading may have queued answers.
            Poll::Pending => match self.poll_write(cx, queue) {
                Poll::Ready(Err(error)) => Poll::Ready(error.into()),
                _ => Poll::Pending,
            },
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, queue: &Queue) -> Poll<io::Result<()>> {
        loop {
            while self.written < self.out.len() {
                let rest = &self.out[self.written..];
                match ready!(Pin::new(&mut *self.stream).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    count => self.written += count,
                }
            }
            self.written = 0;
            let mut empty = std::mem::take(&mut self.out);
            empty.clear();
            if empty.capacity() > KEPT_OCTETS {
                empty = Vec::new();
            }
            self.out = queue.take(empty);
            if self.out.is_empty() {
                return Pin::new(&mut *self.stream).poll_flush(cx);
            }
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        on_frame: &mut impl FnMut(Frame<'_>) -> Result<Flow, Error>,
    ) -> Poll<Result<std::convert::Infallible, Error>> {
        if self.paused {
            self.paused = frames(&mut self.rest, &[], on_frame)? == Flow::Pause;
        }
        loop {
            if self.paused {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Self { stream, rest, heard, .. } = self;
            let read = with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut **stream).poll_read(cx, &mut buffer))?;
                let came = buffer.filled();
                if came.is_empty() {
                    return Poll::Ready(Err(Error::Ended));
                }
                *heard = clock::now();
                Poll::Ready(frames(rest, came, on_frame))
            });
            self.paused = ready!(read)? == Flow::Pause;
        }
    }

    /// Closes so that what was queued last arrives, within a bounded time.
    pub(super) async fn close(mut self, queue: &Queue) {
        let goodbye = async {
            std::future::poll_fn(|cx| self.poll_write(cx, queue)).await?;
            self.stream.shutdown().await
        };
        // However it ends, it is over.
        let _ended = tokio::time::timeout(CLOSE_TIME, goodbye).await;
    }
}

/// Hands on every whole frame of what is left from before and what came, up to a pause; keeps the
/// rest.
fn frames(
    rest: &mut Vec<u8>,
    came: &[u8],
    on_frame: &mut impl FnMut(Frame<'_>) -> Result<Flow, Error>,
) -> Result<Flow, Error> {
    if rest.is_empty() {
        let (at, flow) = each(came, on_frame)?;
        rest.extend_from_slice(&came[at..]);
        return Ok(flow);
    }
    rest.extend_from_slice(came);
    let (at, flow) = each(rest, on_frame)?;
    rest.drain(..at);
    if rest.is_empty() {
        *rest = Vec::new();
    }
    Ok(flow)
}

/// How many octets whole frames took, and whether more would have been wanted.
fn each(
    octets: &[u8],
    on_frame: &mut impl FnMut(Frame<'_>) -> Result<Flow, Error>,
) -> Result<(usize, Flow), Error> {
    let mut at = 0;
    while let Some((frame, took)) = datagram::next(&octets[at..])? {
        at += took;
        if on_frame(frame)? == Flow::Pause {
            return Ok((at, Flow::Pause));
        }
    }
    Ok((at, Flow::On))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_out_whole_and_in_order_however_they_were_cut(
            datagrams in proptest::collection::vec(0_usize..3_000, 1..20),
            cuts in proptest::collection::vec(1_usize..4_000, 1..20),
        ) {
            let mut octets = Vec::new();
            for (number, length) in (1_u32..).zip(&datagrams) {
                datagram::encode(number, &vec![7; *length], &mut octets);
            }
            let (mut rest, mut seen, mut at) = (Vec::new(), Vec::new(), 0);
            for cut in cuts.iter().cycle() {
                let end = octets.len().min(at + cut);
                let mut came = &octets[at..end];
                // A pause loses nothing: the rest comes when it is asked for again.
                while frames(&mut rest, came, &mut |frame| {
                    let Frame::Datagram(number, datagram) = frame else { panic!("{frame:?}") };
                    seen.push((number, datagram.len()));
                    Ok(if number % 3 == 0 { Flow::Pause } else { Flow::On })
                })
                .unwrap() == Flow::Pause
                {
                    came = &[];
                }
                at = end;
                if at == octets.len() {
                    break;
                }
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(seen, (1..).zip(datagrams).collect::<Vec<_>>());
        }
    }
}
