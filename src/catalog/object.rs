//! Source objects, as far as we need them: what both sources yield.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::export::{IpFamily, SessionAffinity};
use crate::model::{HostLabel, Namespace, PortNumber, PortSpec, Protocol, ServiceKey};

/// `spec.type` and `clusterIP` of a Service, as far as exporting cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// ClusterIP, NodePort or LoadBalancer.
    ClusterIp,
    /// `clusterIP: None`.
    Headless,
    /// ExternalName: never exported.
    ExternalName,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceObject {
    /// Its type.
    pub kind: ObjectKind,
    /// Its ports, in order.
    pub ports: Vec<PortSpec>,
    /// Its affinity.
    pub session_affinity: SessionAffinity,
    /// Its families; empty in a manifest means those of its endpoints.
    pub ip_families: Vec<IpFamily>,
    /// `internalTrafficPolicy`.
    pub internal_traffic_policy: Option<Box<str>>,
    /// `trafficDistribution`.
    pub traffic_distribution: Option<Box<str>>,
}

/// The name of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceObjectKey {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name (a DNS subdomain; only an identity here).
    pub name: Box<str>,
}

/// One port of an EndpointSlice; it belongs to the Service port of the same name and protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// The Service port's name; empty for the only, unnamed one.
    pub name: Box<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The target port.
    pub port: PortNumber,
}

/// One endpoint of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its addresses, canonical; the first is the one used (as kube-proxy does).
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`, absent is true.
    pub ready: bool,
    /// `conditions.serving`, absent is as `ready`.
    pub serving: bool,
    /// `conditions.terminating`, absent is false.
    pub terminating: bool,
    /// `hostname`.
    pub hostname: Option<HostLabel>,
    /// `nodeName`.
    pub node: Option<Box<str>>,
    /// `zone`.
    pub zone: Option<Box<str>>,
}

/// An EndpointSlice of one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceObject {
    /// From the label `kubernetes.io/service-name`.
    pub service: ServiceKey,
    /// Its ports.
    pub ports: Vec<SlicePort>,
    /// Its endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// A ServiceExport.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportObject {
    /// `creationTimestamp`, Unix milliseconds; absent is 0.
    pub created_ms: i64,
    /// `spec.exportedLabels`.
    pub exported_labels: BTreeMap<Box<str>, Box<str>>,
    /// `spec.exportedAnnotations`.
    pub exported_annotations: BTreeMap<Box<str>, Box<str>>,
    /// Its own annotations with the prefix `portolan.dev/`, prefix removed.
    pub settings: BTreeMap<Box<str>, Box<str>>,
}

/// One object as it is now; `None` is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// A Service.
    Service(ServiceKey, Option<ServiceObject>),
    /// An EndpointSlice.
    Slice(SliceObjectKey, Option<SliceObject>),
    /// A ServiceExport.
    Export(ServiceKey, Option<ExportObject>),
}

/// What a source reports, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceUpdate {
    /// Objects that changed together (one file, one page): applied in one step.
    Changed(Vec<SourceEvent>),
    /// Everything that exists has been reported at least once.
    Synced,
    /// The source cannot be read, or part of it was refused; what is known stays.
    Failed {
        /// What is wrong, where, and what to do.
        error: String,
        /// The source, or some of it, cannot be read at all: what is known grows old.
        away: bool,
    },
    /// The last failure is over.
    Recovered,
}
