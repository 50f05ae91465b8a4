//! The sets of counters as the registry sees them: summed at each scrape, no thread is stopped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::respond::Transport;
use super::tally::{BOUNDS, Counts, QTYPES, RCODES, TRANSPORTS, Tally};

const NANOSECONDS: f64 = 1e9;

/// All sets, as the registry sees them.
#[derive(Debug)]
pub(super) struct Tallies {
    queries: Desc,
    seconds: Desc,
    dropped: Desc,
    /// A thread that ends leaves its set: what was counted stays counted.
    all: Mutex<Vec<Arc<Counts>>>,
}

impl Tallies {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let desc = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, Default::default())
        };
        Ok(Self {
            queries: desc(
                "portolan_dns_queries_total",
                "DNS queries answered",
                &["transport", "qtype", "rcode"],
            )?,
            seconds: desc(
                "portolan_dns_seconds",
                "Time from a query read to its answer; over UDP to the sending of all that were \
                 read with it",
                &[],
            )?,
            dropped: desc(
                "portolan_dns_dropped_total",
                "DNS messages that get no answer: shorter than a header, or answers themselves",
                &[],
            )?,
            all: Mutex::default(),
        })
    }

    /// A set for one thread.
    pub(super) fn tally(&self, transport: Transport) -> Tally {
        let (tally, counts) = Tally::new(transport);
        self.add(counts);
        tally
    }

    /// A set that several threads write.
    pub(super) fn counts(&self, transport: Transport) -> Arc<Counts> {
        let counts = Arc::new(Counts::new(transport));
        self.add(Arc::clone(&counts));
        counts
    }

    fn add(&self, counts: Arc<Counts>) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(counts);
    }

    /// The sum of one counter over the sets; the others go on counting meanwhile.
    fn sum<'c>(sets: &'c [Arc<Counts>], counter: impl Fn(&'c Counts) -> &'c AtomicU64) -> u64 {
        sets.iter().map(|set| counter(set).load(Ordering::Relaxed)).sum()
    }

    fn queries(sets: &[Arc<Counts>]) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for (transport, transport_name) in TRANSPORTS.into_iter().enumerate() {
            let sets: Vec<_> =
                sets.iter().filter(|set| set.transport == transport).cloned().collect();
            for (at, (qtype, rcode)) in
                QTYPES.into_iter().flat_map(|qtype| RCODES.map(|rcode| (qtype, rcode))).enumerate()
            {
                let count = Self::sum(&sets, |set| &set.queries[at]);
                if count > 0 {
                    // In the order of their names, as the registry's own are.
                    let labels =
                        [("qtype", qtype), ("rcode", rcode), ("transport", transport_name)];
                    metrics.push(counter(count, labels.map(label).into()));
                }
            }
        }
        metrics
    }

    fn seconds(sets: &[Arc<Counts>]) -> Metric {
        let mut below = 0;
        let buckets = BOUNDS.iter().enumerate().map(|(at, bound)| {
            below += Self::sum(sets, |set| &set.seconds[at]);
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64 / NANOSECONDS);
            bucket.set_cumulative_count(below);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(below + Self::sum(sets, |set| &set.seconds[BOUNDS.len()]));
        let sum = Self::sum(sets, |set| &set.nanoseconds);
        histogram.set_sample_sum(sum as f64 / NANOSECONDS);
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        metric
    }
}

fn label((name, value): (&str, &str)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn counter(count: u64, labels: Vec<LabelPair>) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(count as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

fn family(desc: &Desc, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(desc.fq_name.clone());
    family.set_help(desc.help.clone());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// What the registry holds.
#[derive(Debug, Clone)]
pub(super) struct Collected(pub(super) Arc<Tallies>);

impl Collector for Collected {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.queries, &self.0.seconds, &self.0.dropped]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let sets = self.0.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let dropped = Tallies::sum(&sets, |set| &set.dropped);
        vec![
            family(&self.0.queries, MetricType::COUNTER, Tallies::queries(&sets)),
            family(&self.0.seconds, MetricType::HISTOGRAM, vec![Tallies::seconds(&sets)]),
            family(&self.0.dropped, MetricType::COUNTER, vec![counter(dropped, Vec::new())]),
        ]
    }
}

#[cfg(test)]
#[path = "tests/scrape.rs"]
mod tests;
