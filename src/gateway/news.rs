//! Facts on their way to health.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use tokio::sync::mpsc;

use crate::clock;
use crate::health::{DialFault, Fact, Target};
use crate::model::{ClusterId, ReplicaId};

/// Answers of one replica are reported once in this time: they all say the same.
const ANSWERS_EVERY: Duration = Duration::from_millis(100);
/// Replicas remembered for that; more are not told apart from news.
const MOST_REMEMBERED: usize = 4096;

/// Reports facts; a fact that finds the queue full is dropped and counted.
#[derive(Debug)]
pub(super) struct News {
    facts: mpsc::Sender<Fact>,
    dropped: IntCounter,
    answered: Mutex<HashMap<Target, Instant>>,
}

impl News {
    /// Reports to this queue.
    pub(super) fn new(facts: mpsc::Sender<Fact>, dropped: IntCounter) -> Self {
        Self { facts, dropped, answered: Mutex::default() }
    }

    /// Reports one fact.
    pub(super) fn tell(&self, fact: Fact) {
        if self.facts.try_send(fact).is_err() {
            self.dropped.inc();
        }
    }

    /// A replica showed itself.
    pub(super) fn seen(&self, target: Target) {
        self.tell(Fact::Seen { target, at: clock::now() });
    }

    /// A `REPLY`, or the answer to a `CANCEL`.
    pub(super) fn replied(&self, target: &Target) {
        let at = clock::now();
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if answered.get(target).is_some_and(|last| at.duration_since(*last) < ANSWERS_EVERY) {
            return;
        }
        if answered.len() >= MOST_REMEMBERED {
            answered.clear();
        }
        answered.insert(target.clone(), at);
        drop(answered);
        self.tell(Fact::Replied { target: target.clone(), at });
    }

    /// An `OPEN` stayed unanswered; the next answer is news again.
    pub(super) fn unanswered(&self, target: Target) {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).remove(&target);
        self.tell(Fact::OpenUnanswered { target, at: clock::now() });
    }

    /// A dial failed before `READY`.
    pub(super) fn dial_failed(
        &self,
        peer: &ClusterId,
        address: std::net::SocketAddr,
        fault: DialFault,
    ) {
        self.tell(Fact::DialFailed { peer: peer.clone(), address, fault, at: clock::now() });
    }

    /// A replica asked for no new streams.
    pub(super) fn draining(&self, peer: &ClusterId, replica: ReplicaId) {
        let at = clock::now();
        self.tell(Fact::Draining { peer: peer.clone(), replica, draining: true, at });
    }
}
