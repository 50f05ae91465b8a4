//! Log set-up, small metric builders, the process's own figures, and a brake for repeated
//! warnings.
//!
//! Not here: concrete metrics of a module (each registers its own), global registries.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounter, Opts, Registry};

/// Lets one event through per interval and counts those it held back, so that a flood of
/// refusals does not flood the log. The first one always passes.
#[derive(Debug)]
pub struct Throttle {
    every: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl Throttle {
    /// At most one event per `every`.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        Self { every, state: Mutex::new((None, 0)) }
    }

    /// Whether an event at `now` passes: then how many were held back since the last that did.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.is_some_and(|last| now.saturating_duration_since(last) < self.every) {
            state.1 = state.1.saturating_add(1);
            return None;
        }
        let held = std::mem::take(&mut state.1);
        state.0 = Some(now);
        Some(held)
    }
}

/// `portolan_panics_total{component}`: panics of per-connection tasks. Every component registers
/// its own.
pub fn panic_counter(
    registry: &Registry,
    component: &'static str,
) -> Result<IntCounter, prometheus::Error> {
    let opts = Opts::new("portolan_panics_total", "Panics of per-connection tasks.")
        .const_label("component", component);
    let counter = IntCounter::with_opts(opts)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}
