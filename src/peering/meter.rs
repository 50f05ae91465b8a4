//! How fast one peer's messages are taken in: pure.
//!
//! A peer that keeps to the protocol never notices: it sends ten changes a second and a snapshot
//! now and then. One that does not is read more slowly, and its bytes wait in its own kernel.

use std::time::{Duration, Instant};

/// Bytes taken in without a pause: a whole catalog at its cap.
const BURST_BYTES: f64 = 80.0 * 1024.0 * 1024.0;
/// Bytes a second after that.
const BYTES_PER_SECOND: f64 = 4.0 * 1024.0 * 1024.0;
/// Messages taken in without a pause, apart from the pieces of a snapshot.
const BURST_MESSAGES: f64 = 60.0;
/// Messages a second after that.
const MESSAGES_PER_SECOND: f64 = 20.0;

/// What a message costs beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    /// Its bytes only: a piece of something larger.
    Piece,
    /// One message.
    Message,
    /// A whole catalog to be read or written.
    Catalog,
}

/// The account of one session.
#[derive(Debug)]
pub(super) struct Meter {
    bytes: f64,
    messages: f64,
    at: Instant,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self { bytes: BURST_BYTES, messages: BURST_MESSAGES, at: now }
    }

    /// Charges one message; how long to wait before the next one is read.
    pub(super) fn charge(&mut self, size: usize, cost: Cost, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        let size = size as f64;
        let messages = match cost {
            Cost::Piece => 0.0,
            Cost::Message => 1.0,
            Cost::Catalog => 10.0,
        };
        self.bytes = (self.bytes + elapsed * BYTES_PER_SECOND).min(BURST_BYTES) - size;
        self.messages =
            (self.messages + elapsed * MESSAGES_PER_SECOND).min(BURST_MESSAGES) - messages;
        let debt = (-self.bytes / BYTES_PER_SECOND).max(-self.messages / MESSAGES_PER_SECOND);
        Duration::from_secs_f64(debt.max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_changes_a_second_are_never_held_back() {
        let mut now = crate::clock::now();
        let mut meter = Meter::new(now);
        for _ in 0..1_000 {
            now += Duration::from_millis(100);
            assert_eq!(meter.charge(32 * 1024, Cost::Message, now), Duration::ZERO);
        }
    }

    #[test]
    fn a_thousand_changes_a_second_are_read_at_twenty() {
        let start = crate::clock::now();
        let mut now = start;
        let mut meter = Meter::new(now);
        let mut read = 0;
        while now < start + Duration::from_secs(60) {
            now += meter.charge(500, Cost::Message, now).max(Duration::from_millis(1));
            read += 1;
        }
        assert!((1_200..1_300).contains(&read), "{read}");
    }

    #[test]
    fn one_catalog_at_its_cap_passes_and_endless_ones_do_not() {
        let start = crate::clock::now();
        let mut now = start;
        let mut meter = Meter::new(now);
        let piece = 32 * 1024;
        for _ in 0..64 * 32 {
            assert_eq!(meter.charge(piece, Cost::Piece, now), Duration::ZERO);
        }
        for _ in 0..64 * 32 {
            now += meter.charge(piece, Cost::Piece, now);
        }
        assert!(now >= start + Duration::from_secs(11));
    }
}
