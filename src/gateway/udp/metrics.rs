//! What is counted of datagrams and their sessions. Labels come from closed sets and peers' names.

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, Registry};

use crate::gateway::live::Cut;
use crate::gateway::metrics::Direction;
use crate::telemetry::{counters, gauge, gauges};
use crate::wire::frame::Verdict;

/// Why a datagram went no further: the label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Dropped {
    /// The connection to the peer has as much to write as it may.
    Queue,
    /// Its session is not accepted yet and keeps as much as it may.
    Kept,
    /// Nobody accepted its session.
    Unaccepted,
    /// More sessions wait for an acceptance than may.
    Overloaded,
    /// The gateway shuts down and begins no session.
    Draining,
    /// Its session has ended.
    Ended,
    /// The socket to the client or backend took no more, or failed.
    Socket,
    /// Larger than the tunnel carries.
    TooLarge,
}

impl Dropped {
    const ALL: [Self; 8] = [
        Self::Queue,
        Self::Kept,
        Self::Unaccepted,
        Self::Overloaded,
        Self::Draining,
        Self::Ended,
        Self::Socket,
        Self::TooLarge,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Kept => "kept",
            Self::Unaccepted => "unaccepted",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::Ended => "ended",
            Self::Socket => "socket",
            Self::TooLarge => "too_large",
        }
    }
}

/// How a session, or the wish for one, ended on this side: the label `result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It was idle for too long.
    Idle,
    /// It was idle longest when another needed its place.
    Evicted,
    /// The other gateway ended it.
    PeerEnded,
    /// The backend's port is closed.
    BackendRefused,
    /// The connection between gateways was lost.
    PeerLost,
    /// The listener was closed.
    Closed,
    /// The connection was ended from here.
    Cut(Cut),
    /// Nobody accepted it in time.
    Unanswered,
    /// Refused, and why.
    Refused(Verdict),
}

impl End {
    /// The label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Evicted => "evicted",
            Self::PeerEnded => "peer_ended",
            Self::BackendRefused => "backend_refused",
            Self::PeerLost => "peer_lost",
            Self::Closed => "closed",
            Self::Cut(Cut::Down) => "down",
            Self::Cut(Cut::Revoked) => "revoked",
            Self::Cut(Cut::Shutdown) => "shutdown",
            Self::Unanswered => "unanswered",
            Self::Refused(verdict) => verdict.as_str(),
        }
    }
}

/// The metrics of datagrams.
#[derive(Debug, Clone)]
pub(in crate::gateway) struct Metrics {
    sessions: IntCounterVec,
    datagrams: IntCounterVec,
    dropped: Vec<IntCounter>,
    open: GaugeVec,
    pub(super) connections: GaugeVec,
    pub(super) listeners: Gauge,
}

impl Metrics {
    /// Registers them.
    pub(in crate::gateway) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let dropped = counters(
            registry,
            "portolan_udp_dropped_total",
            "Datagrams dropped, by reason.",
            &["reason"],
        )?;
        Ok(Self {
            sessions: counters(
                registry,
                "portolan_udp_sessions_total",
                "Sessions that ended on this side, by result; one that moved ends and begins again.",
                &["direction", "peer", "result"],
            )?,
            datagrams: counters(
                registry,
                "portolan_udp_datagrams_total",
                "Datagrams handed on, by the direction of their session and the way they went.",
                &["direction", "way"],
            )?,
            dropped: Dropped::ALL
                .iter()
                .map(|reason| dropped.with_label_values(&[reason.as_str()]))
                .collect(),
            open: gauges(
                registry,
                "portolan_udp_sessions_open",
                "Sessions known now.",
                &["direction"],
            )?,
            connections: gauges(
                registry,
                "portolan_udp_connections",
                "Datagram connections between gateways now.",
                &["direction"],
            )?,
            listeners: gauge(
                registry,
                "portolan_udp_listeners",
                "UDP ports of clusterset addresses listened on.",
            )?,
        })
    }

    /// A datagram was dropped.
    pub(super) fn dropped(&self, reason: Dropped) {
        self.dropped_by(reason, 1);
    }

    /// So many datagrams were dropped.
    pub(super) fn dropped_by(&self, reason: Dropped, count: u64) {
        self.dropped[reason as usize].inc_by(count);
    }

    /// Counters of the datagrams of one direction's sessions: from clients, and to them.
    pub(super) fn ways(&self, direction: Direction) -> [IntCounter; 2] {
        ["asking", "answering"]
            .map(|way| self.datagrams.with_label_values(&[direction.as_str(), way]))
    }

    /// A session ended, or the wish for one.
    pub(super) fn ended(&self, direction: Direction, peer: &str, end: End) {
        self.sessions.with_label_values(&[direction.as_str(), peer, end.as_str()]).inc();
    }

    /// So many sessions are known now.
    pub(super) fn show(&self, direction: Direction, sessions: usize) {
        let sessions = crate::gateway::metrics::as_gauge(sessions);
        self.open.with_label_values(&[direction.as_str()]).set(sessions);
    }

    /// How many datagrams were dropped for each reason.
    #[cfg(test)]
    pub(in crate::gateway) fn drops(&self) -> Vec<(&'static str, u64)> {
        let counts = Dropped::ALL.iter().zip(&self.dropped);
        counts.map(|(reason, count)| (reason.as_str(), count.get())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_counter() {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        for reason in Dropped::ALL {
            metrics.dropped(reason);
            assert_eq!(metrics.drops()[reason as usize], (reason.as_str(), 1));
        }
    }
}
