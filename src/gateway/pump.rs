//! The byte pump between an application's connection and a tunnel, both ways at once.
//!
//! A direction is read only while nothing read before waits to be written, so a slow receiver
//! holds back its sender and nobody else. Half-close passes through each way on its own.

use std::io;
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use tokio::net::TcpStream;

use super::conn::{self, Conn};
use super::ends;
use super::memory::{Budget, Share, TO_APP_CHUNK, with_scratch};
use super::role::{Event, Role};
use crate::wire::frame::{HEADER_OCTETS, Header, MAX_PAYLOAD};

/// With less room than this what came so far is passed on before more is read.
const LEAST_READ: usize = 4096;

/// Octets that one direction moves before other streams of this thread have their turn: sockets
/// with large buffers would else take and give for milliseconds.
const TURN_OCTETS: usize = 512 * 1024;

/// How a stream ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// FIN both ways; the tunnel is idle again.
    Clean,
    /// The application's connection broke.
    AppBroken,
    /// The other gateway reset the stream.
    Reset,
    /// The opener's `CANCEL` crossed our `REPLY`; its answer is queued, the tunnel is idle again.
    Cancelled,
    /// The tunnel broke.
    Lost(conn::Error),
}

/// What a poll came to.
#[derive(Debug)]
pub(super) enum Step {
    /// The application sent FIN: from now on only its socket's error state tells of a reset.
    AppFinished,
    /// The stream ended.
    Done(Outcome),
}

/// One stream in motion.
#[derive(Debug)]
pub(super) struct Pump<'a, R> {
    app: &'a TcpStream,
    conn: &'a mut Conn<R>,
    budget: &'a Budget,
    to_tunnel: Share,
    to_app: Share,
    /// Read from the tunnel, not yet taken by the application.
    pending: Vec<u8>,
    taken: usize,
    /// What came from the tunnel behind the payload that was read last.
    behind: Option<Result<Event, conn::Error>>,
    /// Octets that the direction at work has moved in its turn.
    moved: usize,
    app_finished: bool,
    app_broken: bool,
    fin_delivered: bool,
    /// The tunnel took nothing when it was last tried.
    tunnel_full: bool,
    /// Octets from the application to the tunnel.
    pub(super) sent: u64,
    /// Octets from the tunnel to the application.
    pub(super) received: u64,
}

impl<'a, R: Role> Pump<'a, R> {
    /// A pump for the stream that is open on `conn`.
    pub(super) fn new(app: &'a TcpStream, conn: &'a mut Conn<R>, budget: &'a Budget) -> Self {
        Self {
            app,
            conn,
            budget,
            to_tunnel: budget.share(),
            to_app: budget.share(),
            pending: Vec::new(),
            taken: 0,
            behind: None,
            moved: 0,
            app_finished: false,
            app_broken: false,
            fin_delivered: false,
            tunnel_full: false,
            sent: 0,
            received: 0,
        }
    }

    /// Octets from the tunnel that came before the stream was accepted: the application gets them
    /// first.
    pub(super) fn begin_with(&mut self, octets: Vec<u8>) {
        self.received += octets.len() as u64;
        self.to_app.set(octets.len());
        self.pending = octets;
    }

    /// The tunnel's connection.
    pub(super) fn conn(&mut self) -> &mut Conn<R> {
        self.conn
    }

    /// Whether only the application's error state can still tell of its reset.
    pub(super) fn watches_errors(&self) -> bool {
        self.app_finished && !self.app_broken
    }

    /// Whether the other side's FIN was passed on to the application.
    pub(super) fn fin_delivered(&self) -> bool {
        self.fin_delivered
    }

    /// Octets passed on both ways, while others wait for a receiver and their side is not read.
    pub(super) fn stuck_at(&self) -> Option<u64> {
        let waiting = self.pending.len() - self.taken;
        let is_stuck = waiting > 0 || self.tunnel_full;
        is_stuck.then(|| self.sent + self.received - waiting as u64)
    }

    /// Whether what came from the tunnel waits for the application.
    pub(super) fn waits_for_app(&self) -> bool {
        self.taken < self.pending.len()
    }

    /// Gives the application of what waits as much as there is room for. The runtime calls its
    /// socket writable only once a third of a large buffer is free, for which a slow receiver may
    /// need minutes.
    pub(super) fn push(&mut self) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while self.taken < self.pending.len() {
            // What is wrong, if anything is, the next poll tells.
            match rustix::net::send(self.app, &self.pending[self.taken..], flags) {
                Ok(count) if count > 0 => self.taken += count,
                _ => return,
            }
        }
    }

    /// Whether what waits is for the tunnel.
    pub(super) fn tunnel_is_full(&self) -> bool {
        self.tunnel_full
    }

    /// What the application has not taken yet.
    pub(super) fn into_pending(mut self) -> Vec<u8> {
        self.pending.split_off(self.taken)
    }

    /// Moves what can be moved.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        self.moved = 0;
        if let Poll::Ready(outcome) = self.poll_to_app(cx) {
            return Poll::Ready(Step::Done(outcome));
        }
        self.moved = 0;
        self.poll_to_tunnel(cx)
    }

    /// Pends once the turn is over; the stream comes back after the others.
    fn poll_turn(&self, cx: &Context<'_>) -> Poll<()> {
        if self.moved < TURN_OCTETS {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_to_app(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        loop {
            if ready!(self.poll_pending(cx)).is_err() {
                self.break_app();
            }
            if self.behind.is_none() && self.conn.is_idle() {
                // Both FINs are exchanged; the last of ours leaves with the flush below.
                return match ready!(self.conn.poll_flush(cx)) {
                    Ok(()) => Poll::Ready(Outcome::Clean),
                    Err(error) => Poll::Ready(Outcome::Lost(error.into())),
                };
            }
            let event = match self.behind.take() {
                Some(behind) => behind,
                None => {
                    ready!(self.poll_turn(cx));
                    ready!(self.poll_tunnel_event(cx))
                }
            };
            match event {
                Ok(Event::Fin) => {
                    if !self.app_broken {
                        ends::finish(self.app);
                        self.fin_delivered = true;
                    }
                }
                Ok(Event::Reset) => return Poll::Ready(Outcome::Reset),
                Ok(Event::Cancelled(_)) => return Poll::Ready(Outcome::Cancelled),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Outcome::Lost(error)),
            }
        }
    }

    /// One event from the tunnel. Payload goes straight to the application, as much in one write
    /// as has come and fits: a frame's records one by one would cost a system call each. What
    /// came behind the payload waits until that is delivered.
    fn poll_tunnel_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, conn::Error>> {
        let most = self.budget.chunk(TO_APP_CHUNK);
        with_scratch(|scratch| {
            let mut have = 0;
            while most - have >= LEAST_READ {
                match self.conn.poll_event(cx, &mut scratch[have..most]) {
                    Poll::Ready(Ok(Event::Payload(count))) => have += count,
                    other if have == 0 => return other,
                    Poll::Ready(other) => {
                        self.behind = Some(other);
                        break;
                    }
                    Poll::Pending => break,
                }
            }
            self.received += have as u64;
            self.moved += have;
            self.give_app(&scratch[..have]);
            Poll::Ready(Ok(Event::Payload(have)))
        })
    }

    fn give_app(&mut self, mut octets: &[u8]) {
        if self.app_broken {
            return;
        }
        match self.app.try_write(octets) {
            Ok(count) => octets = &octets[count..],
            Err(error) if ends::is_passing(&error) => {}
            Err(_) => return self.break_app(),
        }
        if !octets.is_empty() {
            self.pending = octets.to_vec();
            self.taken = 0;
            self.to_app.set(octets.len());
        }
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.pending.len() {
            ready!(self.app.poll_write_ready(cx))?;
            match self.app.try_write(&self.pending[self.taken..]) {
                Ok(count) => self.taken += count,
                Err(error) if ends::is_passing(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if !self.pending.is_empty() {
            self.pending = Vec::new();
            self.taken = 0;
            self.to_app.set(0);
        }
        Poll::Ready(Ok(()))
    }

    /// Writing failed. What the application sent before is still read and passed on.
    fn break_app(&mut self) {
        self.app_broken = true;
        self.pending = Vec::new();
        self.taken = 0;
        self.to_app.set(0);
    }

    fn poll_to_tunnel(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            let flushed = self.conn.poll_flush(cx);
            self.tunnel_full = flushed.is_pending();
            if ready!(flushed).is_err() {
                // What was heard before is read first; the reading side will tell the end.
                return Poll::Pending;
            }
            self.to_tunnel.set(0);
            if self.app_finished {
                return match self.app_broken {
                    true => Poll::Ready(Step::Done(Outcome::AppBroken)),
                    false => Poll::Pending,
                };
            }
            ready!(self.poll_turn(cx));
            if ready!(self.app.poll_read_ready(cx)).is_err() {
                return Poll::Ready(Step::Done(Outcome::AppBroken));
            }
            if let Some(step) = self.take_chunk(cx) {
                return Poll::Ready(step);
            }
        }
    }

    /// Reads from the application and writes one frame; `None` to go on.
    fn take_chunk(&mut self, cx: &mut Context<'_>) -> Option<Step> {
        let most = self.budget.chunk(MAX_PAYLOAD);
        with_scratch(|scratch| match self.app.try_read(&mut scratch[HEADER_OCTETS..][..most]) {
            Ok(0) if self.app_broken => Some(Step::Done(Outcome::AppBroken)),
            Ok(0) => {
                self.app_finished = true;
                let fin = self.conn.role().fin();
                self.conn.queue_some(fin);
                Some(Step::AppFinished)
            }
            Ok(count) => {
                scratch[..HEADER_OCTETS].copy_from_slice(&Header::payload(count));
                self.sent += count as u64;
                self.moved += count;
                self.to_tunnel.set(count);
                let frame = &scratch[..HEADER_OCTETS + count];
                // A failure shows at the next flush.
                let _at_the_flush = self.conn.write_payload(cx, frame);
                None
            }
            Err(error) if ends::is_passing(&error) => None,
            Err(_) => Some(Step::Done(Outcome::AppBroken)),
        })
    }
}
