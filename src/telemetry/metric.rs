//! Builders: one call makes a metric and registers it.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Error, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    Opts, Registry,
};

/// A counter; `name` ends in `_total`.
pub fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, Error> {
    registered(registry, IntCounter::new(name, help)?)
}

/// A counter per value of `labels`, which come from closed sets or configured names only.
pub fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, Error> {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

/// A gauge.
pub fn gauge(registry: &Registry, name: &str, help: &str) -> Result<Gauge, Error> {
    registered(registry, Gauge::new(name, help)?)
}

/// A gauge per value of `labels`, which come from closed sets or configured names only.
pub fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec, Error> {
    registered(registry, GaugeVec::new(Opts::new(name, help), labels)?)
}

/// A histogram with these upper bounds, ascending.
pub fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: Vec<f64>,
) -> Result<Histogram, Error> {
    let opts = HistogramOpts::new(name, help).buckets(buckets);
    registered(registry, Histogram::with_opts(opts)?)
}

/// A histogram per value of `labels`, which come from closed sets or configured names only.
pub fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: Vec<f64>,
) -> Result<HistogramVec, Error> {
    let opts = HistogramOpts::new(name, help).buckets(buckets);
    registered(registry, HistogramVec::new(opts, labels)?)
}

/// `portolan_panics_total{component}`: panics of per-connection tasks. Every component registers
/// its own.
pub fn panic_counter(registry: &Registry, component: &'static str) -> Result<IntCounter, Error> {
    let opts = Opts::new("portolan_panics_total", "Panics of per-connection tasks.")
        .const_label("component", component);
    registered(registry, IntCounter::with_opts(opts)?)
}

/// Bucket bounds in seconds: `count` of them (at least two), from `shortest` (not zero) to
/// `longest`, each the same factor above the last.
#[must_use]
pub fn spread(shortest: Duration, longest: Duration, count: u16) -> Vec<f64> {
    let (from, to) = (shortest.as_secs_f64().max(1e-9), longest.as_secs_f64());
    let steps = f64::from(count.max(2) - 1);
    (0..count.max(2)).map(|step| from * (to / from).powf(f64::from(step) / steps)).collect()
}

fn registered<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> Result<M, Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
