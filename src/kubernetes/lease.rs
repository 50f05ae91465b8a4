//! Which replica writes: the Lease.
//!
//! One Lease object names the holder. A holder renews it every second and stops writing 4 s after
//! it *sent* the last renewal that succeeded; others take it 6 s after they last *saw* it change.
//! Both are measured on the local monotonic clock, so neither skewed clocks nor a process that was
//! frozen in between make two writers: a thawed holder finds its tenure over before it sends.
//!
//! The rules are [`evaluate`], pure; the requests are [`Elector`]. Not here: what a holder writes.
//! Source of the rules: client-go `tools/leaderelection`.

mod elector;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub(super) use self::elector::{Elector, LeaseName};

/// How long a record that does not change protects its holder.
pub(super) const DURATION: Duration = Duration::from_secs(6);
/// How long after sending its last successful renewal a holder may write.
pub(super) const RENEW_DEADLINE: Duration = Duration::from_secs(4);
/// How often it is renewed, or looked at by the others.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// A record that asks for more protection than this is not ours to wait for.
const MAX_DURATION: Duration = Duration::from_secs(60);

/// The Lease as the API server holds it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    /// Who holds it; empty: nobody.
    holder: Box<str>,
    /// How long it is protected after a change.
    duration: Duration,
    /// When it was renewed by the holder's clock: compared, never understood.
    renewed: Box<str>,
    transitions: u64,
    /// Everything, to be written back with only the spec changed.
    whole: Value,
}

impl Record {
    /// Reads a Lease. Fields that are absent or odd count as empty: such a record is taken over
    /// after [`DURATION`] like any other.
    pub(super) fn read(mut whole: Value) -> Self {
        if !whole.is_object() {
            whole = json!({});
        }
        if !whole["spec"].is_object() {
            whole["spec"] = json!({});
        }
        let spec = &whole["spec"];
        let text = |field: &str| spec[field].as_str().unwrap_or_default().into();
        let number = |field: &str| spec[field].as_u64().unwrap_or(0);
        Self {
            holder: text("holderIdentity"),
            duration: Duration::from_secs(number("leaseDurationSeconds")),
            renewed: text("renewTime"),
            transitions: number("leaseTransitions"),
            whole,
        }
    }

    /// Whether `other` shows no sign of life since: whatever else touched the object (a label, an
    /// annotation) prolongs nothing.
    fn is_same_term(&self, other: &Self) -> bool {
        self.holder == other.holder
            && self.renewed == other.renewed
            && self.transitions == other.transitions
            && self.duration == other.duration
    }

    /// The object that makes or keeps `identity` the holder; it carries the version it was
    /// computed from. `wall` is for people: RFC 3339 with microseconds.
    fn held_by(&self, identity: &str, wall: &str) -> Value {
        let mut next = self.whole.clone();
        let same = *self.holder == *identity;
        let spec = &mut next["spec"];
        if !same || !spec["acquireTime"].is_string() {
            spec["acquireTime"] = json!(wall);
        }
        spec["leaseTransitions"] = json!(self.transitions.saturating_add(u64::from(!same)));
        spec["holderIdentity"] = json!(identity);
        spec["leaseDurationSeconds"] = json!(DURATION.as_secs());
        spec["renewTime"] = json!(wall);
        next
    }

    /// The object that gives the Lease back.
    fn released(&self, wall: &str) -> Value {
        let mut next = self.whole.clone();
        let spec = &mut next["spec"];
        spec["holderIdentity"] = json!("");
        spec["leaseDurationSeconds"] = json!(1);
        spec["renewTime"] = json!(wall);
        next
    }
}

/// A record, and when it was first seen as it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Observed {
    record: Record,
    since: Instant,
}

impl Observed {
    /// What is known after `record` was read at `now`.
    pub(super) fn after(before: Option<&Self>, record: Record, now: Instant) -> Self {
        let since = match before {
            Some(before) if before.record.is_same_term(&record) => before.since,
            _ => now,
        };
        Self { record, since }
    }
}

/// What to do about the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is none: make it.
    Create,
    /// It is free, or its holder has shown no life for as long as it is protected.
    Take,
    /// It is ours.
    Renew,
    /// Another holds it until then, unless it renews.
    Wait(Instant),
}

/// What `identity` does about the Lease at `now`.
pub(super) fn evaluate(observed: Option<&Observed>, identity: &str, now: Instant) -> Step {
    let Some(Observed { record, since }) = observed else { return Step::Create };
    if *record.holder == *identity {
        return Step::Renew;
    }
    if record.holder.is_empty() {
        return Step::Take;
    }
    let free = *since + record.duration.clamp(DURATION, MAX_DURATION);
    if now >= free { Step::Take } else { Step::Wait(free) }
}

/// Whether this replica may write, readable from everywhere.
#[derive(Debug, Default)]
pub(super) struct Tenure(Mutex<Option<Instant>>);

impl Tenure {
    /// A renewal sent at `sent` succeeded.
    pub(super) fn renewed(&self, sent: Instant) {
        *self.lock() = Some(sent);
    }

    /// It was given back, or lost.
    pub(super) fn ended(&self) {
        *self.lock() = None;
    }

    /// When this replica must stop writing; `None`: it does not write.
    pub(super) fn until(&self) -> Option<Instant> {
        self.lock().map(|sent| sent + RENEW_DEADLINE)
    }

    /// Whether a write may be sent at `now`; then the moment by which it must have been answered
    /// or given up, because from then on another may write.
    pub(super) fn permit(&self, now: Instant) -> Option<Instant> {
        let sent = (*self.lock())?;
        (now < sent + RENEW_DEADLINE).then_some(sent + DURATION)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
