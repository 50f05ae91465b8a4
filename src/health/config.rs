//! The numbers of health, checked once.

use std::time::Duration;

use thiserror::Error;

/// Every number that health decides by. [`Timing::default`] has those of the design.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// Decay of the smoothed round trip (10 s): a lasting change is taken in to 63 % by then.
    pub rtt_decay: Duration,
    /// Factor of the smoothed round trip within which a `PONG` is good (4).
    pub good_rtt_factor: u32,
    /// A `PONG` within this is always good (300 ms).
    pub good_min: Duration,
    /// A `PONG` after this is never good (1 s).
    pub good_max: Duration,
    /// A probe without an answer for this long is given up (3 s).
    pub probe_deadline: Duration,
    /// `OPEN`s in a row without `REPLY` that make a replica Suspect (2).
    pub opens_until_suspect: u32,
    /// Silence after which the open streams are asked (2 s).
    pub ask_after: Duration,
    /// Silence that makes a replica Down (3 s).
    pub down_after: Duration,
    /// Unanswered probes that must stand beside that silence (3).
    pub down_probes: u32,
    /// Dials refused in a row that make a replica without a connection Down (2).
    pub refused_until_down: u32,
    /// Fresh probes in a row not good that make a replica Down (3).
    pub fresh_until_down: u32,
    /// Good probes in a row before a return (5).
    pub back_good: u32,
    /// How many of them must be fresh (2).
    pub back_fresh: u32,
    /// Shortest time that they must span (5 s).
    pub back_span: Duration,
    /// Longest such time: the span doubles whenever a return breaks off, up to this (20 s).
    pub back_span_max: Duration,
    /// How many returns may break off before the span doubles (1).
    pub back_breaks_free: u32,
    /// First hold-down, from the moment of Down (5 s); doubles per flap.
    pub hold_min: Duration,
    /// Longest hold-down (60 s).
    pub hold_max: Duration,
    /// Flaps are forgotten so long after the last Down (5 min).
    pub hold_forget: Duration,
    /// How long a returned replica takes to its full share (30 s).
    pub slow_start: Duration,
    /// The ranking round trip moves on a difference above this share (0.2)…
    pub ranking_share: f64,
    /// …and above this (5 ms)…
    pub ranking_least: Duration,
    /// …that lasts this long (10 s).
    pub ranking_lasts: Duration,
    /// One round of probes with its slack (1.5 s): peers whose last answers lie closer together
    /// fell silent at the same time.
    pub round: Duration,
    /// A loop later than this voids the round (200 ms).
    pub lag: Duration,
    /// Rounds voided in a row at most (2).
    pub voids_in_a_row: u32,
    /// A replica that is gone is forgotten so long after it was last heard (60 s).
    pub forget: Duration,
    /// One whose process was replaced, so long after that (10 s).
    pub forget_superseded: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            rtt_decay: Duration::from_secs(10),
            good_rtt_factor: 4,
            good_min: Duration::from_millis(300),
            good_max: Duration::from_secs(1),
            probe_deadline: Duration::from_secs(3),
            opens_until_suspect: 2,
            ask_after: Duration::from_secs(2),
            down_after: Duration::from_secs(3),
            down_probes: 3,
            refused_until_down: 2,
            fresh_until_down: 3,
            back_good: 5,
            back_fresh: 2,
            back_span: Duration::from_secs(5),
            back_span_max: Duration::from_secs(20),
            back_breaks_free: 1,
            hold_min: Duration::from_secs(5),
            hold_max: Duration::from_secs(60),
            hold_forget: Duration::from_secs(300),
            slow_start: Duration::from_secs(30),
            ranking_share: 0.2,
            ranking_least: Duration::from_millis(5),
            ranking_lasts: Duration::from_secs(10),
            round: Duration::from_millis(1500),
            lag: Duration::from_millis(200),
            voids_in_a_row: 2,
            forget: Duration::from_secs(60),
            forget_superseded: Duration::from_secs(10),
        }
    }
}

/// Why a timing was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidTiming {
    /// A number that must not be zero is.
    #[error("{0} is zero; give a positive value")]
    Zero(&'static str),
    /// A range is empty.
    #[error("{0} is longer than {1}; swap them")]
    Reversed(&'static str, &'static str),
    /// Not a share.
    #[error("ranking_share must lie between 0 and 1")]
    Share,
}

/// A timing that cannot be wrong any more.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    timing: Timing,
}

impl Config {
    /// Takes a timing whose numbers fit together.
    pub fn new(timing: Timing) -> Result<Self, InvalidTiming> {
        let t = &timing;
        for (name, value) in [
            ("rtt_decay", t.rtt_decay),
            ("good_min", t.good_min),
            ("probe_deadline", t.probe_deadline),
            ("ask_after", t.ask_after),
            ("back_span", t.back_span),
            ("hold_min", t.hold_min),
            ("slow_start", t.slow_start),
            ("round", t.round),
            ("lag", t.lag),
        ] {
            if value.is_zero() {
                return Err(InvalidTiming::Zero(name));
            }
        }
        for (name, value) in [
            ("good_rtt_factor", t.good_rtt_factor),
            ("opens_until_suspect", t.opens_until_suspect),
            ("down_probes", t.down_probes),
            ("refused_until_down", t.refused_until_down),
            ("fresh_until_down", t.fresh_until_down),
            ("back_good", t.back_good),
        ] {
            if value == 0 {
                return Err(InvalidTiming::Zero(name));
            }
        }
        for (low, high, least, most) in [
            ("good_min", "good_max", t.good_min, t.good_max),
            ("good_max", "probe_deadline", t.good_max, t.probe_deadline),
            ("ask_after", "down_after", t.ask_after, t.down_after),
            ("back_span", "back_span_max", t.back_span, t.back_span_max),
            ("hold_min", "hold_max", t.hold_min, t.hold_max),
            ("hold_max", "forget", t.hold_max, t.forget),
        ] {
            if least > most {
                return Err(InvalidTiming::Reversed(low, high));
            }
        }
        if !(0.0..=1.0).contains(&t.ranking_share) {
            return Err(InvalidTiming::Share);
        }
        Ok(Self { timing })
    }

    /// The numbers.
    #[must_use]
    pub fn timing(&self) -> &Timing {
        &self.timing
    }
}
