//! Raw facts from the edges: what happened, never what it means.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::model::{ClusterId, ReplicaId};

/// One replica of a peer behind one address: the key of health, pool and probes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The peer.
    pub peer: ClusterId,
    /// The address it was dialled at.
    pub address: SocketAddr,
    /// The replica that answered there.
    pub replica: ReplicaId,
}

/// How a probe travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// `PING` on the standing probe connection.
    Standing,
    /// A fresh dial through the ordinary accept, then an echo of 1 400 bytes.
    Fresh,
}

/// How a dial or handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DialFault {
    /// Refused or reset.
    Refused,
    /// No answer in time.
    Timeout,
    /// The handshake or the identity failed.
    Tls,
}

/// What an edge saw. `at` is when it saw it, so that a busy planner does not age facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A replica was seen behind an address (its `READY` was read).
    Seen {
        /// Which.
        target: Target,
        /// When.
        at: Instant,
    },
    /// A probe left. Every probe that leaves is answered, given up or void later.
    ProbeSent {
        /// Which replica.
        target: Target,
        /// How.
        kind: ProbeKind,
        /// Distinct among the probes of this target.
        id: u64,
        /// When.
        at: Instant,
    },
    /// A probe was answered: `PONG`, or for a fresh one the whole echo. Never too late to count
    /// as heard; whether it was good is judged by its time.
    ProbeAnswered {
        /// Which replica.
        target: Target,
        /// How.
        kind: ProbeKind,
        /// As in `ProbeSent`.
        id: u64,
        /// When it was read.
        at: Instant,
        /// Round trip of the `PING` alone (for a fresh probe: of its echo, without the dial).
        rtt: Duration,
    },
    /// A fresh probe was given up after its deadline, or its dial failed.
    ProbeFailed {
        /// Which replica was meant.
        target: Target,
        /// How.
        kind: ProbeKind,
        /// As in `ProbeSent`.
        id: u64,
        /// When.
        at: Instant,
    },
    /// A probe came to nothing for a reason of our own (no descriptor or port left, our leaf
    /// ended): it says nothing about the peer.
    ProbeVoid {
        /// Which replica was meant.
        target: Target,
        /// How.
        kind: ProbeKind,
        /// As in `ProbeSent`.
        id: u64,
        /// When.
        at: Instant,
    },
    /// A `REPLY` (any) came from this replica.
    Replied {
        /// Which replica.
        target: Target,
        /// When.
        at: Instant,
    },
    /// An `OPEN` on this replica got no `REPLY` in its time (never: loss of a reused connection).
    OpenUnanswered {
        /// Which replica.
        target: Target,
        /// When.
        at: Instant,
    },
    /// A dial failed before `READY`: counts against the address.
    DialFailed {
        /// The peer.
        peer: ClusterId,
        /// The address.
        address: SocketAddr,
        /// How.
        fault: DialFault,
        /// When.
        at: Instant,
    },
    /// The standing probe connection ended.
    StandingLost {
        /// Which replica.
        target: Target,
        /// When.
        at: Instant,
    },
    /// The replica announced that it drains (or, `false`, that it no longer does).
    Draining {
        /// The peer.
        peer: ClusterId,
        /// Which of its replicas.
        replica: ReplicaId,
        /// Whether.
        draining: bool,
        /// When.
        at: Instant,
    },
    /// Our own event loop lagged by so much: this round of probes is void.
    Lagged {
        /// By how much.
        by: Duration,
        /// When it was noticed.
        at: Instant,
    },
}
