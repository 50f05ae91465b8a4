//! What a turn is about, and how urgent it is.

use crate::model::ServiceKey;
use crate::objects::ObjectId;

/// One object of the API that may need a write; at most one request about each is under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// One of ours, with its status.
    Object(ObjectId),
    /// The status of a ServiceExport.
    Export(ServiceKey),
    /// The status of a Peer, by the object's name.
    Peer(Box<str>),
}

/// The order in which the budget is spent, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// What must no longer be there.
    Removal,
    /// Where existing addresses lead: the EndpointSlices that kube-proxy reads.
    Switch,
    /// What is new, or changed otherwise.
    Addition,
    /// What only people read.
    Status,
}
