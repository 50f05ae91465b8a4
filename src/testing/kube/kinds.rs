//! What the server knows: the kinds, and how the real server treats each.

/// Whether objects of a kind live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// They do.
    Namespaced,
    /// They do not.
    Cluster,
}

/// A kind that is served.
#[derive(Debug, Clone)]
pub struct Kind {
    /// Its API group; empty for core.
    pub group: String,
    /// Served versions, the stored one first; all have one schema.
    pub versions: Vec<String>,
    /// The plural in paths.
    pub resource: String,
    /// The singular in objects.
    pub kind: String,
    /// Where its objects live.
    pub scope: Scope,
    /// Whether `status` is written through a path of its own only.
    pub status: bool,
    /// Whether `metadata.generation` counts changes.
    pub generation: bool,
    /// Whether an update may come without a `resourceVersion`.
    pub unconditional: bool,
    /// Whether lists name the kind in each item, as those of custom resources do.
    pub custom: bool,
}

impl Kind {
    /// A custom resource with a status subresource.
    #[must_use]
    pub fn custom(
        group: &str,
        versions: &[&str],
        resource: &str,
        kind: &str,
        scope: Scope,
    ) -> Self {
        Self {
            group: group.to_owned(),
            versions: versions.iter().map(|&v| v.to_owned()).collect(),
            resource: resource.to_owned(),
            kind: kind.to_owned(),
            scope,
            status: true,
            generation: true,
            unconditional: false,
            custom: true,
        }
    }

    fn native(group: &str, version: &str, resource: &str, kind: &str, scope: Scope) -> Self {
        Self {
            status: false,
            generation: false,
            unconditional: true,
            custom: false,
            ..Self::custom(group, &[version], resource, kind, scope)
        }
    }

    /// `services`, `endpointslices.discovery.k8s.io`: how the server's messages name it.
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    /// `v1`, `discovery.k8s.io/v1`.
    pub(super) fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// Whether people mean this kind by `name`: the plural, or the plural with its group.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.resource == name || self.qualified() == name
    }
}

/// What is served from the start.
pub(super) fn all() -> Vec<Kind> {
    use Scope::{Cluster, Namespaced};
    let mcs = ["v1beta1", "v1alpha1"];
    let with_status = |kind: Kind| Kind { status: true, ..kind };
    let counted = |kind: Kind| Kind { generation: true, ..kind };
    vec![
        with_status(Kind::native("", "v1", "namespaces", "Namespace", Cluster)),
        with_status(Kind::native("", "v1", "services", "Service", Namespaced)),
        with_status(Kind::native("", "v1", "pods", "Pod", Namespaced)),
        with_status(Kind::native("", "v1", "nodes", "Node", Cluster)),
        Kind::native("", "v1", "secrets", "Secret", Namespaced),
        Kind::native("", "v1", "configmaps", "ConfigMap", Namespaced),
        Kind::native("", "v1", "events", "Event", Namespaced),
        Kind::native("events.k8s.io", "v1", "events", "Event", Namespaced),
        counted(Kind::native(
            "discovery.k8s.io",
            "v1",
            "endpointslices",
            "EndpointSlice",
            Namespaced,
        )),
        Kind {
            unconditional: false,
            ..Kind::native("coordination.k8s.io", "v1", "leases", "Lease", Namespaced)
        },
        with_status(counted(Kind::native("apps", "v1", "deployments", "Deployment", Namespaced))),
        Kind::custom("multicluster.x-k8s.io", &mcs, "serviceexports", "ServiceExport", Namespaced),
        Kind::custom("multicluster.x-k8s.io", &mcs, "serviceimports", "ServiceImport", Namespaced),
        Kind::custom("portolan.dev", &["v1alpha1"], "peers", "Peer", Cluster),
        Kind::custom("about.k8s.io", &mcs, "clusterproperties", "ClusterProperty", Cluster),
    ]
}
