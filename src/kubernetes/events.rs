//! Events: what owners of objects should know.
//!
//! Said to the API server as core/v1 Events in the namespace of the object they are about. The
//! same thing is said once in [`SILENCE`], at most [`BURST`] at once and one a second in the long
//! run; what does not fit, and what the server does not take, is dropped: nothing depends on it.
//! Only the replica that writes says them, since every replica notices the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::Client;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::calls::{Call, Verb};
use crate::clock;
use crate::drain::{Phase, Watch};

/// How long the same thing is not said again.
const SILENCE: Duration = Duration::from_secs(600);
/// Most Events at once.
const BURST: usize = 25;
/// What one costs in the long run.
const COST: Duration = Duration::from_secs(1);
/// Most things remembered as said.
const MAX_SAID: usize = 4_096;
/// Most waiting to be said.
const MAX_WAITING: usize = 256;
/// How long one may take to be said.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest message and longest part of a name that the API takes, in octets.
const MAX_MESSAGE_OCTETS: usize = 1_024;
const MAX_NAME_OCTETS: usize = 200;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Normal,
    /// Somebody should do something.
    Warning,
}

/// The object that an Event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// `apiVersion`, e.g. `v1`.
    pub api_version: Box<str>,
    /// `kind`, e.g. `Service`.
    pub kind: Box<str>,
    /// The namespace; empty: cluster-scoped (the Event is then in `default`).
    pub namespace: Box<str>,
    /// The name.
    pub name: Box<str>,
    /// The uid, where known: without it `kubectl describe` does not show the Event.
    pub uid: Option<Box<str>>,
}

/// One thing to be said.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// What it is about.
    pub subject: Subject,
    /// How much it matters.
    pub severity: Severity,
    /// One word in CamelCase, from a closed set.
    pub reason: &'static str,
    /// What is wrong and what to do; cut at 1 024 octets.
    pub message: Box<str>,
}

/// Where Events are given up; cheap to clone.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<Event>);

impl Events {
    /// Says it if there is room.
    pub fn say(&self, event: Event) {
        // Full, or at the end of the process: nothing depends on it.
        let _dropped = self.0.try_send(event);
    }
}

/// Sends Events.
#[derive(Debug)]
pub(super) struct Speaker {
    waiting: mpsc::Receiver<Event>,
    identity: Box<str>,
}

/// Events of the replica `identity`.
pub(super) fn channel(identity: Box<str>) -> (Events, Speaker) {
    let (sender, waiting) = mpsc::channel(MAX_WAITING);
    (Events(sender), Speaker { waiting, identity })
}

impl Speaker {
    /// Says what comes while `leader` holds, until the drain begins.
    pub(super) async fn run(
        mut self,
        client: Client,
        leader: watch::Receiver<bool>,
        mut drain: Watch,
    ) {
        let mut said = Said::default();
        loop {
            let event = tokio::select! {
                event = self.waiting.recv() => event,
                () = drain.reached(Phase::Draining) => None,
            };
            let Some(event) = event else { return };
            if !*leader.borrow() || !said.admits(&event, clock::now()) {
                continue;
            }
            let call = post(&event, &self.identity, &wall());
            if let Err(fault) = call.send(&client, clock::now() + DEADLINE).await {
                tracing::debug!(%fault, reason = event.reason, "an Event was not taken");
            }
        }
    }
}

/// What was said, and what may be.
#[derive(Debug, Default)]
struct Said {
    at: BTreeMap<Event, Instant>,
    /// When everything said will have been paid for.
    paid: Option<Instant>,
}

impl Said {
    /// Whether `event` may be said at `now`; then it counts as said.
    fn admits(&mut self, event: &Event, now: Instant) -> bool {
        let recent = |at: &Instant| now.saturating_duration_since(*at) < SILENCE;
        if self.at.get(event).is_some_and(recent) {
            return false;
        }
        let paid = self.paid.map_or(now, |paid| paid.max(now)) + COST;
        let room = COST * u32::try_from(BURST).unwrap_or(u32::MAX);
        if paid.saturating_duration_since(now) > room {
            return false;
        }
        if self.at.len() >= MAX_SAID {
            self.at.retain(|_, at| recent(at));
        }
        if self.at.len() >= MAX_SAID {
            return false;
        }
        self.paid = Some(paid);
        self.at.insert(event.clone(), now);
        true
    }
}

fn post(event: &Event, identity: &str, wall: &str) -> Call {
    let Event { subject, severity, reason, message } = event;
    let namespace = if subject.namespace.is_empty() { "default" } else { &*subject.namespace };
    let name = &subject.name[..subject.name.floor_char_boundary(MAX_NAME_OCTETS)];
    let mut about = json!({
        "apiVersion": subject.api_version,
        "kind": subject.kind,
        "name": subject.name,
    });
    if !subject.namespace.is_empty() {
        about["namespace"] = json!(subject.namespace);
    }
    if let Some(uid) = &subject.uid {
        about["uid"] = json!(uid);
    }
    let body: Value = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "namespace": namespace,
            "name": format!("{name}.{:016x}", rand::rng().random::<u64>()),
        },
        "involvedObject": about,
        "type": match severity { Severity::Normal => "Normal", Severity::Warning => "Warning" },
        "reason": reason,
        "message": message[..message.floor_char_boundary(MAX_MESSAGE_OCTETS)],
        "source": { "component": "portolan" },
        "reportingComponent": "portolan.dev/portolan",
        "reportingInstance": identity,
        "firstTimestamp": wall,
        "lastTimestamp": wall,
        "count": 1,
    });
    Call { verb: Verb::Create, path: format!("/api/v1/namespaces/{namespace}/events"), body }
}

/// Now for people, in whole seconds.
fn wall() -> String {
    jiff::Timestamp::from_second(clock::wall_ms() / 1_000).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests;
