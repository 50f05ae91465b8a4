//! Route tables made by hand, as `plan` would make them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::catalog::{
    DnsMode, EndpointPort, ExportedEndpoint, Fence, LocalCatalog, Merged, Policy, ServiceType,
    SessionAffinity,
};
use crate::clock;
use crate::health::PeerState;
use crate::model::{ClusterId, HostLabel, Locality, PortSpec, ServiceKey};
use crate::routes::{Candidate, DirectEndpoints, PortRoute, Reason, RemotePods, Route, RouteTable};

/// Builds a [`RouteTable`]; names, ports and endpoints are given as text and must be well-formed.
#[derive(Debug)]
pub struct Tables(RouteTable);

impl Tables {
    /// An empty table of that cluster, at revision 1.
    #[must_use]
    pub fn new(cluster: &str) -> Self {
        Self(RouteTable {
            revision: 1,
            built: clock::now(),
            cluster: ClusterId::parse(cluster).expect("a cluster's name"),
            locality: Locality::default(),
            services: HashMap::new(),
            vips: BTreeMap::new(),
            ports: Arc::default(),
            peers: BTreeMap::new(),
            drains: Arc::default(),
            local: Arc::new(LocalCatalog::default()),
        })
    }

    /// Sets the revision.
    #[must_use]
    pub fn revision(mut self, revision: u64) -> Self {
        self.0.revision = revision;
        self
    }

    /// A ClusterSetIP import `namespace/name` with its addresses, ports (`http:TCP:80`, `:UDP:53`
    /// without a name) and exporting clusters, nearest first.
    #[must_use]
    pub fn vip(self, key: &str, vips: &[&str], ports: &[&str], clusters: &[&str]) -> Self {
        let mut route = route(key, ports);
        route.vips = vips.iter().map(|text| ip(text)).collect();
        for cluster in clusters {
            let candidate = candidate(cluster, self.0.cluster.as_str() == *cluster);
            for port in &mut route.ports {
                port.candidates.push(candidate.clone());
            }
            route.clusters.push(candidate);
        }
        self.with(route)
    }

    /// Turns the import to `dns: endpoints`; endpoints as in [`Tables::headless`].
    #[must_use]
    pub fn endpoints(mut self, key: &str, clusters: &[(&str, &[&str])]) -> Self {
        let key = ServiceKey::parse(key).expect("namespace/name");
        let known = self.0.services.remove(&key).expect("an import made before");
        let mut route = Route::clone(&known);
        route.dns = DnsMode::Endpoints;
        route.direct = direct(&route, clusters);
        self.with(route)
    }

    /// A headless import: endpoints by cluster, nearest first, each `address`, or
    /// `address hostname`; every endpoint serves every port.
    #[must_use]
    pub fn headless(self, key: &str, ports: &[&str], clusters: &[(&str, &[&str])]) -> Self {
        let mut route = route(key, ports);
        route.service_type = ServiceType::Headless;
        route.direct = direct(&route, clusters);
        let own = self.0.cluster.clone();
        route.clusters =
            clusters.iter().map(|(name, _)| candidate(name, own.as_str() == *name)).collect();
        self.with(route)
    }

    /// Says where a cluster stands, in every import made before: `region`, or `region/zone`.
    #[must_use]
    pub fn stands(mut self, cluster: &str, place: &str) -> Self {
        let place = locality(place);
        if self.0.cluster.as_str() == cluster {
            self.0.locality = place.clone();
        }
        for route in self.0.services.values_mut() {
            let direct = Arc::make_mut(route).direct.iter_mut();
            for direct in direct.filter(|direct| direct.cluster.as_str() == cluster) {
                direct.locality = place.clone();
            }
        }
        self
    }

    /// Puts in a route made elsewhere.
    #[must_use]
    pub fn with(mut self, route: Route) -> Self {
        for vip in &route.vips {
            self.0.vips.insert(*vip, route.key.clone().into());
        }
        self.0.services.insert(route.key.clone(), Arc::new(route));
        self
    }

    /// The table.
    #[must_use]
    pub fn build(self) -> RouteTable {
        self.0
    }
}

/// A route without any candidate: ClusterSetIP, `dns: vip`, nearest.
#[must_use]
pub fn route(key: &str, ports: &[&str]) -> Route {
    Route {
        key: ServiceKey::parse(key).expect("namespace/name"),
        service_type: ServiceType::ClusterSetIp,
        dns: DnsMode::Vip,
        policy: Policy::Nearest,
        session_affinity: SessionAffinity::None,
        early_data: false,
        vips: Vec::new(),
        import: Arc::new(import(ports)),
        ports: ports
            .iter()
            .map(|text| PortRoute { spec: port(text), candidates: Vec::new(), by_weight: false })
            .collect(),
        clusters: Vec::new(),
        direct: Vec::new(),
        pods: RemotePods::default(),
    }
}

/// The import of a ClusterSetIP service that nobody disagrees on.
#[must_use]
pub fn import(ports: &[&str]) -> Merged {
    Merged {
        service_type: ServiceType::ClusterSetIp,
        ports: ports.iter().map(|text| port(text)).collect(),
        session_affinity: SessionAffinity::None,
        ip_families: Vec::new(),
        all_families: Vec::new(),
        internal_traffic_policy: None,
        traffic_distribution: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        policy: Policy::Nearest,
        fence: Fence::None,
        dns: DnsMode::Vip,
        clusters: Vec::new(),
        conflicts: Vec::new(),
    }
}

/// `http:TCP:80`, or `:TCP:80` for an unnamed port.
#[must_use]
pub fn port(text: &str) -> PortSpec {
    let parts: Vec<&str> = text.split(':').collect();
    let &[name, protocol, number] = parts.as_slice() else { panic!("name:PROTOCOL:number") };
    let number = crate::model::PortNumber::new(number.parse().expect("a number"));
    PortSpec {
        name: name.into(),
        protocol: protocol.parse().expect("TCP, UDP or SCTP"),
        port: number.expect("1 to 65535"),
        app_protocol: None,
    }
}

fn candidate(cluster: &str, local: bool) -> Candidate {
    Candidate {
        cluster: ClusterId::parse(cluster).expect("a cluster's name"),
        local,
        state: PeerState::Up,
        rtt: None,
        weight: 100,
        share: 1.0,
        usable: true,
        reason: if local { Reason::Local } else { Reason::Nearest },
        since: clock::now(),
    }
}

fn direct(route: &Route, clusters: &[(&str, &[&str])]) -> Vec<DirectEndpoints> {
    let mut ports: Vec<_> = route.ports.iter().map(|port| port.spec.key()).collect();
    ports.sort_unstable();
    let ports: Vec<_> = ports.into_iter().map(EndpointPort::from).collect();
    let mut direct = Vec::new();
    for (cluster, texts) in clusters {
        let mut endpoints: Vec<ExportedEndpoint> = texts
            .iter()
            .map(|text| {
                let (address, host) =
                    text.split_once(' ').map_or((*text, None), |(address, host)| {
                        (address, Some(HostLabel::parse(host).expect("a host label")))
                    });
                ExportedEndpoint { address: ip(address), hostname: host, ports: ports.clone() }
            })
            .collect();
        endpoints.sort_unstable();
        let cluster = ClusterId::parse(cluster).expect("a cluster's name");
        direct.push(DirectEndpoints { cluster, locality: Locality::default(), tier: 0, endpoints });
    }
    direct
}

/// `region`, or `region/zone`.
#[must_use]
pub fn locality(text: &str) -> Locality {
    let (region, zone) = text.split_once('/').unwrap_or((text, ""));
    Locality { region: region.into(), zone: zone.into() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
