//! The words of the field, each made only by parsing.
//!
//! A value of one of these types is well-formed by construction: names are RFC 1123 labels, ports
//! are not zero, addresses are canonical (an IPv4-mapped IPv6 address is IPv4). Nothing here does
//! I/O or knows time. Names are shared (`Arc<str>`), so cloning one is a counter.

mod callee;
mod drain;
mod names;
mod peer;
mod port;

pub use callee::{Callee, PodName};
pub use drain::{Drain, ParseDrainError};
pub use names::{
    ClusterId, DnsName, HostLabel, MAX_LABEL_OCTETS, Namespace, ParseNameError, ServiceKey,
    ServiceName,
};
pub use peer::{Locality, PeerAddress, ReplicaId, canonical};
pub use port::{ParsePortError, PortKey, PortNumber, PortSpec, Protocol};
