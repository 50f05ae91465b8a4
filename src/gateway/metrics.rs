//! What is counted here.

use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, Registry};

use super::live::Cut;
use crate::telemetry::{counter, counters, gauge, gauges, histogram, panic_counter};
use crate::wire::frame::Verdict;

/// How a stream, or the wish for one, ended: the label `result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Ending {
    /// FIN both ways.
    Ok,
    /// The application on this side reset it.
    AppReset,
    /// The other side reset it.
    PeerReset,
    /// The tunnel broke.
    PeerLost,
    /// Its replica went Down.
    Down,
    /// Its peer is no longer trusted.
    Revoked,
    /// The shutdown's deadline passed.
    Shutdown,
    /// The client went away before anybody accepted, or the opener gave up as we accepted.
    Cancelled,
    /// Nobody accepted in time.
    Unanswered,
    /// Refused, and why.
    Refused(Verdict),
}

impl Ending {
    /// The label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::AppReset => "app_reset",
            Self::PeerReset => "peer_reset",
            Self::PeerLost => "peer_lost",
            Self::Down => "down",
            Self::Revoked => "revoked",
            Self::Shutdown => "shutdown",
            Self::Cancelled => "cancelled",
            Self::Unanswered => "unanswered",
            Self::Refused(verdict) => verdict.as_str(),
        }
    }
}

impl From<Cut> for Ending {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Down => Self::Down,
            Cut::Revoked => Self::Revoked,
            Cut::Shutdown => Self::Shutdown,
        }
    }
}

/// Which way a stream was opened: the label `direction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    /// By a client here.
    Outbound,
    /// By a peer.
    Inbound,
}

impl Direction {
    /// The label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// The metrics of the data plane.
#[derive(Debug, Clone)]
pub struct Metrics {
    streams: IntCounterVec,
    octets: IntCounterVec,
    open: GaugeVec,
    pub(super) open_seconds: Histogram,
    pub(super) pool_idle: GaugeVec,
    pub(super) pool_misses: IntCounterVec,
    pub(super) congestion: IntCounterVec,
    pub(super) idle_closed: IntCounterVec,
    pub(super) listeners: Gauge,
    pub(super) ejected: Gauge,
    pub(super) ejections: IntCounter,
    pub(super) buffered: Gauge,
    pub(super) facts_dropped: IntCounter,
    pub(super) panics: IntCounter,
    pub(super) udp: super::udp::Metrics,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let buckets =
            vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.7, 1.0, 1.5, 5.0];
        Ok(Self {
            streams: counters(
                registry,
                "portolan_streams_total",
                "Streams that ended, by result.",
                &["direction", "peer", "result"],
            )?,
            octets: counters(
                registry,
                "portolan_stream_bytes_total",
                "Payload octets carried in finished streams, both ways.",
                &["direction", "peer"],
            )?,
            open: gauges(registry, "portolan_streams_open", "Streams open now.", &["direction"])?,
            open_seconds: histogram(
                registry,
                "portolan_open_seconds",
                "From a client's connection to the acceptance of its stream.",
                buckets,
            )?,
            pool_idle: gauges(
                registry,
                "portolan_pool_idle",
                "Idle connections to a peer, ready for a stream.",
                &["peer"],
            )?,
            pool_misses: counters(
                registry,
                "portolan_pool_misses_total",
                "Streams that found no idle connection.",
                &["peer"],
            )?,
            congestion: counters(
                registry,
                "portolan_tunnels_total",
                "Connections between gateways made, by congestion control.",
                &["congestion"],
            )?,
            idle_closed: counters(
                registry,
                "portolan_idle_closed_total",
                "Idle connections of a peer that were closed because it kept too many.",
                &["peer"],
            )?,
            listeners: gauge(
                registry,
                "portolan_listeners",
                "Ports of clusterset addresses listened on.",
            )?,
            ejected: gauge(
                registry,
                "portolan_backends_ejected",
                "Backends left out for a while because they failed, by service port.",
            )?,
            ejections: counter(
                registry,
                "portolan_backend_ejections_total",
                "Times a backend was left out for a while.",
            )?,
            buffered: gauge(
                registry,
                "portolan_buffered_bytes",
                "Bytes read from one side and not yet written to the other.",
            )?,
            facts_dropped: counter(
                registry,
                "portolan_facts_dropped_total",
                "Observations lost because health was too slow to take them.",
            )?,
            panics: panic_counter(registry, "gateway")?,
            udp: super::udp::Metrics::register(registry)?,
        })
    }

    /// A stream ended, or the wish for one.
    pub(super) fn ended(&self, direction: Direction, peer: &str, ending: Ending, octets: u64) {
        self.streams.with_label_values(&[direction.as_str(), peer, ending.as_str()]).inc();
        self.octets.with_label_values(&[direction.as_str(), peer]).inc_by(octets);
    }

    /// A stream is open; the guard ends that.
    pub(super) fn open(&self, direction: Direction) -> OpenGuard {
        let gauge = self.open.with_label_values(&[direction.as_str()]);
        gauge.inc();
        OpenGuard(gauge)
    }
}

/// Counts an open stream until it is dropped.
#[derive(Debug)]
pub(super) struct OpenGuard(Gauge);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A count as a gauge's value.
pub(super) fn as_gauge(count: usize) -> f64 {
    count as f64
}
