//! Log set-up, small metric builders, the process's own figures, and a brake for repeated
//! warnings.
//!
//! Metrics are values that their owners keep: every builder registers on the registry it is
//! given. Not here: concrete metrics of a module, global registries, domain words.

mod log;
mod metric;
mod process;

pub use log::{LogError, LogFilter, LogFormat, init_log};
pub use metric::{counter, counters, gauge, gauges, histogram, histograms, panic_counter, spread};
pub use process::register_process;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets one event through per interval and counts those it held back, so that a flood of
/// refusals does not flood the log. The first one always passes.
#[derive(Debug)]
pub struct Throttle {
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    held: u64,
}

impl Throttle {
    /// At most one event per `every`.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        Self { every, state: Mutex::default() }
    }

    /// Whether an event at `now` passes: then how many were held back since the last that did.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < self.every) {
            state.held = state.held.saturating_add(1);
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.held))
    }
}

#[cfg(test)]
mod tests;
