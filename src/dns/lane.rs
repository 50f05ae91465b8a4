//! A UDP socket with a thread of its own, so that questions are answered however busy the runtime
//! is with streams.
//!
//! The thread waits in the kernel for a [`Batch`]; answers and policy are loaded once per batch,
//! its counters are its own, and between a question and its answer nothing is allocated, locked or
//! awaited. It ends when its socket is shut down for reading, after answering what had come.
//!
//! What a network may ask is counted per lane: one that asks from many ports has the budget of each.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use socket2::Socket;
use tokio::sync::oneshot;

use super::batch::{Batch, Datagram, Wait};
use super::limit::Limiter;
use super::respond::{Received, Transport, respond};
use super::shared::Shared;
use super::tally::Tally;
use crate::clock;
use crate::drain::{Phase, Watch};

/// Batches answered of what had come when the end came: more than a receive buffer holds.
const LAST_BATCHES: usize = 512;
/// The pause after an error of the socket, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// Starts the lane of a bound, blocking socket.
///
/// # Errors
/// There is no thread to be had.
pub(super) fn start(socket: Socket, shared: &Arc<Shared>) -> io::Result<Thread> {
    let (socket, shared) = (Arc::new(socket), Arc::clone(shared));
    let own = Arc::clone(&socket);
    Thread::start(socket, move |stop| Lane::new(own, shared).run(stop))
}

/// A thread that reads a socket. It is asked to end when this is dropped, or what came of it.
#[derive(Debug)]
pub(super) struct Thread {
    stop: Stop,
    handle: thread::JoinHandle<()>,
    /// Resolves when the thread ends, however it does.
    ended: oneshot::Receiver<()>,
}

/// Asks a thread to end when dropped.
#[derive(Debug)]
struct Stop {
    asked: Arc<AtomicBool>,
    socket: Arc<Socket>,
}

impl Thread {
    fn start(
        socket: Arc<Socket>,
        run: impl FnOnce(&AtomicBool) + Send + 'static,
    ) -> io::Result<Self> {
        let (alive, ended) = oneshot::channel::<()>();
        let stop = Stop { asked: Arc::default(), socket };
        let asked = Arc::clone(&stop.asked);
        let handle = thread::Builder::new().name("dns-udp".to_owned()).spawn(move || {
            let _dropped_at_the_end = alive;
            run(&asked);
        })?;
        Ok(Self { stop, handle, ended })
    }

    /// Waits for the thread's end, which is asked for at the drain; a panic of the thread goes on
    /// here.
    pub(super) async fn until(self, mut drain: Watch) {
        let Self { stop, handle, mut ended } = self;
        let by_itself = tokio::select! {
            () = drain.reached(Phase::Draining) => false,
            _ = &mut ended => true,
        };
        drop(stop);
        if !by_itself {
            let _ended = ended.await;
        }
        // It has nothing left to do but to end, so this does not wait.
        if let Err(panic) = handle.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.asked.store(true, Ordering::Release);
        // Wakes whoever waits in the kernel. It says that the socket is not connected, and works:
        // sending goes on, and what has come is still read.
        let _not_connected = self.socket.shutdown(Shutdown::Read);
    }
}

/// What the thread needs.
struct Lane {
    socket: Arc<Socket>,
    shared: Arc<Shared>,
    batch: Batch,
    limiter: Limiter,
    tally: Tally,
}

impl Lane {
    fn new(socket: Arc<Socket>, shared: Arc<Shared>) -> Self {
        let tally = shared.metrics.tally(Transport::Udp);
        Self { socket, shared, batch: Batch::new(), limiter: Limiter::default(), tally }
    }

    /// Answers until `stop`; then what is in the socket's buffer.
    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            if let Err(error) = self.step(Wait::ForOne)
                && error.kind() != io::ErrorKind::Interrupted
            {
                self.shared.metrics.socket_error();
                tracing::debug!(%error, "a dns socket failed to read; it is tried again");
                thread::sleep(ERROR_PAUSE);
            }
        }
        for _ in 0..LAST_BATCHES {
            if self.step(Wait::Not).is_err() {
                break;
            }
        }
    }

    /// Answers one batch. The time is that from the batch's coming to its answers' going, and
    /// counts for each of them.
    fn step(&mut self, wait: Wait) -> io::Result<()> {
        let Self { socket, shared, batch, limiter, tally } = self;
        batch.receive(socket.as_fd(), wait)?;
        let now = clock::now();
        let policy = shared.policy.load();
        let answers = shared.answers.load();
        let mut answered = 0;
        batch.answer_each(|Datagram { octets, whole, source }, out| {
            if !whole {
                make_malformed(octets);
            }
            let (message, transport) = (&*octets, Transport::Udp);
            let received = Received { message, transport, source, now };
            match respond(received, &policy, &answers, Some(&mut *limiter), out) {
                Some(responded) => {
                    tally.answered(responded);
                    answered += 1;
                }
                None => tally.dropped(),
            }
        });
        for _ in 0..batch.send(socket.as_fd()) {
            shared.metrics.socket_error();
        }
        tally.took(clock::now().saturating_duration_since(now), answered);
        Ok(())
    }
}

/// Of a message that is cut nothing may be concluded but its question. With more records than so
/// few octets can hold it is a malformed one, and its client asks again without what made it so
/// long (RFC 6891, section 7).
fn make_malformed(octets: &mut [u8]) {
    if let Some(additional) = octets.get_mut(10..12) {
        additional.fill(0xFF);
    }
}

#[cfg(test)]
#[path = "tests/lane.rs"]
mod tests;
