//! One connection, in the clear or not: frames in, frames out (RFC 7766: persistent, pipelined).
//!
//! Invariants: all whole frames of a read are answered with one write, in their order; a
//! connection that waits holds no buffer, for the buffers are the thread's, and only a frame that
//! has begun and answers that were not taken stay with it, counted ([`Slot::keep`]); what is read
//! next waits until the client has taken what was written; nobody holds a place by doing nothing,
//! by a frame that never ends, or by not reading.
//!
//! A wakeup that brings a query polls the stream and the timer and nothing else: the timer is set
//! anew only when it fires, and the watch of the drain is asked only after it has moved.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, sleep_until, timeout};

use super::respond::{Received, Transport};
use super::shared::Shared;
use super::slots::Slot;
use crate::clock;
use crate::drain::{Phase, Watch};

/// Time from the connection to its first whole query.
const FIRST_QUERY: Duration = Duration::from_secs(3);
/// Time from one whole query to the next; CoreDNS keeps idle upstream connections for 10 s and
/// must never be the one that writes into a closed one.
const NEXT_QUERY: Duration = Duration::from_secs(20);
/// Time for a client to take what was written when it would take no more.
const TAKE: Duration = Duration::from_secs(5);
/// The last look at a connection: readiness is known only after the runtime has asked the kernel.
const LAST_LOOK: Duration = Duration::from_millis(10);
/// Octets read at once: several hundred queries.
const READ_OCTETS: usize = 16 << 10;
/// Answers collected before they are written, octets; the last one may reach over it.
const FLUSH_OCTETS: usize = 16 << 10;
/// What a thread keeps of a buffer that one long answer has made longer, octets.
const KEEP_OCTETS: usize = 64 << 10;
/// Reads answered before other tasks of the thread have their turn.
const ROUNDS: u32 = 4;
/// Octets of a frame's length.
const LENGTH_OCTETS: usize = 2;

thread_local! {
    /// Lent to whatever connection this thread drives.
    static DESK: RefCell<Desk> = RefCell::new(Desk::default());
}

/// The buffers of one thread.
struct Desk {
    read: Box<[u8]>,
    answer: Vec<u8>,
    outbox: Vec<u8>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { read: vec![0; READ_OCTETS].into(), answer: Vec::new(), outbox: Vec::new() }
    }
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Everything that was asked is answered and taken, so the client is told.
    Told,
    /// It broke, or took nothing for too long: there is nobody to tell.
    Cut,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection<S> {
    stream: S,
    transport: Transport,
    source: IpAddr,
    shared: Arc<Shared>,
    /// What was read and is no whole frame yet, or waits for answers to be taken.
    inbox: Vec<u8>,
    /// The first frame in the inbox is whole.
    stalled: bool,
    /// Answers that the client did not take at once, of which `taken` octets are gone.
    outbox: Vec<u8>,
    taken: usize,
    /// Octets may lie within the stream.
    unflushed: bool,
    /// When the next whole query is due.
    due: Instant,
    /// When the client must have taken what was written, while there is something.
    take_by: Instant,
    /// The server ends: what has come is answered, and nothing is waited for.
    last: bool,
    /// Nothing is read any more.
    over: bool,
    /// Given back after the stream has closed.
    slot: Slot,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(
        stream: S,
        transport: Transport,
        source: IpAddr,
        slot: Slot,
        shared: Arc<Shared>,
    ) -> Self {
        let now = Instant::from_std(clock::now());
        Self {
            stream,
            transport,
            source,
            shared,
            inbox: Vec::new(),
            stalled: false,
            outbox: Vec::new(),
            taken: 0,
            unflushed: false,
            due: now + FIRST_QUERY,
            take_by: now,
            last: false,
            over: false,
            slot,
        }
    }

    /// Serves until the client ends, falls silent or misbehaves, or the drain; errors of the
    /// socket end it without a word, they are the client's.
    pub(super) async fn serve(mut self, mut drain: Watch) {
        let mut phase = drain.clone();
        let end = {
            let mut timer = pin!(sleep_until(self.due));
            let mut ending = pin!(drain.reached(Phase::Draining));
            let mut first = true;
            poll_fn(|cx| {
                // The first poll leaves our waker with the watch, where it stays.
                if (first || phase.moved()) && !self.last && ending.as_mut().poll(cx).is_ready() {
                    self.last = true;
                    self.due = self.due.min(Instant::from_std(clock::now() + LAST_LOOK));
                }
                first = false;
                if let Poll::Ready(done) = DESK.with_borrow_mut(|desk| self.drive(desk, cx)) {
                    return Poll::Ready(if done.is_ok() { End::Told } else { End::Cut });
                }
                let (deadline, at_its_end) = self.deadline();
                // Who floods uses up the task's budget, and the timer waits for ever.
                if self.last && deadline.into_std() <= clock::now() {
                    return Poll::Ready(at_its_end);
                }
                if timer.deadline() > deadline {
                    timer.as_mut().reset(deadline);
                }
                while timer.as_mut().poll(cx).is_ready() {
                    if deadline.into_std() <= clock::now() {
                        return Poll::Ready(at_its_end);
                    }
                    timer.as_mut().reset(deadline);
                }
                Poll::Pending
            })
            .await
        };
        if end == End::Told {
            let _client_may_be_gone = timeout(TAKE, self.stream.shutdown()).await;
        }
    }

    /// What is waited for at most, and what it means if it does not come.
    fn deadline(&self) -> (Instant, End) {
        if self.unsent() { (self.take_by, End::Cut) } else { (self.due, End::Told) }
    }

    fn unsent(&self) -> bool {
        self.unflushed || !self.outbox.is_empty()
    }

    /// Reads, answers and writes as far as it goes without waiting. Ready is the end.
    fn drive(&mut self, desk: &mut Desk, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Of a connection that panicked before it wrote.
        desk.outbox.clear();
        for _ in 0..ROUNDS {
            ready!(self.poll_take(cx))?;
            if self.stalled {
                let inbox = std::mem::take(&mut self.inbox);
                self.answer_inbox(inbox, desk);
            } else if self.over {
                return Poll::Ready(Ok(()));
            } else {
                let mut read = ReadBuf::new(&mut desk.read);
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
                let octets = read.filled().len();
                if octets == 0 {
                    self.over = true;
                    continue;
                }
                self.take_in(octets, desk);
            }
            self.write(desk, cx)?;
            self.count_kept()?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Answers what was read, behind what had begun before.
    fn take_in(&mut self, octets: usize, desk: &mut Desk) {
        if !self.inbox.is_empty() {
            let mut inbox = std::mem::take(&mut self.inbox);
            inbox.extend_from_slice(&desk.read[..octets]);
            return self.answer_inbox(inbox, desk);
        }
        let Desk { read, answer, outbox } = desk;
        let answered = self.answer(&read[..octets], answer, outbox);
        if answered < octets {
            self.inbox = read[answered..octets].to_vec();
        }
    }

    fn answer_inbox(&mut self, mut inbox: Vec<u8>, desk: &mut Desk) {
        let answered = self.answer(&inbox, &mut desk.answer, &mut desk.outbox);
        self.inbox = match answered {
            // It grows where it is, else every octet of a long frame would move all before it.
            0 => inbox,
            all if all == inbox.len() => Vec::new(),
            some => inbox.split_off(some),
        };
    }

    /// Answers the whole frames at the front, from one set of answers, until there is enough to
    /// write: the octets that took.
    fn answer(&mut self, octets: &[u8], answer: &mut Vec<u8>, outbox: &mut Vec<u8>) -> usize {
        let policy = self.shared.policy.load();
        let answers = self.shared.answers.load();
        let (transport, source, now) = (self.transport, self.source, clock::now());
        let mut at = 0;
        loop {
            let frame = whole_frame(&octets[at..]);
            self.stalled = frame.is_some() && outbox.len() >= FLUSH_OCTETS;
            let Some(message) = frame.filter(|_| !self.stalled) else { return at };
            if message.is_empty() {
                self.over = true;
                return octets.len();
            }
            let received = Received { message, transport, source, now };
            if self.shared.answer(received, &policy, &answers, None, answer) {
                let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
                outbox.extend_from_slice(&length.to_be_bytes());
                outbox.extend_from_slice(&answer[..usize::from(length)]);
            }
            at += LENGTH_OCTETS + message.len();
            if !self.last {
                self.due = Instant::from_std(now + NEXT_QUERY);
            }
        }
    }

    /// Writes what was answered; what the client does not take now is kept.
    fn write(&mut self, desk: &mut Desk, cx: &mut Context<'_>) -> io::Result<()> {
        let mut left = desk.outbox.as_slice();
        if left.is_empty() {
            return Ok(());
        }
        self.unflushed = true;
        while !left.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, left)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(octets) => left = &left[octets..],
                Poll::Pending => break,
            }
        }
        self.outbox = left.to_vec();
        if !self.outbox.is_empty() || self.flush(cx)?.is_pending() {
            self.take_by = Instant::from_std(clock::now() + TAKE);
        }
        desk.outbox.clear();
        desk.outbox.shrink_to(KEEP_OCTETS);
        desk.answer.shrink_to(KEEP_OCTETS);
        Ok(())
    }

    /// Waits until the client has taken what was kept.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.outbox.len() {
            let left = &self.outbox[self.taken..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                octets => self.taken += octets,
            }
        }
        if !self.outbox.is_empty() {
            (self.outbox, self.taken) = (Vec::new(), 0);
            self.count_kept()?;
        }
        if self.unflushed { self.flush(cx)?.map(Ok) } else { Poll::Ready(Ok(())) }
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx)?;
        self.unflushed = flushed.is_pending();
        Ok(flushed)
    }

    /// Where all connections together keep too much, this one ends.
    fn count_kept(&mut self) -> io::Result<()> {
        let kept = self.slot.keep(self.inbox.capacity() + self.outbox.capacity());
        kept.then_some(()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }
}

/// The first frame, without its length, if it is there whole.
fn whole_frame(octets: &[u8]) -> Option<&[u8]> {
    let (length, rest) = octets.split_first_chunk::<LENGTH_OCTETS>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}
