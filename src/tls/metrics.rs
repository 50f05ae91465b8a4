//! What is counted and logged here.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::{GaugeVec, IntCounter, IntCounterVec, Registry};
use tokio::task::JoinError;

use super::refusal::Refusal;
use crate::clock;
use crate::model::ClusterId;
use crate::telemetry::{Throttle, counters, gauges, panic_counter};

/// At most one log line per reason in this time.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// The metrics of identities and of the gateway port.
#[derive(Debug, Clone)]
pub struct Metrics {
    refused: IntCounterVec,
    expiry: GaugeVec,
    panics: IntCounter,
    brakes: Arc<[Throttle; Refusal::ALL.len()]>,
}

impl Metrics {
    /// Registers them, each refusal reason at 0.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let refused = counters(
            registry,
            "portolan_tls_refused_total",
            "Connections refused, by reason.",
            &["reason"],
        )?;
        let expiry = gauges(
            registry,
            "portolan_certificate_expiry_seconds",
            "When the certificate last shown by a peer, or the own one, expires (Unix time).",
            &["peer"],
        )?;
        let panics = panic_counter(registry, "tls")?;
        for reason in Refusal::ALL {
            refused.with_label_values(&[reason.as_str()]).reset();
        }
        let brakes = Arc::new(Refusal::ALL.map(|_| Throttle::new(LOG_EVERY)));
        Ok(Self { refused, expiry, panics, brakes })
    }

    /// Counts a refusal and says so in one line, unless that reason was said within the second.
    pub(super) fn refuse(
        &self,
        reason: Refusal,
        remote: impl fmt::Display,
        problem: impl fmt::Display,
    ) {
        self.refused.with_label_values(&[reason.as_str()]).inc();
        if let Some(unsaid) = self.brakes[reason as usize].pass(clock::now()) {
            tracing::warn!(%reason, %remote, %problem, unsaid, "connection refused");
        }
    }

    /// Counts one that went away in its handshake: nobody must act, so nobody is warned.
    pub(super) fn left(
        &self,
        reason: Refusal,
        remote: impl fmt::Display,
        problem: impl fmt::Display,
    ) {
        self.refused.with_label_values(&[reason.as_str()]).inc();
        tracing::debug!(%reason, %remote, %problem, "it went away in its handshake");
    }

    /// A peer's certificate, or the own one, as it was last seen.
    pub(super) fn expires(&self, cluster: &ClusterId, at: SystemTime) {
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.expiry.with_label_values(&[cluster.as_str()]).set(seconds);
    }

    /// A peer that is no longer trusted.
    pub(super) fn forget(&self, cluster: &ClusterId) {
        // Absent when the peer never showed a certificate.
        let _absent = self.expiry.remove_label_values(&[cluster.as_str()]);
    }

    /// A connection's task ended; a panic ended that connection and no other.
    pub(super) fn ended(&self, ended: Result<(), JoinError>) {
        if let Err(error) = ended
            && error.is_panic()
        {
            self.panics.inc();
            tracing::error!(%error, "a connection's task panicked; only that connection ended");
        }
    }
}
