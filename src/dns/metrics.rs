//! The server's metrics: those counted per query are a [`Tally`]'s, the rare ones are here.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::respond::{Responded, Transport};
use super::scrape::{Collected, Tallies};
use super::tally::{Counts, Tally};
use crate::telemetry::panic_counter;

/// Why a TCP connection was closed before its first question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its source holds as many as one source may.
    PerSource,
    /// All sources together hold as many as there may be.
    Total,
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
    connections: IntGauge,
    refused_per_source: IntCounter,
    refused_total: IntCounter,
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
        registry.register(Box::new(Collected(Arc::clone(&tallies))))?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        Ok(Self(Arc::new(Inner {
            udp: tallies.counts(Transport::Udp),
            tcp: tallies.counts(Transport::Tcp),
            tallies,
            connections,
            refused_per_source: refused.with_label_values(&["source"]),
            refused_total: refused.with_label_values(&["total"]),
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
        }
    }

    pub(super) fn connections(&self) -> &IntGauge {
        &self.0.connections
    }
}
