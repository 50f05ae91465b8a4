//! One open watch: JSON lines until its time is over or the test ends it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::object::Look;
use super::refusal::Refusal;
use super::script::{End, WatchId};
use super::selector::Selector;
use super::shared::Shared;
use super::store::Event;
use crate::clock;

/// Written in one go at most.
const BATCH_EVENTS: usize = 256;

/// What a watch was asked for.
pub(super) struct Asked {
    pub(super) table: usize,
    pub(super) selector: Selector,
    pub(super) look: Look,
    pub(super) bookmarks: bool,
    /// A bookmark says where the initial objects end.
    pub(super) mark_initial: bool,
    /// Octets to begin with.
    pub(super) first: Vec<u8>,
    /// Changes up to here have been seen.
    pub(super) position: u64,
    pub(super) timeout: Option<Duration>,
}

struct Open {
    asked: Asked,
    shared: Arc<Shared>,
    signal: watch::Receiver<()>,
    id: WatchId,
    deadline: Option<Instant>,
    bookmarks_sent: u64,
    over: bool,
}

/// What comes next on a watch.
enum Next {
    Lines(Vec<u8>),
    Torn,
    Wait,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.script().watch_closed(self.id);
        self.shared.poke();
    }
}

/// The body of the answer.
pub(super) fn stream(
    shared: Arc<Shared>,
    asked: Asked,
) -> impl Stream<Item = Result<Frame<Bytes>, io::Error>> + Send {
    let signal = shared.store().tables[asked.table].signal.subscribe();
    let (id, bookmarks_sent) = shared.script().watch_opened(asked.table);
    shared.poke();
    let deadline = asked.timeout.map(|timeout| clock::now() + timeout);
    let open = Open { asked, shared, signal, id, deadline, bookmarks_sent, over: false };
    unfold(open, |mut open| async move {
        match open.next().await {
            Ok(Some(lines)) => Some((Ok(Frame::data(Bytes::from(lines))), open)),
            Ok(None) => None,
            Err(torn) => Some((Err(torn), open)),
        }
    })
}

impl Open {
    /// The next lines; `None` at the end in order, an error where the connection breaks.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, io::Error> {
        if self.over {
            return Ok(None);
        }
        loop {
            self.signal.mark_unchanged();
            match self.look() {
                Next::Lines(lines) => return Ok(Some(lines)),
                Next::Torn => return Err(io::Error::from(io::ErrorKind::ConnectionReset)),
                Next::Wait if self.over => return Ok(None),
                Next::Wait => {}
            }
            // A silent watch does not even end in time.
            let silent = self.shared.script().is_silent(self.asked.table);
            let Some(deadline) = self.deadline.filter(|_| !silent) else {
                let _gone = self.signal.changed().await;
                continue;
            };
            let left = deadline.saturating_duration_since(clock::now());
            if tokio::time::timeout(left, self.signal.changed()).await.is_err() {
                return Ok(self.last_words());
            }
        }
    }

    /// Time is over: what is still to be said, a bookmark at last.
    fn last_words(&mut self) -> Option<Vec<u8>> {
        if let Next::Lines(lines) = self.look() {
            return Some(lines);
        }
        self.over = true;
        self.asked.bookmarks.then(|| self.bookmark(None))
    }

    fn look(&mut self) -> Next {
        let orders = self.shared.script().orders(self.id, self.asked.table);
        match orders.end {
            Some(End::Torn) => {
                self.over = true;
                return Next::Torn;
            }
            Some(End::Expired) => {
                self.over = true;
                return Next::Lines(error_line(&Refusal::too_old(self.asked.position, 0)));
            }
            end if orders.silent => {
                self.over = end.is_some();
                return Next::Wait;
            }
            _ => {}
        }
        if let Some(line) = orders.garbage {
            return Next::Lines(line);
        }
        if !self.asked.first.is_empty() {
            return Next::Lines(std::mem::take(&mut self.asked.first));
        }
        if std::mem::take(&mut self.asked.mark_initial) {
            let end = json!({ "k8s.io/initial-events-end": "true" });
            return Next::Lines(self.bookmark(Some(end)));
        }
        let lines = self.changes();
        if !lines.is_empty() {
            return Next::Lines(lines);
        }
        if orders.bookmarks > self.bookmarks_sent && self.asked.bookmarks {
            self.bookmarks_sent = orders.bookmarks;
            return Next::Lines(self.bookmark(None));
        }
        self.over |= orders.end.is_some();
        Next::Wait
    }

    /// Changes since the last look, as far as they are in view; empty: there is nothing new.
    fn changes(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let (events, version) = {
                let store = self.shared.store();
                let table = &store.tables[self.asked.table];
                (table.after(self.asked.position, BATCH_EVENTS), store.version)
            };
            // Too far behind to go on, as with the real server: the client comes again.
            let Some(events) = events else {
                self.over = true;
                return out;
            };
            for event in &events {
                self.line(event, &mut out);
            }
            let last = events.last().filter(|_| events.len() == BATCH_EVENTS);
            self.asked.position = last.map_or(version, |event| event.new.version);
            if last.is_none() || !out.is_empty() {
                return out;
            }
        }
    }

    /// What of a change this watch sees: an object may come into its view or leave it.
    fn line(&self, event: &Event, out: &mut Vec<u8>) {
        let (was, is) = self.asked.selector.matches_either(event.old.as_deref(), &event.new);
        let look = &self.asked.look;
        match (was, is && !event.removed) {
            (false, false) => {}
            (false, true) => write_event("ADDED", |out| event.new.write(look, out), out),
            (true, true) => write_event("MODIFIED", |out| event.new.write(look, out), out),
            (true, false) => {
                // The last state that was in view, at the version of the change.
                let version = event.new.version;
                let last = event.old.as_ref().map(|old| old.at_version(version));
                let last = last.as_ref().filter(|_| !event.removed).unwrap_or(&event.new);
                write_event("DELETED", |out| last.write(look, out), out);
            }
        }
    }

    fn bookmark(&self, annotations: Option<Value>) -> Vec<u8> {
        let version = self.asked.position.to_string();
        let mut object = json!({
            "kind": self.asked.look.kind,
            "apiVersion": self.asked.look.api_version,
            "metadata": { "resourceVersion": version, "creationTimestamp": null },
        });
        if let Some(annotations) = annotations {
            object["metadata"]["annotations"] = annotations;
        }
        let mut line = json!({ "type": "BOOKMARK", "object": object }).to_string().into_bytes();
        line.push(b'\n');
        line
    }
}

/// Appends a line of a watch.
pub(super) fn write_event(what: &str, object: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(what.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    object(out);
    out.extend_from_slice(b"}\n");
}

/// A refusal inside a watch.
pub(super) fn error_line(refusal: &Refusal) -> Vec<u8> {
    let mut line = json!({ "type": "ERROR", "object": refusal.to_json() }).to_string().into_bytes();
    line.push(b'\n');
    line
}
