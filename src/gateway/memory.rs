//! Buffered bytes: one scratch buffer per thread, and the cap of the whole process.
//!
//! A pump borrows the scratch only inside one poll, so a stream that waits holds none. What a
//! stream could not write at once is counted against the cap; above it, reads shrink to one TLS
//! record, and since a direction with unwritten bytes is never read, a stream whose receiver
//! reads never waits for others.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::wire::frame::{HEADER_OCTETS, MAX_PAYLOAD};

/// Octets of the scratch buffer: one whole frame.
pub(super) const SCRATCH_OCTETS: usize = HEADER_OCTETS + MAX_PAYLOAD;
/// Octets a plain relay reads at once.
pub(super) const RELAY_CHUNK: usize = 32 * 1024;
/// Octets given to an application at once: two whole TLS records, so that with a frame on its way
/// to the tunnel a busy stream holds no more than 96 KiB.
pub(super) const TO_APP_CHUNK: usize = 32 * 1024;
/// One TLS record's worth of payload behind a frame's word.
pub(super) const SMALL_CHUNK: usize = 16 * 1024 - HEADER_OCTETS;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `act` with this thread's scratch buffer of [`SCRATCH_OCTETS`].
pub(super) fn with_scratch<T>(act: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut buffer) => {
            buffer.resize(SCRATCH_OCTETS, 0);
            act(&mut buffer)
        }
        // Never nested; a buffer of one's own is right all the same.
        Err(_) => act(&mut vec![0; SCRATCH_OCTETS]),
    })
}

/// The cap of bytes that all streams together hold unwritten.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    held: Arc<AtomicUsize>,
    cap: usize,
}

impl Budget {
    /// A cap in octets.
    pub(super) fn new(cap: usize) -> Self {
        Self { held: Arc::new(AtomicUsize::new(0)), cap }
    }

    /// How much a direction without unwritten bytes may read at once.
    pub(super) fn chunk(&self, most: usize) -> usize {
        if self.held() > self.cap { most.min(SMALL_CHUNK) } else { most }
    }

    /// What is held now, in octets.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// A share of it that starts empty.
    pub(super) fn share(&self) -> Share {
        Share { budget: self.clone(), octets: 0 }
    }
}

/// What one direction of one stream holds; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Budget,
    octets: usize,
}

impl Share {
    /// It holds so many octets now.
    pub(super) fn set(&mut self, octets: usize) {
        if octets > self.octets {
            self.budget.held.fetch_add(octets - self.octets, Ordering::Relaxed);
        } else if octets < self.octets {
            self.budget.held.fetch_sub(self.octets - octets, Ordering::Relaxed);
        }
        self.octets = octets;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_the_cap_reads_shrink_to_a_record_and_shares_are_given_back() {
        let budget = Budget::new(100);
        let (mut one, mut other) = (budget.share(), budget.share());
        one.set(60);
        assert_eq!(budget.chunk(MAX_PAYLOAD), MAX_PAYLOAD);
        other.set(60);
        assert_eq!(budget.chunk(MAX_PAYLOAD), SMALL_CHUNK);
        one.set(10);
        assert_eq!(budget.held(), 70);
        drop(other);
        assert_eq!(budget.held(), 10);
    }
}
