//! What is counted here.

use prometheus::{GaugeVec, IntCounter, IntCounterVec, Registry};

use super::{Condition, SiblingView};
use crate::telemetry;

/// The metrics of the watch on siblings.
#[derive(Debug, Clone)]
pub struct Metrics {
    siblings: GaugeVec,
    silences: IntCounterVec,
    messages: IntCounterVec,
    panics: IntCounter,
}

/// How a sibling was found silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    Unanswered,
    Refused,
}

impl Silence {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Unanswered => "unanswered",
            Self::Refused => "refused",
        }
    }
}

/// Which way a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            siblings: telemetry::gauges(
                registry,
                "portolan_siblings",
                "Other replicas of this cluster, by state: new, alive, silent.",
                &["state"],
            )?,
            silences: telemetry::counters(
                registry,
                "portolan_sibling_silences_total",
                "Times that a replica fell silent: unanswered questions, or its port refused.",
                &["reason"],
            )?,
            messages: telemetry::counters(
                registry,
                "portolan_sibling_messages_total",
                "Messages between replicas by direction and kind.",
                &["direction", "kind"],
            )?,
            panics: telemetry::panic_counter(registry, "siblings")?,
        })
    }

    /// Counts the others; `own` is not one of them.
    pub(super) fn count(&self, view: &SiblingView, own: Option<&str>) {
        let mut counts = [("new", 0_u32), ("alive", 0), ("silent", 0)];
        for (uid, sibling) in &view.siblings {
            if Some(uid.as_ref()) == own {
                continue;
            }
            let state = match sibling.condition {
                Condition::New => 0,
                Condition::Alive => 1,
                Condition::Silent { .. } => 2,
            };
            counts[state].1 += 1;
        }
        for (state, count) in counts {
            self.siblings.with_label_values(&[state]).set(f64::from(count));
        }
    }

    pub(super) fn fell_silent(&self, reason: Silence) {
        self.silences.with_label_values(&[reason.as_str()]).inc();
    }

    pub(super) fn message(&self, direction: Direction, kind: &'static str) {
        let direction = match direction {
            Direction::In => "in",
            Direction::Out => "out",
        };
        self.messages.with_label_values(&[direction, kind]).inc();
    }

    pub(super) fn panicked(&self) {
        self.panics.inc();
    }
}
