//! What is counted here.

use prometheus::{GaugeVec, IntCounter, IntCounterVec, Opts, Registry};

use super::refusal::Refusal;

/// The metrics of identities and of the gateway port.
#[derive(Debug, Clone)]
pub struct Metrics {
    refused: IntCounterVec,
    pub(super) expiry: GaugeVec,
    pub(super) panics: IntCounter,
}

impl Metrics {
    /// Registers them, each refusal reason at 0.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let refused = IntCounterVec::new(
            Opts::new("portolan_tls_refused_total", "Connections refused, by reason."),
            &["reason"],
        )?;
        let expiry = GaugeVec::new(
            Opts::new(
                "portolan_certificate_expiry_seconds",
                "When the certificate last shown by a peer, or the own one, expires (Unix time).",
            ),
            &["peer"],
        )?;
        let panics = IntCounter::new("portolan_panics_total", "Panics of per-connection tasks.")?;
        registry.register(Box::new(refused.clone()))?;
        registry.register(Box::new(expiry.clone()))?;
        registry.register(Box::new(panics.clone()))?;
        for reason in Refusal::ALL {
            refused.with_label_values(&[reason.as_str()]).reset();
        }
        Ok(Self { refused, expiry, panics })
    }

    pub(super) fn refused(&self, reason: Refusal) -> &IntCounterVec {
        self.refused.with_label_values(&[reason.as_str()]).inc();
        &self.refused
    }
}
