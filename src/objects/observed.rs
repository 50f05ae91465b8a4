//! What a decision is made from beside the route, and what it yields.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::condition::Condition;
use super::labels::{LABEL_SLICE_SERVICE, LABEL_SOURCE_CLUSTER, derived_pod_name};
use super::object::{McsVersion, Object};
use crate::catalog::IpFamily;
use crate::model::{ClusterId, PodName, PortKey, PortNumber, Protocol, ServiceKey};

/// How long a derived Service stays, empty, after its import or its pod went: nobody who still has
/// its address from DNS reaches somebody else there, and a pod that is replaced comes back to it.
pub const SERVICE_LINGERS: Duration = Duration::from_secs(30);

/// The own cluster, the same for every name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// The families of its Services, the default one first.
    pub families: Vec<IpFamily>,
    /// The version of the Multi-Cluster Services API in use.
    pub mcs: McsVersion,
    /// The pods of the gateway.
    pub gateways: Vec<GatewayPod>,
}

/// One pod of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPod {
    /// Its name.
    pub name: Box<str>,
    /// Its uid.
    pub uid: Box<str>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The node it runs on.
    pub node: Option<Box<str>>,
    /// The node's zone.
    pub zone: Option<Box<str>>,
    /// Whether it is ready and answers its siblings.
    pub ready: bool,
    /// The ports it said are open.
    pub open: Arc<BTreeSet<(Protocol, PortNumber)>>,
}

/// What the cluster holds of one name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Whether the namespace exists and is not on its way out.
    pub namespace_exists: bool,
    /// The object with the derived Service's name.
    pub service: Option<ObservedService>,
    /// The derived Services of remote pods, ours alone.
    pub pods: BTreeMap<PodName, ObservedService>,
    /// The ServiceImport of the name.
    pub import: Option<ObservedImport>,
    /// The ServiceExport of the name.
    pub export: Option<ObservedExport>,
    /// Why the API server refused the last write for this name, in its words.
    pub refusal: Option<Box<str>>,
}

/// The Service that has the derived name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedService {
    /// Its uid.
    pub uid: Box<str>,
    /// `clusterIPs`.
    pub ips: Vec<IpAddr>,
    /// The ports recorded in its annotation ([`super::parse_ports`]).
    pub ports: BTreeMap<PortKey, PortNumber>,
    /// It is not ours: it is never touched.
    pub foreign: bool,
}

/// The ServiceImport of the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedImport {
    /// Its uid.
    pub uid: Box<str>,
    /// `spec.ips`.
    pub ips: Vec<IpAddr>,
    /// `status.conditions`.
    pub conditions: Vec<Condition>,
    /// It is not ours: it is never touched.
    pub foreign: bool,
}

/// The ServiceExport of the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedExport {
    /// Its uid.
    pub uid: Box<str>,
    /// Its generation.
    pub generation: Option<i64>,
    /// `status.conditions`.
    pub conditions: Vec<Condition>,
}

/// Everything that should exist for one name. An object of ours with this key that is not among
/// `objects` nor `kept` is to go: imports and slices at once, derived Services
/// [`SERVICE_LINGERS`] later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The name.
    pub key: ServiceKey,
    /// The objects, in the order in which they depend on one another.
    pub objects: Vec<Object>,
    /// The status of the ServiceExport, where there is one.
    pub export: Option<ExportStatus>,
    /// What else may stay.
    pub kept: Kept,
}

/// Objects of a name that stay as they are, although nobody wants them: they are of peers that
/// have not told their catalog yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    clusters: BTreeSet<ClusterId>,
    /// Derived Services of pods, by name.
    services: BTreeSet<Box<str>>,
}

impl Kept {
    /// What there is of these pods.
    #[must_use]
    pub fn of<'a>(key: &ServiceKey, pods: impl IntoIterator<Item = &'a PodName>) -> Self {
        let mut kept = Self::default();
        for pod in pods {
            kept.clusters.insert(pod.cluster.clone());
            kept.services.insert(derived_pod_name(key, pod).into());
        }
        kept
    }

    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty()
    }

    /// Whether that object is.
    #[must_use]
    pub fn holds(&self, object: &Object) -> bool {
        let meta = object.meta();
        let is_one = |name: &str| self.services.contains(name);
        match object {
            Object::Service(_) => is_one(&meta.name),
            Object::Slice(_) => {
                let source = meta.labels.get(LABEL_SOURCE_CLUSTER);
                meta.labels.get(LABEL_SLICE_SERVICE).is_some_and(|name| is_one(name))
                    || self.clusters.iter().any(|of| source.is_some_and(|at| **at == *of.as_str()))
            }
            Object::Import(_) => false,
        }
    }
}

impl Desired {
    /// Leaves alone what there is of these pods, which the route does not know.
    #[must_use]
    pub fn keeping(mut self, kept: Kept) -> Self {
        for object in &mut self.objects {
            if let Object::Import(import) = object {
                import.status.clusters.extend(kept.clusters.iter().cloned());
            }
        }
        Self { kept, ..self }
    }
}

/// The status of a ServiceExport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportStatus {
    /// The name.
    pub key: ServiceKey,
    /// Which object it was decided for.
    pub uid: Box<str>,
    /// `Valid`, `Ready`, `Conflict`, then those of others as they were found.
    pub conditions: Vec<Condition>,
}

impl ExportStatus {
    /// As under `status`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let conditions: Vec<_> = self.conditions.iter().map(Condition::to_json).collect();
        json!({ "conditions": conditions })
    }
}
