//! Shares that change by time: down along a drain's ramp, or a step at a time towards a target.

use std::time::{Duration, Instant};

use crate::catalog::Share;
use crate::model::Drain;

/// Two steps of a ramp are at least so far apart: tables are not published more often.
const STEP_LEAST: Duration = Duration::from_millis(100);
/// A share that follows a target moves by one point in this time: 10 points a second.
const POINT_EVERY: Duration = Duration::from_millis(100);

/// A drain in force, anchored to monotonic time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ramp {
    ends: Instant,
    over: Duration,
}

impl Ramp {
    /// Anchors a drain where the wall clock shows `wall_ms` at `now`.
    pub(super) fn new(drain: Drain, wall_ms: i64, now: Instant) -> Self {
        let left = u64::try_from(drain.until_ms().saturating_sub(wall_ms)).unwrap_or(0);
        let ends = now.checked_add(Duration::from_millis(left)).unwrap_or(now);
        Self { ends, over: drain.over() }
    }

    /// All before it begins, falling in proportion to time, none from its end on.
    pub(super) fn share(self, now: Instant) -> Share {
        let left = self.ends.saturating_duration_since(now).min(self.over).as_nanos();
        if self.ends <= now {
            return Share::NONE;
        }
        let percent = (left * 100).div_ceil(self.over.as_nanos().max(1));
        // A sudden drain that lies ahead has a whole share until then.
        let percent = if self.over.is_zero() { 100 } else { percent };
        u32::try_from(percent).ok().and_then(Share::new).unwrap_or_default()
    }

    /// When it next changes, after `now`.
    pub(super) fn next(self, now: Instant) -> Option<Instant> {
        let left = self.ends.saturating_duration_since(now);
        if left.is_zero() {
            return None;
        }
        let step = (self.over / 100).max(STEP_LEAST);
        let begun = left.min(self.over);
        let steps = begun.as_nanos().div_ceil(step.as_nanos()).saturating_sub(1);
        let before_end = step * u32::try_from(steps).unwrap_or(u32::MAX);
        Some(self.ends.checked_sub(before_end).unwrap_or(self.ends))
    }
}

/// A share that follows its target by at most ten points a second. Only for want of any backend
/// it is nothing at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Follower {
    share: Share,
    target: Share,
    /// Since when the next point is earned.
    since: Instant,
}

impl Follower {
    /// One that is at its target.
    pub(super) fn at(target: Share, now: Instant) -> Self {
        Self { share: target, target, since: now }
    }

    /// The share now.
    pub(super) fn share(self) -> Share {
        self.share
    }

    /// Whether it takes everything and is to go on doing so.
    pub(super) fn is_full(self) -> bool {
        self.share == Share::FULL && self.target == Share::FULL
    }

    /// Follows this target from `now` on.
    pub(super) fn aim(&mut self, target: Share, now: Instant) {
        self.advance(now);
        self.target = target;
        if target == Share::NONE {
            self.share = Share::NONE;
        }
    }

    /// Takes the steps that time allows. At rest nothing is earned for later.
    pub(super) fn advance(&mut self, now: Instant) {
        while self.share != self.target {
            let Some(at) = self.since.checked_add(POINT_EVERY).filter(|at| *at <= now) else {
                return;
            };
            let percent = u32::from(self.share.percent());
            let next = if self.share < self.target { percent + 1 } else { percent - 1 };
            self.share = Share::new(next).unwrap_or(self.target);
            self.since = at;
        }
        self.since = self.since.max(now);
    }

    /// When it next moves.
    pub(super) fn next(self) -> Option<Instant> {
        (self.share != self.target).then(|| self.since + POINT_EVERY)
    }
}
