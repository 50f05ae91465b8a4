//! One turn: a request, and after a conflict the look at what is there now.
//!
//! A job knows nothing of what else is to be written; what its end means is decided by the writer.

use std::sync::Arc;
use std::time::Instant;

use kube::Client;
use serde_json::Value;

use super::status::StatusJob;
use super::target::Target;
use crate::kubernetes::calls::{Call, Fault, Verb};
use crate::kubernetes::mirror::Existing;
use crate::objects::{ExportStatus, Object, ObjectId, PeerStatus};

/// What is said where an import is there, but not its status.
const NO_STATUS: &str = "its CustomResourceDefinition has no status subresource; apply the one of \
                         the Multi-Cluster Services API";

/// One request that brings something nearer to what it should be.
pub(super) struct Job {
    /// What will be as it should be afterwards.
    pub(super) aim: Aim,
    /// The object of ours it was computed from.
    pub(super) uid: Option<Box<str>>,
    pub(super) request: Request,
}

/// What a job is to achieve.
#[derive(Debug)]
pub(super) enum Aim {
    /// An object of ours is there, but for its status.
    Object(Arc<Object>),
    /// An object of ours has its status too.
    WithStatus(Arc<Object>),
    /// The object is not there.
    Absence,
    /// A ServiceExport has this status.
    Export(ExportStatus),
    /// A Peer has this status.
    Peer(PeerStatus),
}

/// What is sent.
pub(super) enum Request {
    /// A change of an object of ours, and how it is read.
    Change {
        /// Which.
        id: ObjectId,
        /// The change.
        call: Call,
        /// Reads it.
        read: Call,
    },
    /// The status of an object of others.
    Status(StatusJob),
}

/// How a job ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Written; for objects of ours, as the server has it now.
    Written(Option<Existing>),
    /// It is as it should be, or nobody's concern any more: nothing was written.
    Unneeded,
    /// The server keeps something else than was written.
    Altered(Existing),
    /// It had changed; this is what is there now. Nothing was written.
    Stale(Existing),
    /// There is no such object any more.
    Missing,
    /// Something of that name is there that is not ours.
    Foreign,
    /// The server did not do it.
    Failed(Fault),
}

impl Outcome {
    /// The metric's label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Written(_) => "written",
            Self::Unneeded => "unneeded",
            Self::Altered(_) => "altered",
            Self::Stale(_) | Self::Missing | Self::Failed(Fault::Conflict(_)) => "conflict",
            Self::Foreign => "foreign",
            Self::Failed(Fault::Away(_) | Fault::Late(_)) => "away",
            Self::Failed(Fault::Refused(_) | Fault::Absent(_)) => "refused",
        }
    }
}

/// A job that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) target: Target,
    pub(super) aim: Aim,
    pub(super) uid: Option<Box<str>>,
    pub(super) outcome: Outcome,
}

impl Job {
    /// Does it; over by `deadline`.
    pub(super) async fn run(self, target: Target, client: Client, deadline: Instant) -> Ended {
        let Self { aim, uid, request } = self;
        let outcome = match request {
            Request::Status(job) => job.run(&client, deadline).await,
            Request::Change { id, call, read } => {
                let creates = call.verb == Verb::Create;
                match call.send(&client, deadline).await {
                    Ok(answer) => aim.judge(&id, &answer),
                    Err(Fault::Conflict(_)) => look(&id, read, &client, deadline).await,
                    Err(Fault::Absent(_)) if matches!(aim, Aim::WithStatus(_)) => {
                        match look(&id, read, &client, deadline).await {
                            Outcome::Stale(_) => Outcome::Failed(Fault::Refused(NO_STATUS.into())),
                            gone => gone,
                        }
                    }
                    Err(Fault::Absent(_)) if !creates => Outcome::Missing,
                    Err(fault) => Outcome::Failed(fault),
                }
            }
        };
        Ended { target, aim, uid, outcome }
    }
}

impl Aim {
    /// Whether a successful write achieved it, from the server's answer.
    fn judge(&self, id: &ObjectId, answer: &Value) -> Outcome {
        let (wanted, whole) = match self {
            Self::Object(wanted) => (wanted, false),
            Self::WithStatus(wanted) => (wanted, true),
            Self::Absence | Self::Export(_) | Self::Peer(_) => return Outcome::Written(None),
        };
        let Some(existing) = parse(id, answer) else {
            return Outcome::Failed(Fault::Refused("the answer is not such an object".into()));
        };
        let kept = if whole {
            **wanted == *existing.object
        } else {
            wanted.same_but_status(&existing.object)
        };
        if kept { Outcome::Written(Some(existing)) } else { Outcome::Altered(existing) }
    }
}

/// What is there, after a write found something else than it was computed from.
async fn look(id: &ObjectId, read: Call, client: &Client, deadline: Instant) -> Outcome {
    match read.send(client, deadline).await {
        Ok(value) => match parse(id, &value).filter(|existing| existing.object.is_ours()) {
            Some(existing) => Outcome::Stale(existing),
            None => Outcome::Foreign,
        },
        Err(Fault::Absent(_)) => Outcome::Missing,
        Err(fault) => Outcome::Failed(fault),
    }
}

fn parse(id: &ObjectId, value: &Value) -> Option<Existing> {
    let metadata = &value["metadata"];
    Some(Existing {
        uid: metadata["uid"].as_str()?.into(),
        version: metadata["resourceVersion"].as_str()?.into(),
        object: Arc::new(Object::parse(id.kind, value).ok()?),
        deleting: metadata["deletionTimestamp"].is_string(),
    })
}
