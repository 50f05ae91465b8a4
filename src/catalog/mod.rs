//! What one cluster offers, and what the cluster set makes of it.
//!
//! Three steps, all pure: [`Assembly`] turns a source's objects (Services, EndpointSlices,
//! ServiceExports) into [`LocalExport`]s; [`admit`] decides what of a peer's record is believed;
//! [`merge`] folds the exports of one name from all clusters into the import that every cluster
//! sees (KEP-1645, "Constraints and Conflict Resolution").
//!
//! Invariants: an [`Export`] carries everything that travels between clusters and nothing else;
//! `merge` does not depend on the order of its input; one bad object rejects only itself.
//! Not here: where a call goes (`routes`), bytes on the wire (`wire`), files and watches.

mod admit;
mod annotations;
mod assembly;
mod export;
mod guidance;
mod local;
mod merge;
mod object;
mod reserved;
mod settings;

pub use admit::{Admitted, Belief, Doubt, NamespaceRules, Refusal, admit, judge};
pub use annotations::{Wishes, parse_settings};
pub use assembly::{Assembly, NotExported};
pub use export::{
    AffinityTimeout, EndpointPort, Export, ExportedEndpoint, ExportedHost, ExportedPort, IpFamily,
    PeerCatalog, ServiceType, SessionAffinity,
};
pub use guidance::Guidance;
pub use local::{Backend, ExportProblem, LocalCatalog, LocalExport};
pub use merge::{Claim, Conflict, ConflictReason, Merged, Precedence, merge};
pub use object::{
    ExportObject, ObjectKind, ServiceObject, SliceEndpoint, SliceObject, SliceObjectKey, SlicePort,
    SourceEvent, SourceUpdate,
};
pub use settings::{
    Caller, CallerRules, ClusterRules, DnsMode, Fence, LocalMode, Policy, ProxyProtocol, Settings,
    Share, Steer, Weight,
};
