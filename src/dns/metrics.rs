//! The server's metrics: those counted per query are a [`Tally`]'s, the rare ones are here.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::respond::{Responded, Transport};
use super::scrape::{Collected, Tallies};
use super::tally::{Counts, Tally};
use crate::telemetry::panic_counter;

/// Why a connection was closed at a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its source holds as many as one source may.
    PerSource,
    /// All sources together hold as many as there may be.
    Total,
    /// All connections together keep as many octets as they may, of what is not done.
    Octets,
}

/// The server's metrics.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tallies: Arc<Tallies>,
    /// Of the loops and connections that run on any thread.
    udp: Arc<Counts>,
    tcp: Arc<Counts>,
    tls: Arc<Counts>,
    connections: IntGauge,
    refused_per_source: IntCounter,
    refused_total: IntCounter,
    refused_octets: IntCounter,
    handshakes_failed: IntCounter,
    errors: IntCounter,
    panics: IntCounter,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let tallies = Arc::new(Tallies::new()?);
        let connections =
            IntGauge::new("portolan_dns_tcp_connections", "DNS connections open now")?;
        let refused = IntCounterVec::new(
            Opts::new("portolan_dns_tcp_refused_total", "DNS connections closed at a cap"),
            &["cap"],
        )?;
        let errors = IntCounter::new(
            "portolan_dns_socket_errors_total",
            "Errors of the DNS sockets: receive, send, accept",
        )?;
        let handshakes_failed = IntCounter::new(
            "portolan_dns_tls_handshakes_failed_total",
            "Connections of DNS over TLS that ended in their handshake",
        )?;
        registry.register(Box::new(handshakes_failed.clone()))?;
        registry.register(Box::new(Collected(Arc::clone(&tallies))))?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        Ok(Self(Arc::new(Inner {
            udp: tallies.counts(Transport::Udp),
            tcp: tallies.counts(Transport::Tcp),
            tls: tallies.counts(Transport::Tls),
            tallies,
            connections,
            refused_per_source: refused.with_label_values(&["source"]),
            refused_total: refused.with_label_values(&["total"]),
            refused_octets: refused.with_label_values(&["octets"]),
            handshakes_failed,
            errors,
            panics: panic_counter(registry, "dns")?,
        })))
    }

    /// Counters for a thread of its own.
    pub(super) fn tally(&self, transport: Transport) -> Tally {
        self.0.tallies.tally(transport)
    }

    pub(super) fn answered(&self, transport: Transport, what: Responded, took: Duration) {
        self.counts(transport).answered(what, took);
    }

    pub(super) fn dropped(&self, transport: Transport) {
        self.counts(transport).dropped();
    }

    fn counts(&self, transport: Transport) -> &Counts {
        match transport {
            Transport::Udp => &self.0.udp,
            Transport::Tcp => &self.0.tcp,
            Transport::Tls => &self.0.tls,
        }
    }

    pub(super) fn panicked(&self) {
        self.0.panics.inc();
    }

    pub(super) fn socket_error(&self) {
        self.0.errors.inc();
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        match refusal {
            Refusal::PerSource => self.0.refused_per_source.inc(),
            Refusal::Total => self.0.refused_total.inc(),
            Refusal::Octets => self.0.refused_octets.inc(),
        }
    }

    pub(super) fn handshake_failed(&self) {
        self.0.handshakes_failed.inc();
    }

    pub(super) fn connections(&self) -> &IntGauge {
        &self.0.connections
    }
}
