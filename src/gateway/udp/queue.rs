//! What waits to be written on one datagram connection: bounded, and on full the datagram is
//! dropped, never its elders. Anybody pushes, one task writes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;

use crate::wire::datagram;
use crate::wire::frame::Control;

/// Octets that may wait for a connection; a datagram that finds no room is dropped.
pub(super) const MOST_QUEUED: usize = 256 * 1024;
/// Control frames are never dropped: so many octets of them above that, and the peer asks
/// without reading.
const MOST_CONTROL: usize = 256 * 1024;

/// There was no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// Octets on their way to a connection's writer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    writer: AtomicWaker,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: Vec<u8>,
    /// Octets the writer took and has not written yet.
    taken: usize,
    flooded: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends one datagram.
    pub(super) fn datagram(&self, session: u32, octets: &[u8]) -> Result<(), Full> {
        let mut inner = self.lock();
        let held = inner.waiting.len() + inner.taken;
        if held + datagram::frame_octets(octets) > MOST_QUEUED {
            return Err(Full);
        }
        datagram::encode(session, octets, &mut inner.waiting);
        drop(inner);
        self.writer.wake();
        Ok(())
    }

    /// Appends a control frame.
    pub(super) fn control(&self, frame: &Control) {
        let mut inner = self.lock();
        if inner.waiting.len() + inner.taken > MOST_QUEUED + MOST_CONTROL {
            inner.flooded = true;
        } else {
            frame.encode(&mut inner.waiting);
        }
        drop(inner);
        self.writer.wake();
    }

    /// Whether a session may be asked for: a datagram of middling size would find room.
    pub(super) fn has_room(&self) -> bool {
        let inner = self.lock();
        inner.waiting.len() + inner.taken < MOST_QUEUED / 2
    }

    /// Whether control frames found no room.
    pub(super) fn is_flooded(&self) -> bool {
        self.lock().flooded
    }

    /// Who is woken by what is appended from now on.
    pub(super) fn watch(&self, writer: &Waker) {
        self.writer.register(writer);
    }

    /// The writer has written what it took, and takes what waits; `written` is its empty buffer.
    pub(super) fn take(&self, written: Vec<u8>) -> Vec<u8> {
        debug_assert!(written.is_empty(), "only what was written makes room");
        let mut inner = self.lock();
        inner.taken = inner.waiting.len();
        if inner.waiting.is_empty() {
            // An idle connection holds no buffer.
            inner.waiting = Vec::new();
            return Vec::new();
        }
        std::mem::replace(&mut inner.waiting, written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_the_newest_and_what_the_writer_took_counts() {
        let queue = Queue::default();
        let datagram = [0; 1024];
        let fit = MOST_QUEUED / datagram::frame_octets(&datagram);
        for _ in 0..fit {
            queue.datagram(1, &datagram).unwrap();
        }
        assert_eq!(queue.datagram(1, &datagram), Err(Full));
        assert!(!queue.has_room());
        let taken = queue.take(Vec::new());
        assert_eq!(taken.len(), fit * datagram::frame_octets(&datagram));
        assert_eq!(queue.datagram(1, &datagram), Err(Full), "it is not written yet");
        assert!(queue.take(Vec::new()).is_empty());
        assert!(queue.has_room() && queue.datagram(1, &datagram).is_ok());
    }

    #[test]
    fn answers_are_not_dropped_but_a_peer_that_never_reads_is_told_apart() {
        let queue = Queue::default();
        while queue.datagram(1, &[0; 1024]).is_ok() {}
        queue.control(&Control::Pong(1));
        assert!(!queue.is_flooded());
        for number in 0..200_000 {
            queue.control(&Control::Pong(number));
        }
        assert!(queue.is_flooded());
        assert!(queue.take(Vec::new()).len() <= MOST_QUEUED + MOST_CONTROL + 64);
    }
}
