//! The record that travels: what one cluster says of one exported service.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::settings::Settings;
use crate::model::{HostLabel, Locality, PortKey, PortNumber, PortSpec, ServiceKey};

/// The type of an import (KEP-1645, "Service Types").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ServiceType {
    /// One clusterset address in front of all endpoints.
    #[serde(rename = "ClusterSetIP")]
    ClusterSetIp,
    /// No address of its own; names resolve to the endpoints.
    Headless,
}

/// Session affinity, verbatim from the Service.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub enum SessionAffinity {
    /// No affinity.
    #[default]
    None,
    /// By the client's address, forgotten after so many seconds.
    ClientIp {
        /// `sessionAffinityConfig.clientIP.timeoutSeconds`, 1 to 86400.
        timeout_seconds: u32,
    },
}

impl SessionAffinity {
    /// The API server's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
    pub const DEFAULT_SECONDS: u32 = 10_800;
    /// The longest that the API server accepts: a day.
    const MAX_SECONDS: u32 = 86_400;

    /// `ClientIP` as an object has it, with the API server's default and range for the timeout.
    pub fn client_ip(timeout_seconds: Option<u32>) -> Result<Self, AffinityTimeout> {
        let timeout_seconds = timeout_seconds.unwrap_or(Self::DEFAULT_SECONDS);
        if (1..=Self::MAX_SECONDS).contains(&timeout_seconds) {
            Ok(Self::ClientIp { timeout_seconds })
        } else {
            Err(AffinityTimeout(timeout_seconds))
        }
    }
}

/// A timeout that the API server would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "sessionAffinityConfig.clientIP.timeoutSeconds is {0}; give 1 to {max}",
    max = SessionAffinity::MAX_SECONDS
)]
pub struct AffinityTimeout(u32);

/// An IP family, in the Kubernetes spelling when serialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl IpFamily {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// One exported port and how many endpoints behind it are ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedPort {
    /// The port as the Service has it.
    pub spec: PortSpec,
    /// Ready endpoints behind it at the exporter.
    pub ready: u32,
}

/// A Service port that an endpoint serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointPort {
    /// The Service port.
    #[serde(flatten)]
    pub key: PortKey,
    /// The port at the endpoint's own address; `None` where a peer does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PortNumber>,
}

impl EndpointPort {
    /// Where it is at the endpoint's address: the Service's number where nobody says.
    #[must_use]
    pub fn number(self) -> PortNumber {
        self.target.unwrap_or(self.key.port)
    }
}

impl From<PortKey> for EndpointPort {
    fn from(key: PortKey) -> Self {
        Self { key, target: None }
    }
}

/// One ready endpoint: sent only for headless exports and those with `dns: endpoints`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExportedEndpoint {
    /// The endpoint's address, canonical.
    pub address: IpAddr,
    /// The pod's hostname, where it has one.
    pub hostname: Option<HostLabel>,
    /// The Service ports it serves, ascending, each once.
    pub ports: Vec<EndpointPort>,
}

impl ExportedEndpoint {
    /// That Service port, if the endpoint serves it.
    #[must_use]
    pub fn port(&self, key: PortKey) -> Option<EndpointPort> {
        self.ports.iter().find(|port| port.key == key).copied()
    }
}

/// A ready pod of a peer's headless export that has a hostname. By that its gateway finds it,
/// whatever its address and whether or not that is believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedHost {
    /// Its hostname.
    pub hostname: HostLabel,
    /// The Service ports it serves at any of its addresses, ascending, each once.
    pub ports: Vec<EndpointPort>,
}

/// What one cluster says of one exported service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// The namespaced name.
    pub key: ServiceKey,
    /// The ServiceExport's creationTimestamp, Unix milliseconds; absent in a manifest is 0.
    pub created_ms: i64,
    /// The type of the Service.
    pub service_type: ServiceType,
    /// The Service's ports, in its order.
    pub ports: Vec<ExportedPort>,
    /// `sessionAffinity` and its configuration.
    pub session_affinity: SessionAffinity,
    /// `ipFamilies`, in order; at most two.
    pub ip_families: Vec<IpFamily>,
    /// `internalTrafficPolicy`, verbatim.
    pub internal_traffic_policy: Option<Box<str>>,
    /// `trafficDistribution`, verbatim.
    pub traffic_distribution: Option<Box<str>>,
    /// `spec.exportedLabels`, without the reserved domains.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// `spec.exportedAnnotations`, without the reserved domains.
    pub annotations: BTreeMap<Box<str>, Box<str>>,
    /// What the `portolan.dev/*` annotations ask for.
    pub settings: Settings,
    /// Ready endpoints, where they travel at all; ascending by address.
    pub endpoints: Vec<ExportedEndpoint>,
    /// Of a peer's headless export the pods with hostnames, ascending. Does not travel: it is
    /// made of the endpoints, those that are not believed included, when the record is judged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<ExportedHost>,
}

impl Export {
    /// The port of that protocol and number.
    #[must_use]
    pub fn port(&self, key: PortKey) -> Option<&ExportedPort> {
        self.ports.iter().find(|port| port.spec.key() == key)
    }
}

/// The exports of one peer as we believe them, swapped as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerCatalog {
    /// By name.
    pub exports: BTreeMap<ServiceKey, Arc<Export>>,
    /// The peer's `network`; equal and non-empty on both sides means direct reach.
    pub network: Box<str>,
    /// Where the peer stands.
    pub locality: Locality,
}
