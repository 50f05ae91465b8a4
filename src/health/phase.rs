//! The states of a replica and their transitions, without probes and silence.

use std::time::{Duration, Instant};

use super::config::Timing;
use super::fact::ProbeKind;
use super::view::{Pace, PeerState};

/// Good probes in a row, one of them fresh, that make a return: one answer on a path that is just
/// healing is none, nor are those of a standing connection while every dial hangs.
const RETURN_BEGUN: u32 = 2;

/// The steps in which the share of a returned replica grows.
const SHARE_STEPS: u8 = 10;

/// Why a replica is Down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nothing heard for long enough.
    Silence,
    /// Its address refuses and no connection is left.
    Refused,
    /// Fresh probes fail in a row, whatever the standing connection says.
    Fresh,
    /// Another process answers where it was.
    Superseded,
    /// It was never Up: first seen while its peer had no Up replica.
    Newcomer,
}

/// Where a replica stands.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Seen, never heard.
    Unknown,
    /// Answering; `ramp` is when it returned, if it did.
    Up { ramp: Option<Instant> },
    /// Something is not as it should be.
    Suspect { ramp: Option<Instant> },
    /// Given up, perhaps on its way back.
    Down(Down),
}

/// What a Down replica remembers.
#[derive(Debug, Clone)]
pub(super) struct Down {
    since: Instant,
    cause: Cause,
    /// Since when streams must have heard something to live on.
    reset_unheard_since: Option<Instant>,
    /// Heard since then, or Down for another reason than silence: a silence from now on is news
    /// to the streams that hang on it.
    heard: bool,
    /// Good probes in a row now.
    back: Option<Run>,
    /// Returns that broke off.
    breaks: u32,
}

/// A return under way (Back): good probes in a row, none missed.
#[derive(Debug, Clone)]
struct Run {
    since: Instant,
    good: u32,
    fresh: u32,
}

impl Phase {
    /// Down at `at`. Only silence resets streams: those unheard since `first_miss`.
    pub(super) fn down(cause: Cause, first_miss: Option<Instant>, at: Instant) -> Self {
        Self::Down(Down {
            since: at,
            cause,
            reset_unheard_since: match cause {
                Cause::Silence => Some(first_miss.unwrap_or(at)),
                Cause::Refused | Cause::Fresh | Cause::Superseded | Cause::Newcomer => None,
            },
            // Found by fresh dials while the standing connection may answer: silence is news.
            heard: matches!(cause, Cause::Fresh | Cause::Refused | Cause::Superseded),
            back: None,
            breaks: 0,
        })
    }

    /// Up → Suspect.
    pub(super) fn suspect(&mut self) {
        if let Self::Up { ramp } = self {
            *self = Self::Suspect { ramp: *ramp };
        }
    }

    /// Something answered.
    pub(super) fn hear(&mut self) {
        if let Self::Down(down) = self {
            down.heard = true;
        }
    }

    /// A probe that left at `sent` was not good.
    pub(super) fn miss(&mut self, sent: Instant) {
        self.suspect();
        if let Self::Down(down) = self
            && let Some(run) = down.back.take_if(|run| sent >= run.since)
            && run.good >= RETURN_BEGUN
            && run.fresh > 0
        {
            down.breaks = down.breaks.saturating_add(1);
        }
    }

    /// Silence has been judged: Down, or for one already Down another silence.
    pub(super) fn fall_silent(&mut self, first_miss: Option<Instant>, at: Instant) {
        if let Self::Down(down) = self {
            down.heard = false;
            down.reset_unheard_since = Some(first_miss.unwrap_or(at));
        } else {
            *self = Self::down(Cause::Silence, first_miss, at);
        }
    }

    /// A step of Back at a good probe; `held` is the end of the hold-down. Whether it may return.
    pub(super) fn step_back(
        &mut self,
        kind: ProbeKind,
        at: Instant,
        held: Option<Instant>,
        timing: &Timing,
    ) -> bool {
        let Self::Down(down) = self else {
            return false;
        };
        let run = down.back.get_or_insert(Run { since: at, good: 0, fresh: 0 });
        run.good = run.good.saturating_add(1);
        run.fresh = run.fresh.saturating_add(u32::from(kind == ProbeKind::Fresh));
        run.good >= timing.back_good
            && run.fresh >= timing.back_fresh
            && at.saturating_duration_since(run.since) >= span(down.breaks, timing)
            && held.is_none_or(|until| at >= until)
    }

    /// The state as shown, without regard to draining.
    pub(super) fn state(&self) -> PeerState {
        match self {
            Self::Unknown => PeerState::Unknown,
            Self::Up { .. } => PeerState::Up,
            Self::Suspect { .. } => PeerState::Suspect,
            Self::Down(_) => PeerState::Down,
        }
    }

    /// Up or Suspect.
    pub(super) fn live(&self) -> bool {
        matches!(self, Self::Up { .. } | Self::Suspect { .. })
    }

    /// How to probe it.
    pub(super) fn pace(&self) -> Pace {
        match self {
            Self::Unknown | Self::Up { .. } => Pace::Steady,
            Self::Suspect { .. } | Self::Down(_) => Pace::Quick,
        }
    }

    /// Whether silence would say something new.
    pub(super) fn minds_silence(&self) -> bool {
        match self {
            Self::Unknown => false,
            Self::Up { .. } | Self::Suspect { .. } => true,
            Self::Down(down) => down.heard,
        }
    }

    /// Since when a stream must have heard something to live on.
    pub(super) fn reset_unheard_since(&self) -> Option<Instant> {
        match self {
            Self::Down(down) => down.reset_unheard_since,
            Self::Unknown | Self::Up { .. } | Self::Suspect { .. } => None,
        }
    }

    /// When one last heard (or first seen) at `last` may be forgotten, if it is gone.
    pub(super) fn forget_due(&self, last: Instant, timing: &Timing) -> Option<Instant> {
        match self {
            Self::Unknown => Some(last + timing.forget),
            Self::Down(down) if down.cause == Cause::Superseded => {
                Some(down.since.max(last) + timing.forget_superseded)
            }
            Self::Down(down) => Some(down.since.max(last) + timing.forget),
            Self::Up { .. } | Self::Suspect { .. } => None,
        }
    }

    /// When it returned, if it did.
    pub(super) fn ramp(&self) -> Option<Instant> {
        match self {
            Self::Up { ramp } | Self::Suspect { ramp } => *ramp,
            Self::Unknown | Self::Down(_) => None,
        }
    }

    /// The share it may take, in tenths, so that its view changes ten times and no more.
    pub(super) fn share(&self, now: Instant, timing: &Timing) -> f32 {
        let reached = |steps: u8| self.share_at(steps, timing).is_none_or(|at| now >= at);
        let steps = (1..=SHARE_STEPS).rev().find(|steps| reached(*steps)).unwrap_or(1);
        f32::from(steps) / f32::from(SHARE_STEPS)
    }

    /// When that share next grows, after `after`.
    pub(super) fn share_due(&self, after: Instant, timing: &Timing) -> Option<Instant> {
        let steps = (1..=SHARE_STEPS).filter_map(|steps| self.share_at(steps, timing));
        steps.filter(|at| *at > after).min()
    }

    fn share_at(&self, steps: u8, timing: &Timing) -> Option<Instant> {
        let step = timing.slow_start / u32::from(SHARE_STEPS);
        self.ramp().map(|from| from + step * u32::from(steps))
    }
}

/// How long a return must be clean. A return that broke off more often than a healing path's may
/// shows a path that loses some probes, not one that is mended: then the time doubles. Without
/// this a path with 20 % loss would return by luck and go Down again.
fn span(breaks: u32, timing: &Timing) -> Duration {
    let doublings = breaks.saturating_sub(timing.back_breaks_free).min(16);
    (timing.back_span * (1 << doublings)).min(timing.back_span_max)
}
