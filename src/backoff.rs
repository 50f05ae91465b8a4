//! Jittered exponential back-off that cannot be misconfigured.

use std::time::Duration;

use rand::RngExt;
use thiserror::Error;

/// Why a back-off was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidBackoff {
    /// Zero would spin.
    #[error("the shortest pause is zero; give at least 1ms")]
    Zero,
    /// The range is empty.
    #[error("the longest pause is shorter than the shortest; swap them")]
    Reversed,
}

/// Pauses that double from `min` to `max`, each shortened at random by up to a half.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// A back-off from `min` (not zero) to `max` (not shorter).
    pub fn try_new(min: Duration, max: Duration) -> Result<Self, InvalidBackoff> {
        if min.is_zero() {
            return Err(InvalidBackoff::Zero);
        }
        if max < min {
            return Err(InvalidBackoff::Reversed);
        }
        Ok(Self { min, max, next: min })
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = full.saturating_mul(2).min(self.max);
        full.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Calm again: the next pause is the shortest.
    pub fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_their_jitter_and_stay_capped() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::try_new(ms(100), ms(400)).unwrap();
        for full in [100, 200, 400, 400] {
            let pause = backoff.pause();
            assert!(pause >= ms(full / 2) && pause <= ms(full), "{pause:?} of {full}");
        }
        backoff.reset();
        assert!(backoff.pause() <= ms(100));
    }

    #[test]
    fn an_impossible_range_is_refused() {
        let second = Duration::from_secs(1);
        assert_eq!(Backoff::try_new(Duration::ZERO, second).unwrap_err(), InvalidBackoff::Zero);
        assert_eq!(Backoff::try_new(second, second / 2).unwrap_err(), InvalidBackoff::Reversed);
    }
}
