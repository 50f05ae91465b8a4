//! Open-loop load: a new connection every period, whatever became of those before.
//!
//! Each is timed from the instant it was *scheduled* for, so that a stall of the system, or of
//! this very process, counts; nothing is tried again; success is the whole expected body.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout_at};

use crate::clock;

use super::backend;
use super::figures::percentile;

/// A connection that has not ended this long after its instant has failed.
pub(super) const GIVE_UP: Duration = Duration::from_secs(10);

/// What became of one connection.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// The instant it was to begin.
    pub(super) scheduled: Instant,
    /// When the first byte of the answer came.
    pub(super) first_byte: Option<Instant>,
    /// When it ended, well or not; `None` while it is open.
    pub(super) ended: Option<Instant>,
    /// Who answered in full, or what went wrong.
    pub(super) outcome: Result<String, String>,
}

impl Record {
    fn begun(scheduled: Instant) -> Self {
        let outcome = Err("still open".to_owned());
        Self { scheduled, first_byte: None, ended: None, outcome }
    }
}

/// The connections of a stretch of time, counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// Connections in all.
    pub(super) total: usize,
    /// Connections that have not ended yet.
    pub(super) open: usize,
    /// What went wrong, and how often.
    pub(super) failures: BTreeMap<String, usize>,
    /// Whole answers by cluster.
    pub(super) answered: BTreeMap<String, usize>,
    first_bytes: Vec<Duration>,
}

impl Tally {
    /// Counts these.
    pub(super) fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut tally = Self::default();
        for record in records {
            tally.total += 1;
            match &record.outcome {
                _ if record.ended.is_none() => tally.open += 1,
                Ok(cluster) => *tally.answered.entry(cluster.clone()).or_default() += 1,
                Err(failure) => *tally.failures.entry(failure.clone()).or_default() += 1,
            }
            tally.first_bytes.extend(record.first_byte.map(|at| at - record.scheduled));
        }
        tally
    }

    /// How many failed; one that is still open has not been answered.
    pub(super) fn failed(&self) -> usize {
        self.failures.values().sum::<usize>() + self.open
    }

    /// The share of all that this cluster answered, in percent.
    pub(super) fn share(&self, cluster: &str) -> f64 {
        let answered = self.answered.get(cluster).copied().unwrap_or(0);
        if self.total == 0 { 0.0 } else { 100.0 * answered as f64 / self.total as f64 }
    }

    /// The percentile of scheduled-to-first-byte in seconds, over those that got one.
    pub(super) fn first_byte(&self, percent: f64) -> Option<f64> {
        percentile(&self.first_bytes, percent).map(|took| took.as_secs_f64())
    }
}

/// The load and all that is known of its connections.
#[derive(Debug, Clone)]
pub(super) struct Load {
    target: SocketAddr,
    path: &'static str,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Load {
    /// A load on `path` of `target`, begun by [`Self::run`].
    pub(super) fn new(target: SocketAddr, path: &'static str) -> Self {
        Self { target, path, records: Arc::default() }
    }

    /// Begins a connection every `period` until dropped.
    pub(super) async fn run(self, period: Duration) {
        let mut open = JoinSet::new();
        let mut next = clock::now();
        loop {
            sleep_until(next.into()).await;
            open.spawn(self.clone().one(self.begin(next), next));
            next += period;
            while open.try_join_next().is_some() {}
        }
    }

    /// Opens `count` connections at once and follows each to its end.
    pub(super) async fn burst(self, count: usize) {
        let now = clock::now();
        let mut open = JoinSet::new();
        for _ in 0..count {
            open.spawn(self.clone().one(self.begin(now), now));
        }
        while open.join_next().await.is_some() {}
    }

    /// The connections scheduled in `from..until`.
    pub(super) fn scheduled(&self, from: Instant, until: Instant) -> Vec<Record> {
        let records = self.records();
        records.iter().filter(|r| (from..until).contains(&r.scheduled)).cloned().collect()
    }

    /// The connections that were scheduled before `at` and had not ended then.
    pub(super) fn open_at(&self, at: Instant) -> Vec<Record> {
        let records = self.records();
        let open = |r: &&Record| r.scheduled < at && r.ended.is_none_or(|ended| ended > at);
        records.iter().filter(open).cloned().collect()
    }

    /// Whether every connection scheduled before `instant` has begun.
    pub(super) fn has_reached(&self, instant: Instant) -> bool {
        self.records().last().is_some_and(|last| last.scheduled >= instant)
    }

    /// When this cluster first answered a connection scheduled at `after` or later.
    pub(super) fn first_answer(&self, cluster: &str, after: Instant) -> Option<Instant> {
        let records = self.records();
        let answered = |r: &&Record| {
            r.scheduled >= after && r.outcome.as_deref().is_ok_and(|by| by == cluster)
        };
        records.iter().filter(answered).filter_map(|r| r.first_byte).min()
    }

    fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        // A record is written in one assignment: what a panicking writer left is still whole.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a connection, still open; its number.
    fn begin(&self, scheduled: Instant) -> usize {
        let mut records = self.records();
        records.push(Record::begun(scheduled));
        records.len() - 1
    }

    async fn one(self, index: usize, scheduled: Instant) {
        let mut first_byte = None;
        let fetched = fetch(self.target, self.path, &mut first_byte);
        let outcome = match timeout_at((scheduled + GIVE_UP).into(), fetched).await {
            Ok(Ok(cluster)) => Ok(cluster),
            Ok(Err(fault)) => Err(fault.to_string()),
            Err(_) => Err("no whole answer within 10 s".to_owned()),
        };
        self.records()[index] =
            Record { scheduled, first_byte, ended: Some(clock::now()), outcome };
    }
}

/// Asks once, on a connection of its own, and returns the cluster that answered in full.
async fn fetch(
    target: SocketAddr,
    path: &str,
    first_byte: &mut Option<Instant>,
) -> io::Result<String> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(8 * 1024);
    while stream.read_buf(&mut answer).await? > 0 {
        first_byte.get_or_insert_with(clock::now);
    }
    verify(&answer).ok_or_else(|| {
        io::Error::other(format!("not the expected answer ({} bytes)", answer.len()))
    })
}

/// The cluster that gave this answer, if it is whole and what that cluster would say.
fn verify(answer: &[u8]) -> Option<String> {
    let end = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let (head, body) = answer.split_at(end);
    let head = std::str::from_utf8(head).ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?;
    if !head.starts_with("HTTP/1.1 200 ") || length.parse::<usize>().ok()? != body.len() {
        return None;
    }
    let line_end = body.iter().position(|byte| *byte == b'\n')? + 1;
    let line = std::str::from_utf8(&body[..line_end]).ok()?;
    let who: serde_json::Value = serde_json::from_str(line).ok()?;
    (backend::load_body(line) == body).then(|| who["cluster"].as_str().map(str::to_owned))?
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
