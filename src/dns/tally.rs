//! What is counted per query: sets of plain counters, summed by [`scrape`](super::scrape) when
//! somebody looks.
//!
//! An atomic that several threads write costs more than looking the answer up. So a thread that
//! answers has a [`Tally`] of its own, in cache lines of its own, and writes without a locked
//! instruction; connections, which move between threads, share one set. The label sets are closed:
//! what is not listed here counts as `other`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hickory_proto::op::ResponseCode;

use super::encode::rtype;
use super::respond::{Responded, Transport};

pub(super) const TRANSPORTS: [&str; 3] = ["udp", "tcp", "tls"];
pub(super) const QTYPES: [&str; 10] =
    ["A", "AAAA", "SRV", "TXT", "SOA", "NS", "PTR", "ANY", "other", "none"];
pub(super) const RCODES: [&str; 6] =
    ["NOERROR", "FORMERR", "NXDOMAIN", "NOTIMP", "REFUSED", "BADVERS"];
/// Upper bounds in nanoseconds, 5 µs to 25 ms: what lies over that is a stalled machine.
pub(super) const BOUNDS: [u64; 11] = [
    5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
    25_000_000,
];

/// The PTR type, which nothing here answers.
const PTR: u16 = 12;

/// One set of counters, of one transport. The alignment keeps what two threads write apart, also
/// from a processor that fetches lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Counts {
    pub(super) transport: usize,
    /// By type and code.
    pub(super) queries: [AtomicU64; QTYPES.len() * RCODES.len()],
    /// By the first bound that is not below; the last is over all.
    pub(super) seconds: [AtomicU64; BOUNDS.len() + 1],
    pub(super) nanoseconds: AtomicU64,
    pub(super) dropped: AtomicU64,
}

/// The counters of one thread. Not to be cloned: only its owner writes.
#[derive(Debug)]
pub(super) struct Tally(Arc<Counts>);

impl Counts {
    pub(super) fn new(transport: Transport) -> Self {
        let transport = match transport {
            Transport::Udp => 0,
            Transport::Tcp => 1,
            Transport::Tls => 2,
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
    /// With what others read of it.
    pub(super) fn new(transport: Transport) -> (Self, Arc<Counts>) {
        let counts = Arc::new(Counts::new(transport));
        (Self(Arc::clone(&counts)), counts)
    }

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

#[cfg(test)]
#[path = "tests/tally.rs"]
mod tests;
