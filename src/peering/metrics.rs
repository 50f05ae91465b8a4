//! What is counted here.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::model::ClusterId;

/// The metrics of control sessions.
#[derive(Debug, Clone)]
pub struct Metrics {
    sessions: IntGaugeVec,
    messages: IntCounterVec,
    unknown: IntCounterVec,
    refused: IntCounterVec,
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
        let counter = |name, help, labels: &[&str]| -> Result<_, prometheus::Error> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let sessions = IntGaugeVec::new(
            Opts::new("portolan_control_sessions", "Control sessions held with a peer's replicas."),
            &["peer", "role"],
        )?;
        registry.register(Box::new(sessions.clone()))?;
        Ok(Self {
            sessions,
            messages: counter(
                "portolan_control_messages_total",
                "Control messages by direction and kind.",
                &["direction", "kind"],
            )?,
            unknown: counter(
                "portolan_control_unknown_total",
                "What newer peers sent that this version skipped.",
                &["what"],
            )?,
            refused: counter(
                "portolan_control_refused_records_total",
                "Records and endpoints of peers that were not believed, by reason.",
                &["peer", "reason"],
            )?,
        })
    }

    pub(super) fn set_sessions(&self, peer: &ClusterId, role: Role, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
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
}
