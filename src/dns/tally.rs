//! What is counted per query: sets of plain counters, summed when somebody looks.
//!
//! An atomic that several threads write costs more than looking the answer up. So a thread that
//! answers has a [`Tally`] of its own, in cache lines of its own, and writes without a locked
//! instruction; connections, which move between threads, share one set. The label sets are closed:
//! what is not listed here counts as `other`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::encode::rtype;
use super::respond::{Responded, Transport};

const TRANSPORTS: [&str; 2] = ["udp", "tcp"];
const QTYPES: [&str; 10] = ["A", "AAAA", "SRV", "TXT", "SOA", "NS", "PTR", "ANY", "other", "none"];
const RCODES: [&str; 6] = ["NOERROR", "FORMERR", "NXDOMAIN", "NOTIMP", "REFUSED", "BADVERS"];
/// Upper bounds in nanoseconds, 5 µs to 25 ms: what lies over that is a stalled machine.
const BOUNDS: [u64; 11] = [
    5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
    25_000_000,
];
const NANOSECONDS: f64 = 1e9;

/// The PTR type, which nothing here answers.
const PTR: u16 = 12;

/// One set of counters, of one transport. The alignment keeps what two threads write apart, also
/// from a processor that fetches lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Counts {
    transport: usize,
    /// By type and code.
    queries: [AtomicU64; QTYPES.len() * RCODES.len()],
    /// By the first bound that is not below; the last is over all.
    seconds: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
    dropped: AtomicU64,
}

/// The counters of one thread. Not to be cloned: only its owner writes.
#[derive(Debug)]
pub(super) struct Tally(Arc<Counts>);

/// All sets, as the registry sees them.
#[derive(Debug)]
pub(super) struct Tallies {
    queries: Desc,
    seconds: Desc,
    dropped: Desc,
    /// A thread that ends leaves its set: what was counted stays counted.
    all: Mutex<Vec<Arc<Counts>>>,
}

impl Counts {
    fn new(transport: Transport) -> Self {
        let transport = match transport {
            Transport::Udp => 0,
            Transport::Tcp => 1,
        };
        Self {
            transport,
            queries: std::array::from_fn(|_| AtomicU64::new(0)),
            seconds: std::array::from_fn(|_| AtomicU64::new(0)),
            nanoseconds: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// One answer of many writers.
    pub(super) fn answered(&self, what: Responded, took: Duration) {
        self.queries[query_index(what)].fetch_add(1, Ordering::Relaxed);
        let took = nanoseconds(took);
        self.seconds[bucket(took)].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(took, Ordering::Relaxed);
    }

    /// One message without an answer, of many writers.
    pub(super) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

#[allow(clippy::needless_pass_by_ref_mut, reason = "who writes must be the only one")]
impl Tally {
    /// One answer.
    pub(super) fn answered(&mut self, what: Responded) {
        add(&self.0.queries[query_index(what)], 1);
    }

    /// So many answers took so long each.
    pub(super) fn took(&mut self, each: Duration, answers: u64) {
        let each = nanoseconds(each);
        add(&self.0.seconds[bucket(each)], answers);
        add(&self.0.nanoseconds, each.saturating_mul(answers));
    }

    /// One message that gets no answer.
    pub(super) fn dropped(&mut self) {
        add(&self.0.dropped, 1);
    }
}

/// Adds to what nobody else writes.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

fn bucket(nanoseconds: u64) -> usize {
    BOUNDS.iter().position(|bound| nanoseconds <= *bound).unwrap_or(BOUNDS.len())
}

fn query_index(what: Responded) -> usize {
    qtype_index(what.qtype) * RCODES.len() + rcode_index(what.code)
}

fn qtype_index(qtype: Option<u16>) -> usize {
    match qtype {
        Some(rtype::A) => 0,
        Some(rtype::AAAA) => 1,
        Some(rtype::SRV) => 2,
        Some(rtype::TXT) => 3,
        Some(rtype::SOA) => 4,
        Some(rtype::NS) => 5,
        Some(PTR) => 6,
        Some(rtype::ANY) => 7,
        Some(_) => 8,
        None => 9,
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
        Tally(self.counts(transport))
    }

    /// A set that several threads write.
    pub(super) fn counts(&self, transport: Transport) -> Arc<Counts> {
        let counts = Arc::new(Counts::new(transport));
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&counts));
        counts
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
#[path = "tests/tally.rs"]
mod tests;
