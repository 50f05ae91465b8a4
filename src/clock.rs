//! The one place where time is read.
//!
//! Monotonic time drives every timer; wall time is for certificates and people only. Decisions
//! take `now` as an argument and never call this. Under tokio's paused clock `now` is paused too.

use std::time::{Instant, SystemTime};

/// Monotonic now.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one place where monotonic time is read")]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Wall-clock now.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one place where wall time is read")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Wall-clock now in Unix milliseconds; 0 before 1970.
#[must_use]
pub fn wall_ms() -> i64 {
    wall()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}
