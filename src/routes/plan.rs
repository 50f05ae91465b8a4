//! From inputs to the table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::order::{Contender, Placed, Rules, order, place};
use super::{DirectEndpoints, Inputs, PortRoute, RemotePods, Route, RouteTable};
use crate::catalog::{
    Claim, DnsMode, EndpointPort, Export, ExportedEndpoint, LocalExport, Merged, Policy,
    ServiceType, Share, merge,
};
use crate::health::PeerState;
use crate::model::{
    Callee, ClusterId, Locality, PodName, PortKey, PortNumber, PortSpec, ServiceKey,
};

/// Plans every service.
#[must_use]
pub fn plan(inputs: &Inputs, now: Instant) -> RouteTable {
    let names: BTreeSet<&ServiceKey> = inputs
        .local
        .exports
        .keys()
        .chain(inputs.peers.values().flat_map(|peer| peer.catalog.exports.keys()))
        .collect();
    let services: HashMap<ServiceKey, Arc<Route>> = names
        .into_iter()
        .filter_map(|key| Some((key.clone(), Arc::new(plan_service(inputs, key, now)?))))
        .collect();
    let vips = vips_of(&services);
    table(inputs, services, vips, now)
}

/// Plans only the services named in `dirty` again; every other route is taken from `previous`.
#[must_use]
pub fn replan(
    previous: &RouteTable,
    inputs: &Inputs,
    dirty: &BTreeSet<ServiceKey>,
    now: Instant,
) -> RouteTable {
    let mut services = previous.services.clone();
    for key in dirty {
        match plan_service(inputs, key, now) {
            Some(route) => services.insert(key.clone(), Arc::new(route)),
            None => services.remove(key),
        };
    }
    let vips = if dirty.is_empty() { previous.vips.clone() } else { vips_of(&services) };
    table(inputs, services, vips, now)
}

fn vips_of(services: &HashMap<ServiceKey, Arc<Route>>) -> BTreeMap<IpAddr, Callee> {
    let mut vips = BTreeMap::new();
    for route in services.values() {
        vips.extend(route.vips.iter().map(|vip| (*vip, Callee::from(route.key.clone()))));
        for pod in &route.pods.led {
            let callee = Callee::pod(route.key.clone(), pod.name.clone());
            vips.extend(pod.vips.iter().map(|vip| (*vip, callee.clone())));
        }
    }
    vips
}

/// The one function that decides a service's route: the gateway, DNS and `explain` all read what
/// it returns. `None`: nobody exports it.
#[must_use]
pub fn plan_service(inputs: &Inputs, key: &ServiceKey, now: Instant) -> Option<Route> {
    let exporters = exporters(inputs, key);
    let claims: Vec<Claim<'_>> = exporters.iter().map(Exporter::claim).collect();
    let mut merged = merge(Some(&inputs.cluster), &claims)?;
    if let Some(guidance) = inputs.namespaces.get(&key.namespace) {
        guidance.lead(&mut merged, inputs.local.exports.get(key).map(|own| &own.guidance));
    }
    let rules = Rules { policy: &merged.policy, fence: merged.fence, own: &inputs.locality };
    let ports = merged
        .ports
        .iter()
        .map(|spec| {
            let contenders: Vec<_> =
                exporters.iter().map(|e| e.contender(e.ready(spec.key()))).collect();
            PortRoute {
                spec: spec.clone(),
                candidates: order(&contenders, rules, now),
                by_weight: merged.policy == Policy::Weighted,
            }
        })
        .collect();
    let contenders: Vec<_> = exporters.iter().map(|e| e.contender(e.best_ready())).collect();
    let clusters = place(&contenders, rules, now);
    let mut pods = remote_pods(inputs, &merged, key, &exporters);
    let direct = direct(&merged, &clusters, &exporters, &mut pods, rules, now);
    let early_data = exporters.iter().all(|e| e.export.settings.early_data);
    Some(Route {
        key: key.clone(),
        service_type: merged.service_type,
        dns: merged.dns,
        policy: merged.policy.clone(),
        session_affinity: merged.session_affinity,
        early_data,
        vips: match merged.service_type {
            ServiceType::ClusterSetIp => vips(inputs, key.clone().into()),
            ServiceType::Headless => Vec::new(),
        },
        ports,
        clusters: clusters.into_iter().map(|placed| placed.candidate).collect(),
        direct,
        pods,
        import: Arc::new(merged),
    })
}

fn vips(inputs: &Inputs, callee: Callee) -> Vec<IpAddr> {
    inputs.vips.get(&callee).cloned().unwrap_or_default()
}

/// The pods of a headless import that are not reached directly.
fn remote_pods(
    inputs: &Inputs,
    merged: &Merged,
    key: &ServiceKey,
    exporters: &[Exporter<'_>],
) -> RemotePods {
    if merged.service_type != ServiceType::Headless {
        return RemotePods::default();
    }
    let ports = merged.ports.iter().map(PortSpec::key).collect();
    let remote = exporters.iter().filter(|exporter| !exporter.reachable);
    let hosts = remote.map(|exporter| {
        let has_ready = exporter.export.ports.iter().any(|port| port.ready > 0);
        (exporter.cluster, exporter.export.hosts.as_slice(), has_ready)
    });
    let at = |pod: &PodName| vips(inputs, Callee::pod(key.clone(), pod.clone()));
    RemotePods::choose(hosts, &ports, at)
}

/// One cluster that exports the name.
struct Exporter<'a> {
    cluster: &'a ClusterId,
    export: &'a Export,
    own: Option<&'a LocalExport>,
    locality: &'a Locality,
    state: PeerState,
    since: Instant,
    rtt: Option<Duration>,
    share: f32,
    drained: bool,
    /// Its endpoints are reached directly.
    reachable: bool,
    /// Its policy may lead callers here.
    leads: bool,
}

impl<'a> Exporter<'a> {
    fn claim(&self) -> Claim<'a> {
        Claim { cluster: self.cluster, export: self.export, leads: self.leads }
    }

    fn ready(&self, port: PortKey) -> Option<u32> {
        self.export.port(port).map(|exported| exported.ready)
    }

    /// Endpoints behind its best port; a headless export without ports counts its endpoints.
    fn best_ready(&self) -> Option<u32> {
        let endpoints = u32::try_from(self.export.endpoints.len()).unwrap_or(u32::MAX);
        Some(self.export.ports.iter().map(|port| port.ready).max().unwrap_or(endpoints))
    }

    fn contender(&self, ready: Option<u32>) -> Contender<'a> {
        Contender {
            cluster: self.cluster,
            local: self.own.is_some(),
            locality: self.locality,
            state: self.state,
            since: self.since,
            rtt: self.rtt,
            weight: self.export.settings.weight.get(),
            share: self.share,
            drained: self.drained,
            ready,
        }
    }

    fn endpoints(&self) -> Vec<ExportedEndpoint> {
        match self.own {
            Some(own) if self.export.endpoints.is_empty() => own_endpoints(own),
            _ => self.export.endpoints.clone(),
        }
    }
}

fn exporters<'a>(inputs: &'a Inputs, key: &ServiceKey) -> Vec<Exporter<'a>> {
    let own = inputs.local.exports.get(key).map(|own| Exporter {
        cluster: &inputs.cluster,
        export: &own.export,
        own: Some(own),
        locality: &inputs.locality,
        state: PeerState::Up,
        since: inputs.started,
        rtt: Some(Duration::ZERO),
        share: own.export.settings.share.fraction(),
        drained: own.export.settings.share == Share::NONE,
        reachable: true,
        leads: true,
    });
    let peers = inputs.peers.iter().filter_map(|(cluster, peer)| {
        let network = &peer.catalog.network;
        let export = peer.catalog.exports.get(key)?;
        let steered = peer.drain.of(export.settings.share);
        Some(Exporter {
            cluster,
            export,
            own: None,
            locality: &peer.catalog.locality,
            state: peer.state(),
            since: peer.health.as_ref().map_or(inputs.started, |health| health.since),
            rtt: peer.ranking_rtt(),
            share: peer.share() * steered.fraction(),
            drained: steered == Share::NONE,
            reachable: !network.is_empty() && *network == inputs.network,
            leads: peer.leads,
        })
    });
    own.into_iter().chain(peers).collect()
}

/// Local endpoints by address, from the backends of every port.
fn own_endpoints(own: &LocalExport) -> Vec<ExportedEndpoint> {
    let mut by_address: BTreeMap<IpAddr, ExportedEndpoint> = BTreeMap::new();
    for (port, backends) in &own.backends {
        for backend in backends {
            let address = backend.address.ip();
            let endpoint = by_address.entry(address).or_insert_with(|| ExportedEndpoint {
                address,
                hostname: backend.hostname.clone(),
                ports: Vec::new(),
            });
            let target = PortNumber::new(backend.address.port().into()).ok();
            // Ascending already, but for a second target of one port.
            if endpoint.port(*port).is_none() {
                endpoint.ports.push(EndpointPort { key: *port, target });
            }
        }
    }
    by_address.into_values().collect()
}

/// Endpoints that clients reach directly, in the order of the clusters. Behind a clusterset
/// address every cluster can serve. A headless name has nothing but its endpoints: there only
/// clusters that are reached directly, or pod by pod, count, and their dead serve as the last
/// resort.
fn direct(
    merged: &Merged,
    clusters: &[Placed],
    exporters: &[Exporter<'_>],
    pods: &mut RemotePods,
    rules: Rules<'_>,
    now: Instant,
) -> Vec<DirectEndpoints> {
    let usable = |ordered: &[Placed], endpoints: &dyn Fn(&Exporter<'_>) -> Vec<_>| {
        let usable = ordered.iter().filter(|placed| placed.candidate.usable);
        let of = |placed: &Placed| {
            let exporter = exporters.iter().find(|e| *e.cluster == placed.candidate.cluster)?;
            DirectEndpoints::new(
                exporter.cluster,
                exporter.locality,
                placed.tier,
                endpoints(exporter),
            )
        };
        usable.filter_map(of).collect()
    };
    let reached = |exporter: &Exporter<'_>| {
        if exporter.reachable { exporter.endpoints() } else { Vec::new() }
    };
    match (merged.service_type, merged.dns) {
        (ServiceType::Headless, _) => {
            let has_pods = |e: &&Exporter<'_>| e.reachable || pods.of(e.cluster).next().is_some();
            let contenders = exporters.iter().filter(has_pods);
            let contenders: Vec<_> = contenders.map(|e| e.contender(e.best_ready())).collect();
            let ordered = place(&contenders, rules, now);
            let serving = ordered.iter().map(|placed| &placed.candidate);
            pods.serve(&serving.filter(|c| c.usable).map(|c| &c.cluster).collect());
            usable(&ordered, &|exporter| match reached(exporter) {
                endpoints if endpoints.is_empty() => pods.endpoints(exporter.cluster),
                endpoints => endpoints,
            })
        }
        (ServiceType::ClusterSetIp, DnsMode::Endpoints) => usable(clusters, &reached),
        (ServiceType::ClusterSetIp, DnsMode::Vip) => Vec::new(),
    }
}

fn table(
    inputs: &Inputs,
    services: HashMap<ServiceKey, Arc<Route>>,
    vips: BTreeMap<IpAddr, Callee>,
    now: Instant,
) -> RouteTable {
    let peers = inputs.peers.iter().map(|(id, peer)| (id.clone(), peer.status(inputs.started)));
    RouteTable {
        revision: 0,
        built: now,
        cluster: inputs.cluster.clone(),
        locality: inputs.locality.clone(),
        services,
        vips,
        peers: peers.collect(),
        ports: Arc::clone(&inputs.ports),
        drains: Arc::clone(&inputs.drains),
        local: Arc::clone(&inputs.local),
    }
}
