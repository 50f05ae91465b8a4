//! The kinds that are watched, as far as they are needed.

mod decode;
mod text;

pub(super) use decode::{Decoded, Decoder, Families, Item, MAX_OBJECT_OCTETS, Seen};

/// The name of an object among those of its kind, verbatim; the namespace is empty for kinds
/// without.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
}

/// A kind of object that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Resource {
    /// core Service.
    Service,
    /// discovery.k8s.io EndpointSlice.
    Slice,
    /// core Namespace.
    Namespace,
    /// multicluster.x-k8s.io ServiceExport.
    Export,
    /// multicluster.x-k8s.io ServiceImport.
    Import,
    /// portolan.dev Peer.
    Peer,
    /// about.k8s.io ClusterProperty.
    Property,
    /// The one Secret that holds the own authority.
    Secret,
}

impl Resource {
    /// Every kind.
    pub(super) const ALL: [Self; 8] = [
        Self::Service,
        Self::Slice,
        Self::Namespace,
        Self::Export,
        Self::Import,
        Self::Peer,
        Self::Property,
        Self::Secret,
    ];

    /// The kind as it stands in a manifest.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Slice => "EndpointSlice",
            Self::Namespace => "Namespace",
            Self::Export => "ServiceExport",
            Self::Import => "ServiceImport",
            Self::Peer => "Peer",
            Self::Property => "ClusterProperty",
            Self::Secret => "Secret",
        }
    }

    /// The plural, as in paths and in RBAC.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Slice => "endpointslices",
            Self::Namespace => "namespaces",
            Self::Export => "serviceexports",
            Self::Import => "serviceimports",
            Self::Peer => "peers",
            Self::Property => "clusterproperties",
            Self::Secret => "secrets",
        }
    }

    /// The API group; empty is the core.
    pub(super) fn group(self) -> &'static str {
        match self {
            Self::Service | Self::Namespace | Self::Secret => "",
            Self::Slice => "discovery.k8s.io",
            Self::Export | Self::Import => "multicluster.x-k8s.io",
            Self::Peer => "portolan.dev",
            Self::Property => "about.k8s.io",
        }
    }

    /// The versions we know, the one to prefer first.
    pub(super) fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Service | Self::Slice | Self::Namespace | Self::Secret => &["v1"],
            Self::Export | Self::Import => &["v1beta1", "v1alpha1"],
            Self::Peer => &["v1alpha1"],
            Self::Property => &["v1beta1", "v1alpha1"],
        }
    }

    /// Whether a CustomResourceDefinition brings it, so that it may be missing.
    pub(super) fn custom(self) -> bool {
        matches!(self, Self::Export | Self::Import | Self::Peer | Self::Property)
    }

    /// Whether the source is not synced before it was listed.
    pub(super) fn core(self) -> bool {
        !matches!(self, Self::Property | Self::Secret)
    }

    /// The path of the collection: in one namespace, or in all.
    pub(super) fn path(self, version: &str, namespace: Option<&str>) -> String {
        let root = match self.group() {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural()),
            None => format!("{root}/{}", self.plural()),
        }
    }
}
