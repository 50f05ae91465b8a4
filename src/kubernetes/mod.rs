//! The Kubernetes API server: a source of catalog changes, and where `objects` are applied.
//!
//! [`Source`] holds one watch per kind (Service, EndpointSlice, Namespace, ServiceExport,
//! ServiceImport, Peer, ClusterProperty and the one Secret with the own authority), tells the
//! catalog what changed, keeps the [`Mirror`] of what we wrote, and publishes a [`ClusterView`] of
//! the rest.
//!
//! Invariants: what is known stays while the server is away or refuses; a list replaces what is
//! known only when it is whole, as one change; an older `resourceVersion` never overwrites a newer
//! one; an object that is too large or makes no sense rejects only itself, and its last good state
//! stays. Not here: what should exist (`objects`), what a change means (`catalog`, `routes`).

mod bootstrap;
mod calls;
mod client;
mod events;
mod kinds;
mod lease;
mod mirror;
mod source;
mod state;
mod view;
mod watch;
mod writer;

use std::fmt;

use prometheus::IntCounterVec;
use thiserror::Error as ThisError;

pub use bootstrap::{IdentityError, NewAuthority, Wanted, identity};
pub use client::{Access, Clients};
pub use events::{Event, Events, Severity, Subject};
pub use mirror::{Existing, Mirror};
pub use source::Source;
pub use view::{ClusterView, GatewayMember, PeerSpec, Refused, SecretData};
pub use writer::{
    BURST, MAX_IN_FLIGHT, RATE, REST, Writer, WriterConfig, WriterHandle, WriterInputs,
    WriterMetrics, WriterOutputs,
};

use crate::model::{ClusterId, Namespace};
use crate::telemetry::counters;

/// What the source needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The own cluster: a Peer of that name is refused.
    pub cluster: ClusterId,
    /// The namespace we run in.
    pub namespace: Namespace,
    /// The gateway's Service there: its EndpointSlices name the replicas, its status the
    /// addresses under which peers reach us.
    pub gateway_service: Box<str>,
    /// The Secret there that holds the own authority.
    pub secret: Box<str>,
    /// How the API server is reached.
    pub access: Access,
}

/// Why the source could not be opened, or ended.
#[derive(Debug, ThisError)]
pub enum Error {
    /// It is not known where the API server is, or who we are there.
    #[error("{what}; {remedy}")]
    Access {
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A defect of ours: a task panicked.
    #[error("a task that watches the API server failed: {0}; please report this")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    fn client(error: kube::Error) -> Self {
        Self::Access {
            what: format!("no client can be made: {error}"),
            remedy: "check the server's CA and the credentials",
        }
    }
}

/// What kind of trouble, for the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The server cannot be reached, or the connection broke.
    Unreachable,
    /// It did not answer in time, or fell silent.
    Timeout,
    /// It does not know us (401).
    Unauthorized,
    /// It refuses us (403).
    Forbidden,
    /// It has forgotten where we were (410): everything is listed again.
    Gone,
    /// We ask too much (429).
    Throttled,
    /// It answers with another error.
    Server,
    /// It does not have the kind.
    NotInstalled,
    /// Its answer is not understood.
    Answer,
    /// One object is too large or makes no sense.
    Object,
    /// Its store was set back: versions are lower than they were.
    SetBack,
}

impl Reason {
    const ALL: [Self; 11] = [
        Self::Unreachable,
        Self::Timeout,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Gone,
        Self::Throttled,
        Self::Server,
        Self::NotInstalled,
        Self::Answer,
        Self::Object,
        Self::SetBack,
    ];

    /// The metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Gone => "gone",
            Self::Throttled => "throttled",
            Self::Server => "server",
            Self::NotInstalled => "not_installed",
            Self::Answer => "answer",
            Self::Object => "object",
            Self::SetBack => "set_back",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the source counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    errors: IntCounterVec,
}

impl Metrics {
    /// Registers the metrics of this source.
    pub fn register(registry: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        let errors = counters(
            registry,
            "portolan_source_errors_total",
            "Troubles met in the own source, by reason",
            &["reason"],
        )?;
        for reason in Reason::ALL {
            errors.with_label_values(&[reason.as_str()]);
        }
        Ok(Self { errors })
    }

    fn count(&self, reason: Reason) {
        self.errors.with_label_values(&[reason.as_str()]).inc();
    }
}
