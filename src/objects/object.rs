//! An object of ours: what all kinds have in common.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::import::ServiceImport;
use super::labels::{
    LABEL_MANAGED_BY, LABEL_POD, LABEL_POD_CLUSTER, LABEL_SERVICE, LABEL_SLICE_MANAGED_BY, MANAGER,
};
use super::service::DerivedService;
use super::slice::EndpointSlice;
use crate::model::{Callee, ClusterId, HostLabel, Namespace, PodName, ServiceKey, ServiceName};

/// The kinds of object we write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The derived Service, whose ClusterIP is the clusterset address.
    Service,
    /// The ServiceImport.
    Import,
    /// An EndpointSlice: of the derived Service, or of the import.
    Slice,
}

impl Kind {
    /// The kind as it stands in a manifest.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Import => "ServiceImport",
            Self::Slice => "EndpointSlice",
        }
    }
}

/// The version of the Multi-Cluster Services API that the server has: `v1beta1` where it serves
/// it. Both have one schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum McsVersion {
    /// `v1beta1`.
    #[default]
    V1beta1,
    /// Only `v1alpha1`.
    V1alpha1,
}

impl McsVersion {
    /// As `apiVersion` has it.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Self::V1beta1 => "multicluster.x-k8s.io/v1beta1",
            Self::V1alpha1 => "multicluster.x-k8s.io/v1alpha1",
        }
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: Box<str>,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// Whose end takes an object with it (`metadata.ownerReferences`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// `apiVersion`.
    pub api_version: Box<str>,
    /// `kind`.
    pub kind: Box<str>,
    /// `name`, in the same namespace.
    pub name: Box<str>,
    /// `uid`.
    pub uid: Box<str>,
}

/// The part of `metadata` that is ours: labels and annotations of others are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The namespace.
    pub namespace: Namespace,
    /// The name.
    pub name: Box<str>,
    /// Our labels.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// Our annotations.
    pub annotations: BTreeMap<Box<str>, Box<str>>,
    /// The owner we gave it.
    pub owner: Option<Owner>,
}

/// An object as it should be, or as it was found: exactly the fields we own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A derived Service.
    Service(DerivedService),
    /// A ServiceImport with its status.
    Import(ServiceImport),
    /// An EndpointSlice.
    Slice(EndpointSlice),
}

impl Object {
    /// Reads an object of the API. Fields that are not ours are not looked at, what is absent is
    /// what the API server would fill in: what [`Object::to_json`] wrote reads back as equal.
    ///
    /// # Errors
    /// What cannot be read and why; such an object is not one of ours.
    pub fn parse(kind: Kind, value: &Value) -> Result<Self, String> {
        let parsed = match kind {
            Kind::Service => DerivedService::parse(value).map(Self::Service),
            Kind::Import => ServiceImport::parse(value).map(Self::Import),
            Kind::Slice => EndpointSlice::parse(value).map(Self::Slice),
        };
        parsed.map_err(|error| format!("{} cannot be read: {error}", kind.as_str()))
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::Import(_) => Kind::Import,
            Self::Slice(_) => Kind::Slice,
        }
    }

    /// Which object it is.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        let Meta { namespace, name, .. } = self.meta();
        ObjectId { kind: self.kind(), namespace: namespace.clone(), name: name.clone() }
    }

    /// Its metadata, as far as it is ours.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Service(service) => &service.meta,
            Self::Import(import) => &import.meta,
            Self::Slice(slice) => &slice.meta,
        }
    }

    /// The exported service it stands for; `None` where our label is missing.
    #[must_use]
    pub fn key(&self) -> Option<ServiceKey> {
        let name = self.meta().labels.get(LABEL_SERVICE)?;
        Some(ServiceKey::new(self.meta().namespace.clone(), ServiceName::parse(name).ok()?))
    }

    /// The service that a derived Service stands for, or the one remote pod of it.
    #[must_use]
    pub fn callee(&self) -> Option<Callee> {
        let label = |name| self.meta().labels.get(name).map(AsRef::as_ref);
        let service = self.key()?;
        Some(match (label(LABEL_POD_CLUSTER), label(LABEL_POD)) {
            (None, None) => service.into(),
            (Some(cluster), Some(host)) => {
                let cluster = ClusterId::parse(cluster).ok()?;
                Callee::pod(service, PodName { cluster, hostname: HostLabel::parse(host).ok()? })
            }
            _ => return None,
        })
    }

    /// Whether its label says that we manage it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        let label = match self.kind() {
            Kind::Service | Kind::Import => LABEL_MANAGED_BY,
            Kind::Slice => LABEL_SLICE_MANAGED_BY,
        };
        self.meta().labels.get(label).is_some_and(|manager| **manager == *MANAGER)
    }

    /// The whole object without its status, to create it, or to replace one (then with the
    /// `resourceVersion` it replaces). An import is written as `v1beta1`; where only `v1alpha1`
    /// is served, the writer puts that for `apiVersion`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Service(service) => service.to_json(),
            Self::Import(import) => import.to_json(),
            Self::Slice(slice) => slice.to_json(),
        }
    }

    /// A merge patch that makes of `before` this one, and leaves a Service's addresses and the
    /// labels and annotations of others alone; EndpointSlices are replaced whole.
    #[must_use]
    pub fn patch_json(&self, before: &Self) -> Option<Value> {
        match (self, before) {
            (Self::Service(service), _) => Some(service.patch_json()),
            (Self::Import(import), Self::Import(before)) => Some(import.patch_json(before)),
            _ => None,
        }
    }

    /// The status, where it is ours to write: of an import.
    #[must_use]
    pub fn status_json(&self) -> Option<Value> {
        match self {
            Self::Import(import) => Some(import.status.to_json()),
            Self::Service(_) | Self::Slice(_) => None,
        }
    }

    /// Whether all but the status is equal: then [`Object::to_json`] need not be written.
    #[must_use]
    pub fn same_but_status(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Import(one), Self::Import(other)) => {
                one.meta == other.meta && one.spec == other.spec
            }
            _ => self == other,
        }
    }
}
