//! Which Kubernetes objects should exist: the decision, as data.
//!
//! From the route of a name and what the cluster holds to the ServiceImport, the derived Service,
//! the EndpointSlices and the conditions that follow (KEP-1645). Pure: nothing here talks to an
//! API server; `kubernetes` applies what is decided.
//!
//! Invariants: an [`Object`] holds exactly the fields we own, so that one that was written and is
//! read back, with whatever the API server filled in, compares equal and is not written again;
//! what is desired depends on sets, never on their order. Not here: the order of writes, who may
//! write, which names are looked at.

mod condition;
mod desired;
mod exported;
mod import;
mod json;
mod labels;
mod layout;
mod object;
mod observed;
mod peer;
mod pods;
mod ports;
mod pruned;
mod ready;
mod service;
mod slice;
mod slices;
#[cfg(test)]
mod tests;

pub use condition::{Condition, ConditionStatus};
pub use desired::{Case, PodPorts, desired};
pub use import::{ImportSpec, ImportStatus, ServiceImport};
pub use labels::{
    ANNOTATION_PORTS, LABEL_MANAGED_BY, LABEL_MCS_SERVICE, LABEL_POD, LABEL_POD_CLUSTER,
    LABEL_SERVICE, LABEL_SLICE_MANAGED_BY, LABEL_SLICE_SERVICE, LABEL_SOURCE_CLUSTER, MANAGER,
    derived_name, derived_name_of, parse_ports, write_ports,
};
pub use object::{Kind, McsVersion, Meta, Object, ObjectId, Owner};
pub use observed::{
    Desired, ExportStatus, GatewayPod, Kept, Observed, ObservedExport, ObservedImport,
    ObservedService, SERVICE_LINGERS, World,
};
pub use peer::PeerStatus;
pub use ports::{Exhausted, PORT_RESTS, PortBook};
pub use pruned::Pruned;
pub use service::DerivedService;
pub use slice::EndpointSlice;
