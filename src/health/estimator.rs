//! How far: round trips smoothed, the one that ranks, and the share of probes lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::config::Timing;

/// How many samples the median is taken of.
const MEDIAN_OF: usize = 3;

/// How many probes the loss is counted over.
const LOSS_OVER: usize = 100;

/// The first samples are taken by their shortest: a path is never faster than it is, but a process
/// that has just started, or its peer, is often slow.
const SEED_OF: u32 = 5;

/// The median of the last three samples, smoothed by time, so that neither one slow answer nor a
/// burst of late ones moves it. Until [`SEED_OF`] samples were taken, the shortest of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Estimator {
    last: VecDeque<Duration>,
    seconds: f64,
    updated: Option<Instant>,
    taken: u32,
}

impl Estimator {
    /// Takes a sample; beyond `good_max` it only says "slow" and counts as that.
    pub(super) fn sample(&mut self, rtt: Duration, at: Instant, timing: &Timing) {
        let sample = rtt.min(timing.good_max);
        if self.last.len() == MEDIAN_OF {
            self.last.pop_front();
        }
        self.last.push_back(sample);
        self.taken = self.taken.saturating_add(1);
        match self.updated {
            Some(before) if self.taken > SEED_OF => {
                let passed = at.saturating_duration_since(before).as_secs_f64();
                let weight = 1.0 - (-passed / timing.rtt_decay.as_secs_f64()).exp();
                self.seconds += weight * (self.median().as_secs_f64() - self.seconds);
            }
            Some(_) => self.seconds = self.seconds.min(sample.as_secs_f64()),
            None => self.seconds = sample.as_secs_f64(),
        }
        self.updated = Some(self.updated.map_or(at, |before| before.max(at)));
    }

    /// The smoothed round trip, once measured.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.updated.map(|_| Duration::from_secs_f64(self.seconds.max(0.0)))
    }

    /// Whether the first samples are over: from now on it smooths.
    pub(super) fn settled(&self) -> bool {
        self.taken >= SEED_OF
    }

    /// Within what a `PONG` is good; before the first measurement the longest.
    pub(super) fn good_within(&self, timing: &Timing) -> Duration {
        self.rtt().map_or(timing.good_max, |rtt| {
            (rtt * timing.good_rtt_factor).clamp(timing.good_min, timing.good_max)
        })
    }

    fn median(&self) -> Duration {
        let mut sorted: Vec<Duration> = self.last.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

/// The round trip that ranks: it moves only on a difference that is large enough for long enough.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranking {
    value: Option<Duration>,
    settled: bool,
    differs_since: Option<Instant>,
    offered: Option<Instant>,
}

impl Ranking {
    /// Offers the smoothed round trip after a sample. Until an estimator has settled it is
    /// followed at once; a later one, of a new replica, waits like any difference. A gap as long
    /// as the silence that means Down starts the wait again.
    pub(super) fn offer(&mut self, rtt: Duration, settled: bool, at: Instant, timing: &Timing) {
        let gap =
            self.offered.is_some_and(|o| at.saturating_duration_since(o) >= timing.down_after);
        self.offered = Some(at);
        self.settled |= settled;
        let Some(value) = self.value.filter(|_| self.settled) else {
            self.value = Some(rtt);
            self.differs_since = None;
            return;
        };
        let margin = value.mul_f64(timing.ranking_share).max(timing.ranking_least);
        if rtt.abs_diff(value) <= margin {
            self.differs_since = None;
            return;
        }
        let since = match self.differs_since {
            Some(since) if !gap => since,
            _ => at,
        };
        self.differs_since = Some(since);
        if at.saturating_duration_since(since) >= timing.ranking_lasts {
            self.value = Some(rtt);
            self.differs_since = None;
        }
    }

    /// The value that ranks.
    pub(super) fn value(&self) -> Option<Duration> {
        self.value
    }
}

/// What became of the last hundred probes.
#[derive(Debug, Clone, Default)]
pub(super) struct Loss {
    last: VecDeque<bool>,
    lost: u8,
}

impl Loss {
    /// A probe was answered, good or late.
    pub(super) fn answered(&mut self) {
        self.push(false);
    }

    /// A probe was given up.
    pub(super) fn lost(&mut self) {
        self.push(true);
    }

    /// In percent; 0 before the first probe.
    pub(super) fn percent(&self) -> f32 {
        if self.last.is_empty() {
            return 0.0;
        }
        f32::from(self.lost) / self.last.len() as f32 * 100.0
    }

    fn push(&mut self, lost: bool) {
        if self.last.len() == LOSS_OVER && self.last.pop_front() == Some(true) {
            self.lost -= 1;
        }
        self.last.push_back(lost);
        self.lost += u8::from(lost);
    }
}
