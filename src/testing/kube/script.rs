//! What the test told the server to do, and what the server was asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use std::time::Instant;

use super::rule::{Fault, Rule, Verb};
use crate::clock;

/// Older requests are forgotten.
const MAX_REQUESTS: usize = 100_000;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// What was to be done.
    pub verb: Verb,
    /// The plural of the kind; empty for discovery and health.
    pub resource: String,
    /// The namespace of the path.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: Option<String>,
    /// `status`, mostly.
    pub subresource: Option<String>,
    /// The whole path.
    pub path: String,
    /// The query, decoded.
    pub query: BTreeMap<String, String>,
    /// The body as it came.
    pub body: Bytes,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// When it arrived.
    pub at: Instant,
    /// The HTTP status of the answer; 0 until there is one.
    pub code: u16,
}

impl Request {
    /// `shop/web`, or `web` where there is no namespace.
    #[must_use]
    pub fn key(&self) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        self.namespace.as_ref().map_or_else(|| name.to_owned(), |ns| format!("{ns}/{name}"))
    }

    /// The body as JSON; `null` if it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// How open watches are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order, as when their time is over.
    Clean,
    /// In the middle, with the connection.
    Torn,
    /// With a 410 on the stream.
    Expired,
}

/// A rule, to take it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u64);

/// One open watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WatchId(u64);

/// What a watch has to do beside its work.
pub(super) struct Orders {
    pub(super) end: Option<End>,
    pub(super) silent: bool,
    pub(super) bookmarks: u64,
    pub(super) garbage: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Active {
    id: RuleId,
    rule: Rule,
    since: Instant,
    met: u64,
}

/// The test's orders and the log.
#[derive(Debug, Default)]
pub(super) struct Script {
    rules: Vec<Active>,
    ids: u64,
    watches: BTreeMap<WatchId, usize>,
    ends: BTreeMap<WatchId, End>,
    garbage: BTreeMap<WatchId, Vec<u8>>,
    silent: BTreeSet<usize>,
    /// How often the test has asked for bookmarks.
    bookmarks: u64,
    requests: VecDeque<Request>,
    /// Requests that are not in the log any more.
    forgotten: usize,
}

impl Script {
    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub(super) fn add(&mut self, rule: Rule) -> RuleId {
        let id = RuleId(self.next_id());
        self.rules.push(Active { id, rule, since: clock::now(), met: 0 });
        id
    }

    pub(super) fn take_back(&mut self, id: RuleId) {
        self.rules.retain(|active| active.id != id);
    }

    pub(super) fn heal(&mut self) {
        self.rules.clear();
        self.silent.clear();
    }

    /// What this request meets: every delay, and the first other fault.
    pub(super) fn meet(&mut self, request: &Request) -> Vec<(RuleId, Fault)> {
        let mut met = Vec::new();
        let mut decided = false;
        for active in &mut self.rules {
            let over = active.rule.times.is_some_and(|times| active.met >= times)
                || active.rule.lasting.is_some_and(|long| clock::now() - active.since >= long);
            let is_delay = matches!(active.rule.fault, Fault::Delay(_));
            if over || (decided && !is_delay) || !active.rule.matches(request) {
                continue;
            }
            active.met += 1;
            decided |= !is_delay;
            met.push((active.id, active.rule.fault.clone()));
        }
        met
    }

    /// When a stalled request goes on by itself; an error: it goes on now.
    pub(super) fn stalled_until(&self, id: RuleId) -> Result<Option<Instant>, ()> {
        let active = self.rules.iter().find(|active| active.id == id).ok_or(())?;
        let until = active.rule.lasting.map(|long| active.since + long);
        if until.is_some_and(|until| until <= clock::now()) { Err(()) } else { Ok(until) }
    }

    pub(super) fn record(&mut self, request: Request) -> usize {
        if self.requests.len() == MAX_REQUESTS {
            self.requests.pop_front();
            self.forgotten += 1;
        }
        self.requests.push_back(request);
        self.forgotten + self.requests.len() - 1
    }

    pub(super) fn answered(&mut self, number: usize, code: u16) {
        let index = number.checked_sub(self.forgotten);
        if let Some(request) = index.and_then(|index| self.requests.get_mut(index)) {
            request.code = code;
        }
    }

    /// How many requests there have been.
    pub(super) fn seen(&self) -> usize {
        self.forgotten + self.requests.len()
    }

    /// The requests since so many had been seen.
    pub(super) fn since(&self, seen: usize) -> impl Iterator<Item = &Request> {
        self.requests.iter().skip(seen.saturating_sub(self.forgotten))
    }

    pub(super) fn watch_opened(&mut self, table: usize) -> (WatchId, u64) {
        let id = WatchId(self.next_id());
        self.watches.insert(id, table);
        (id, self.bookmarks)
    }

    pub(super) fn watch_closed(&mut self, id: WatchId) {
        self.watches.remove(&id);
        self.ends.remove(&id);
        self.garbage.remove(&id);
    }

    pub(super) fn open_watches(&self, table: usize) -> usize {
        self.watches.values().filter(|of| **of == table).count()
    }

    pub(super) fn end_watches(&mut self, table: usize, end: End) {
        let open = self.watches.iter().filter(|(_, of)| **of == table);
        self.ends.extend(open.map(|(id, _)| (*id, end)));
    }

    pub(super) fn garble(&mut self, table: usize, line: &[u8]) {
        let open = self.watches.iter().filter(|(_, of)| **of == table);
        self.garbage.extend(open.map(|(id, _)| (*id, line.to_vec())));
    }

    pub(super) fn silence(&mut self, table: usize) {
        self.silent.insert(table);
    }

    pub(super) fn is_silent(&self, table: usize) -> bool {
        self.silent.contains(&table)
    }

    pub(super) fn ask_for_bookmarks(&mut self) {
        self.bookmarks += 1;
    }

    pub(super) fn orders(&mut self, id: WatchId, table: usize) -> Orders {
        let silent = self.is_silent(table);
        Orders {
            end: self.ends.get(&id).copied(),
            silent,
            bookmarks: self.bookmarks,
            garbage: if silent { None } else { self.garbage.remove(&id) },
        }
    }
}
