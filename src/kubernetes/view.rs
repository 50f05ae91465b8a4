//! What the cluster tells besides exports.

mod keep;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use zeroize::Zeroizing;

pub(super) use self::keep::{Held, View};
use crate::catalog::{Guidance, IpFamily, NamespaceRules};
use crate::model::{Callee, ClusterId, Drain, Namespace, PeerAddress, ServiceKey};
use crate::objects::{
    Condition, McsVersion, Observed, ObservedExport, ObservedImport, ObservedService, derived_name,
};

/// The cluster as it was last seen, beside what is exported: one immutable value per change, at
/// most one every 20 ms.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// Whether every kind was listed at least once: before that, what is not here may exist.
    pub synced: bool,
    /// The families of the cluster's Services, that of the API server's own Service first; empty
    /// before a Service was seen.
    pub families: Vec<IpFamily>,
    /// The version in which ServiceImports are served.
    pub mcs: McsVersion,
    /// The namespaces that are not on their way out, and how they want callers led.
    pub namespaces: Arc<BTreeMap<Namespace, Guidance>>,
    /// The derived Services, ours alone, those of remote pods among them.
    pub services: Arc<BTreeMap<Callee, ObservedService>>,
    /// Services of others whose name begins as those of ours do; see [`ClusterView::service`].
    pub taken: Arc<BTreeMap<(Namespace, Box<str>), ObservedService>>,
    /// The ServiceImports, others' among them.
    pub imports: Arc<BTreeMap<ServiceKey, ObservedImport>>,
    /// The ServiceExports.
    pub exports: Arc<BTreeMap<ServiceKey, ObservedExport>>,
    /// The peers.
    pub peers: Arc<BTreeMap<ClusterId, PeerSpec>>,
    /// The replicas of the gateway, by name.
    pub gateways: Arc<Vec<GatewayMember>>,
    /// Where peers reach us: the addresses of the gateway's LoadBalancer with its port.
    pub advertise: Arc<Vec<PeerAddress>>,
    /// The ClusterProperty `cluster.clusterset.k8s.io` (KEP-2149), verbatim.
    pub cluster_id: Option<Box<str>>,
    /// The Secret with the own authority.
    pub secret: Option<Arc<SecretData>>,
    /// The objects that were refused.
    pub refused: Arc<Vec<Refused>>,
}

/// A `Peer` (`portolan.dev/v1alpha1`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSpec {
    /// The object's name.
    pub name: Box<str>,
    /// Its uid.
    pub uid: Box<str>,
    /// Its generation.
    pub generation: Option<i64>,
    /// The cluster: `spec.cluster`, else the object's name.
    pub cluster: ClusterId,
    /// Where it is reached; may be empty where only the peer dials.
    pub addresses: Vec<PeerAddress>,
    /// Where its endpoints may lie; empty: it is believed about no endpoint address.
    pub networks: Vec<IpNet>,
    /// The authorities that may sign for it, PEM; `None` where they come from elsewhere.
    pub bundle: Option<Arc<str>>,
    /// What is imported from it.
    pub namespaces: NamespaceRules,
    /// Whether its exports' `policy`, `fence` and `dns` may count here.
    pub trust_policy: bool,
    /// Whether we dial it.
    pub dial_out: bool,
    /// Its annotation `portolan.dev/drain`.
    pub drain: Option<Drain>,
    /// `status.conditions`, as found.
    pub conditions: Vec<Condition>,
}

/// One replica of the gateway, from the EndpointSlices of its Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GatewayMember {
    /// The pod's name; its first address where the slice names no pod.
    pub name: Box<str>,
    /// The pod's uid; empty where the slice names no pod.
    pub uid: Box<str>,
    /// Its addresses, ascending.
    pub addresses: Vec<IpAddr>,
    /// The node it runs on.
    pub node: Option<Box<str>>,
    /// The node's zone.
    pub zone: Option<Box<str>>,
    /// Whether every slice that names it says that it is ready.
    pub ready: bool,
}

/// An object that is too large or makes no sense: its last good state, if any, stays in force.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// Its kind, as in a manifest.
    pub kind: &'static str,
    /// Its namespace; empty for kinds without.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its uid; empty where it could not be read.
    pub uid: Box<str>,
    /// What is wrong and what to do.
    pub why: Box<str>,
}

/// The entries of a Secret; wiped from memory when dropped, and never shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SecretData(pub BTreeMap<Box<str>, Zeroizing<Vec<u8>>>);

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretData").field(&self.0.keys()).finish()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        // A name may hold anything: the API server checks less than it says.
        let (namespace, name) = (self.namespace.escape_debug(), self.name.escape_debug());
        write!(f, "{} {namespace}{slash}{name}: {}", self.kind, self.why)
    }
}

impl ClusterView {
    /// What has the name of the derived Service of `key`, be it ours or not.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&ObservedService> {
        let taken = || self.taken.get(&(key.namespace.clone(), derived_name(key).into()));
        self.services.get(&Callee::from(key.clone())).or_else(taken)
    }

    /// What the cluster holds of one name; `refusal` is what the writer met.
    #[must_use]
    pub fn observed(&self, key: &ServiceKey, refusal: Option<Box<str>>) -> Observed {
        Observed {
            namespace_exists: self.namespaces.contains_key(&key.namespace),
            service: self.service(key).cloned(),
            pods: Callee::pods(&self.services, key)
                .map(|(pod, of)| (pod.clone(), of.clone()))
                .collect(),
            import: self.imports.get(key).cloned(),
            export: self.exports.get(key).cloned(),
            refusal,
        }
    }
}
