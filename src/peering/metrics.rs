//! What is counted here.

use prometheus::{GaugeVec, IntCounter, IntCounterVec, Registry};

use crate::model::ClusterId;
use crate::telemetry;

/// The metrics of control sessions.
#[derive(Debug, Clone)]
pub struct Metrics {
    sessions: GaugeVec,
    messages: IntCounterVec,
    unknown: IntCounterVec,
    refused: IntCounterVec,
    panics: IntCounter,
}

/// Which side of a session we are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Subscriber,
    Publisher,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Subscriber => "subscriber",
            Self::Publisher => "publisher",
        }
    }
}

/// Which way a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

impl Direction {
    fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// What a newer peer sent that we skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    Message,
    Field,
    Record,
}

impl Unknown {
    fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Field => "field",
            Self::Record => "record",
        }
    }
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            sessions: telemetry::gauges(
                registry,
                "portolan_control_sessions",
                "Control sessions held with a peer's replicas.",
                &["peer", "role"],
            )?,
            messages: telemetry::counters(
                registry,
                "portolan_control_messages_total",
                "Control messages by direction and kind.",
                &["direction", "kind"],
            )?,
            unknown: telemetry::counters(
                registry,
                "portolan_control_unknown_total",
                "What newer peers sent that this version skipped.",
                &["what"],
            )?,
            refused: telemetry::counters(
                registry,
                "portolan_control_refused_records_total",
                "Records and endpoints of peers that were not believed, by reason.",
                &["peer", "reason"],
            )?,
            panics: telemetry::panic_counter(registry, "peering")?,
        })
    }

    pub(super) fn set_sessions(&self, peer: &ClusterId, role: Role, count: usize) {
        let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        self.sessions.with_label_values(&[peer.as_str(), role.as_str()]).set(count);
    }

    pub(super) fn message(&self, direction: Direction, kind: &'static str) {
        self.messages.with_label_values(&[direction.as_str(), kind]).inc();
    }

    pub(super) fn unknown(&self, what: Unknown) {
        self.unknown.with_label_values(&[what.as_str()]).inc();
    }

    pub(super) fn refused(&self, peer: &ClusterId, reason: &'static str) {
        self.refused.with_label_values(&[peer.as_str(), reason]).inc();
    }

    pub(super) fn panicked(&self) {
        self.panics.inc();
    }
}
