//! What the own cluster says besides its exports, where Kubernetes is the source.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalog::{Backend, CallerRules, ClusterRules, Export, LocalExport};
use crate::model::{ClusterId, PortKey, PortNumber, Protocol, ServiceKey};
use crate::peering::PeerConfig;
use crate::routes::GatewayPorts;

/// What the planner takes from the cluster.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct ClusterFacts {
    /// The clusterset addresses: those of the imports.
    pub(super) addresses: BTreeMap<ServiceKey, Vec<IpAddr>>,
    /// The allocated ports.
    pub(super) ports: Arc<GatewayPorts>,
    /// The Peer objects.
    pub(super) peers: Vec<PeerConfig>,
    /// The authorities that they pin, PEM.
    pub(super) bundles: BTreeMap<ClusterId, Arc<str>>,
}

/// One own export as it was last known. Slices stay behind: they are of use only to a writer,
/// and a writer has the API server.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedExport {
    export: Arc<Export>,
    clusters: ClusterRules,
    allow: CallerRules,
    backends: Vec<(PortKey, Vec<Backend>)>,
}

/// What an agent that starts without its API server serves from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SavedCluster {
    exports: Vec<SavedExport>,
    addresses: Vec<(ServiceKey, Vec<IpAddr>)>,
    ports: Vec<(Protocol, PortNumber, ServiceKey, PortKey)>,
    peers: Vec<PeerConfig>,
    bundles: BTreeMap<ClusterId, Arc<str>>,
}

/// The own exports by name.
type Exports = BTreeMap<ServiceKey, Arc<LocalExport>>;

impl SavedCluster {
    /// What is worth keeping.
    pub(super) fn of(exports: &Exports, facts: &ClusterFacts) -> Self {
        let saved = |local: &Arc<LocalExport>| SavedExport {
            export: Arc::clone(&local.export),
            clusters: local.clusters.clone(),
            allow: local.allow.clone(),
            backends: local.backends.iter().map(|(port, all)| (*port, all.clone())).collect(),
        };
        let ports = facts
            .ports
            .iter()
            .map(|((protocol, port), (service, of))| (*protocol, *port, service.clone(), *of));
        Self {
            exports: exports.values().map(saved).collect(),
            addresses: facts.addresses.iter().map(|(k, ips)| (k.clone(), ips.clone())).collect(),
            ports: ports.collect(),
            peers: facts.peers.clone(),
            bundles: facts.bundles.clone(),
        }
    }

    /// Puts it back.
    pub(super) fn restore(self) -> (Exports, ClusterFacts) {
        let restored = |saved: SavedExport| {
            let key = saved.export.key.clone();
            let local = LocalExport {
                export: saved.export,
                clusters: saved.clusters,
                allow: saved.allow,
                backends: saved.backends.into_iter().collect(),
                slices: Vec::new(),
                problems: Vec::new(),
            };
            (key, Arc::new(local))
        };
        let ports = self.ports.into_iter();
        let ports = ports.map(|(protocol, port, service, of)| ((protocol, port), (service, of)));
        let facts = ClusterFacts {
            addresses: self.addresses.into_iter().collect(),
            ports: Arc::new(ports.collect()),
            peers: self.peers,
            bundles: self.bundles,
        };
        (self.exports.into_iter().map(restored).collect(), facts)
    }
}
