//! Counters of the DNS server, one handle per label set, looked up by index.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::respond::{Responded, Transport};
use crate::telemetry::panic_counter;

const TRANSPORTS: [&str; 3] = ["udp", "tcp", "tls"];
const QTYPES: [&str; 10] = ["A", "AAAA", "SRV", "TXT", "SOA", "NS", "PTR", "ANY", "other", "none"];
const RCODES: [&str; 6] = ["NOERROR", "FORMERR", "NXDOMAIN", "NOTIMP", "REFUSED", "BADVERS"];
/// From 5 µs to 25 ms: what lies over that is a stalled machine.
const SECONDS: [f64; 11] =
    [5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 2.5e-2];

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
    queries: IntCounterVec,
    /// By transport, type and code; each made when its first query comes.
    handles: [OnceLock<IntCounter>; TRANSPORTS.len() * QTYPES.len() * RCODES.len()],
    seconds: Histogram,
    connections: IntGauge,
    refused_per_source: IntCounter,
    refused_total: IntCounter,
    refused_octets: IntCounter,
    handshakes_failed: IntCounter,
    dropped: IntCounter,
    errors: IntCounter,
    panics: IntCounter,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let queries = IntCounterVec::new(
            Opts::new("portolan_dns_queries_total", "DNS queries answered"),
            &["transport", "qtype", "rcode"],
        )?;
        let seconds = Histogram::with_opts(
            HistogramOpts::new("portolan_dns_seconds", "Time from a query read to its answer")
                .buckets(SECONDS.to_vec()),
        )?;
        let connections =
            IntGauge::new("portolan_dns_tcp_connections", "DNS connections open now")?;
        let refused = IntCounterVec::new(
            Opts::new("portolan_dns_tcp_refused_total", "DNS connections closed at a cap"),
            &["cap"],
        )?;
        let dropped = IntCounter::new(
            "portolan_dns_dropped_total",
            "DNS messages that get no answer: shorter than a header, or answers themselves",
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
        registry.register(Box::new(queries.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        registry.register(Box::new(dropped.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        Ok(Self(Arc::new(Inner {
            queries,
            handles: std::array::from_fn(|_| OnceLock::new()),
            seconds,
            connections,
            refused_per_source: refused.with_label_values(&["source"]),
            refused_total: refused.with_label_values(&["total"]),
            refused_octets: refused.with_label_values(&["octets"]),
            handshakes_failed,
            dropped,
            errors,
            panics: panic_counter(registry, "dns")?,
        })))
    }

    pub(super) fn answered(&self, transport: Transport, what: Responded, took: Duration) {
        let transport = match transport {
            Transport::Udp => 0,
            Transport::Tcp => 1,
            Transport::Tls => 2,
        };
        let (qtype, rcode) = (qtype_index(what.qtype), rcode_index(what.code));
        let at = (transport * QTYPES.len() + qtype) * RCODES.len() + rcode;
        let labels = [TRANSPORTS[transport], QTYPES[qtype], RCODES[rcode]];
        self.0.handles[at].get_or_init(|| self.0.queries.with_label_values(&labels)).inc();
        self.0.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn dropped(&self) {
        self.0.dropped.inc();
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

fn qtype_index(qtype: Option<u16>) -> usize {
    let Some(qtype) = qtype else { return 9 };
    match RecordType::from(qtype) {
        RecordType::A => 0,
        RecordType::AAAA => 1,
        RecordType::SRV => 2,
        RecordType::TXT => 3,
        RecordType::SOA => 4,
        RecordType::NS => 5,
        RecordType::PTR => 6,
        RecordType::ANY => 7,
        _ => 8,
    }
}

/// Every code that `respond` can give; it gives no other.
fn rcode_index(code: ResponseCode) -> usize {
    match code {
        ResponseCode::NoError => 0,
        ResponseCode::NXDomain => 2,
        ResponseCode::NotImp => 3,
        ResponseCode::Refused => 4,
        ResponseCode::BADVERS | ResponseCode::BADSIG => 5,
        _ => 1,
    }
}
