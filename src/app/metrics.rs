//! What the planner counts: the peers' health and the age of the table.

use std::time::Instant;

use prometheus::{Error, Gauge, GaugeVec, Registry};

use crate::health::PeerState;
use crate::model::ClusterId;
use crate::routes::RouteTable;
use crate::telemetry;

/// See the module.
#[derive(Debug)]
pub(super) struct Metrics {
    peer_up: GaugeVec,
    peer_rtt: GaugeVec,
    revision: Gauge,
    age: Gauge,
}

impl Metrics {
    /// Registers them.
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        let peer = &["peer"];
        Ok(Self {
            peer_up: telemetry::gauges(
                registry,
                "portolan_peer_up",
                "1 while the peer takes new streams (up, suspect or draining), else 0.",
                peer,
            )?,
            peer_rtt: telemetry::gauges(
                registry,
                "portolan_peer_rtt_seconds",
                "Smoothed round trip to the peer's best replica.",
                peer,
            )?,
            revision: telemetry::gauge(
                registry,
                "portolan_snapshot_revision",
                "Revision of the route table in force.",
            )?,
            age: telemetry::gauge(
                registry,
                "portolan_snapshot_age_seconds",
                "Time since the route table in force was built.",
            )?,
        })
    }

    /// Shows a table.
    pub(super) fn show(&self, table: &RouteTable, now: Instant) {
        self.revision.set(table.revision as f64);
        self.age.set(now.saturating_duration_since(table.built).as_secs_f64());
        for (peer, status) in &table.peers {
            let up = matches!(
                status.health.state,
                PeerState::Up | PeerState::Suspect | PeerState::Draining
            );
            self.peer_up.with_label_values(&[peer.as_str()]).set(f64::from(u8::from(up)));
            if let Some(rtt) = status.health.rtt {
                self.peer_rtt.with_label_values(&[peer.as_str()]).set(rtt.as_secs_f64());
            }
        }
    }

    /// A peer is configured no longer. Removing what was never shown is no fault.
    pub(super) fn forget(&self, peer: &ClusterId) {
        let _absent = self.peer_up.remove_label_values(&[peer.as_str()]);
        let _absent = self.peer_rtt.remove_label_values(&[peer.as_str()]);
    }
}
