//! The other replicas of the own cluster: who lives, and which ports each has open.
//!
//! Every replica dials every other one, greets it, and asks it twice a second; whoever is dialled
//! answers, and tells which allocated ports it has open and whether it drains. So each finds by
//! itself who is silent, without an API server and without anybody's leave.
//!
//! Invariants: a sibling is who its certificate says, one of the own cluster's; one that never
//! answered is neither alive nor silent; one that was alive is silent 1.5 s after its last answer
//! at the latest, or once its port refused twice in a row; time in which this process did not run
//! is nobody's silence; every message, list and channel is bounded.
//! Not here: what follows from silence (the slices, `objects` and `kubernetes`), who the members
//! are (given), the ports themselves (`gateway`).

mod answer;
mod hub;
mod life;
mod link;
mod metrics;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use crate::drain;
use crate::model::ReplicaId;
use crate::routes::OpenPorts;
use crate::tls::{Accepted, Dialer, Trust};

pub use metrics::Metrics;

/// Who we are among the members.
#[derive(Debug, Clone)]
pub struct Config {
    /// The own replica, random per start.
    pub replica: ReplicaId,
    /// The UID of the own pod; empty where it is not known.
    pub uid: Box<str>,
    /// The own addresses: a member that has one of them is this process.
    pub addresses: Vec<IpAddr>,
}

/// One replica as the source knows it, this process among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its pod.
    pub name: Box<str>,
    /// The UID of its pod, never empty: what tells one pod from the next of its name.
    pub uid: Box<str>,
    /// Where its gateway port is, best first.
    pub addresses: Vec<SocketAddr>,
}

/// Whether a replica lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It has not answered yet.
    New,
    /// It answers.
    Alive,
    /// It answered once and does so no longer.
    Silent {
        /// When that was found.
        since: Instant,
    },
}

/// What is known of one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sibling {
    /// Its pod.
    pub name: Box<str>,
    /// Where its gateway port is.
    pub addresses: Vec<SocketAddr>,
    /// Its process; `None` before it was heard.
    pub replica: Option<ReplicaId>,
    /// Whether it lives.
    pub condition: Condition,
    /// The allocated ports that it said were open when it was last heard; none before that, nor
    /// after its process was replaced.
    pub open: Arc<OpenPorts>,
    /// It said that it is about to end: no new clients for it.
    pub draining: bool,
}

impl Sibling {
    /// Whether it has answered, and still does.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.condition == Condition::Alive
    }

    /// Since when it is silent.
    #[must_use]
    pub fn silent_since(&self) -> Option<Instant> {
        match self.condition {
            Condition::Silent { since } => Some(since),
            Condition::New | Condition::Alive => None,
        }
    }
}

/// All replicas that are members, this process among them (always alive), by the UID of the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SiblingView {
    /// By UID.
    pub siblings: BTreeMap<Box<str>, Sibling>,
}

/// The watch that replicas keep on one another.
#[derive(Debug)]
pub struct Siblings {
    config: Arc<Config>,
    dialer: Dialer,
    trust: Trust,
    members: watch::Receiver<Arc<Vec<Member>>>,
    open: watch::Receiver<Arc<OpenPorts>>,
    metrics: Metrics,
}

impl Siblings {
    /// `members` may change at any time; `open` is what we tell them of ourselves.
    #[must_use]
    pub fn new(
        config: Config,
        dialer: Dialer,
        trust: Trust,
        members: watch::Receiver<Arc<Vec<Member>>>,
        open: watch::Receiver<Arc<OpenPorts>>,
        metrics: Metrics,
    ) -> Self {
        Self { config: Arc::new(config), dialer, trust, members, open, metrics }
    }

    /// Watches until drain is forced: while this process drains, siblings still hear that it does.
    /// `accepted` yields the connections that siblings made.
    pub async fn run(
        self,
        accepted: mpsc::Receiver<Accepted>,
        view: watch::Sender<Arc<SiblingView>>,
        drain: drain::Watch,
    ) {
        hub::Hub::new(self, view, drain).run(accepted).await;
    }
}
