//! One cluster, one name, and an API server as a function: what is desired is written, filled in
//! as the server does, and observed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::super::*;
use crate::catalog::{
    Assembly, EndpointPort, Export, ExportObject, ExportedEndpoint, ExportedHost, ExportedPort,
    IpFamily, LocalCatalog, LocalExport, NotExported, ObjectKind, PeerCatalog, ServiceObject,
    ServiceType, SessionAffinity, Settings, SliceEndpoint, SliceObject, SliceObjectKey, SlicePort,
    SourceEvent,
};
use crate::health::{PeerState, PeerView};
use crate::model::{
    Callee, ClusterId, HostLabel, Locality, Namespace, PodName, PortKey, PortNumber, PortSpec,
    Protocol, ServiceKey,
};
use crate::routes::{Inputs, PeerInput, Route, plan_service};

pub(super) const NOW_MS: i64 = 1_800_000_000_500;

pub(super) fn web() -> ServiceKey {
    ServiceKey::parse("shop/web").unwrap()
}

pub(super) fn cluster(name: &str) -> ClusterId {
    ClusterId::parse(name).unwrap()
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn number(port: u32) -> PortNumber {
    PortNumber::new(port).unwrap()
}

/// `http:TCP:80`.
pub(super) fn spec(text: &str) -> PortSpec {
    crate::testing::table::port(text)
}

pub(super) fn key(text: &str) -> PortKey {
    spec(text).key()
}

pub(super) fn endpoint(address: &str) -> SliceEndpoint {
    SliceEndpoint {
        addresses: vec![ip(address)],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: None,
        zone: None,
    }
}

/// A plain Service with these ports.
pub(super) fn service(ports: &[&str]) -> ServiceObject {
    ServiceObject {
        kind: ObjectKind::ClusterIp,
        ports: ports.iter().map(|text| spec(text)).collect(),
        session_affinity: SessionAffinity::None,
        ip_families: vec![IpFamily::V4],
        internal_traffic_policy: Some("Cluster".into()),
        traffic_distribution: None,
    }
}

/// A peer's export with two ready endpoints behind each port.
pub(super) fn export(ports: &[&str]) -> Export {
    let exported = |text: &&str| ExportedPort { spec: spec(text), ready: 2 };
    Export {
        key: web(),
        created_ms: 10,
        service_type: ServiceType::ClusterSetIp,
        ports: ports.iter().map(exported).collect(),
        session_affinity: SessionAffinity::None,
        ip_families: vec![IpFamily::V4],
        internal_traffic_policy: Some("Cluster".into()),
        traffic_distribution: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        settings: Settings::default(),
        endpoints: Vec::new(),
        hosts: Vec::new(),
    }
}

pub(super) fn exported_endpoint(address: &str, ports: &[&str]) -> ExportedEndpoint {
    let ports = ports.iter().map(|text| key(text).into()).collect();
    ExportedEndpoint { address: ip(address), hostname: None, ports }
}

/// A peer's headless export of pods, each with a target behind the Service's only port (80).
pub(super) fn headless(pods: &[(&str, u32)]) -> Export {
    let host = |(name, target): &(&str, u32)| ExportedHost {
        hostname: HostLabel::parse(name).unwrap(),
        ports: vec![EndpointPort { key: key("http:TCP:80"), target: Some(number(*target)) }],
    };
    Export {
        service_type: ServiceType::Headless,
        hosts: pods.iter().map(host).collect(),
        ..export(&["http:TCP:80"])
    }
}

pub(super) fn pod(cluster_name: &str, hostname: &str) -> PodName {
    PodName { cluster: cluster(cluster_name), hostname: HostLabel::parse(hostname).unwrap() }
}

/// A slice: its ports with their targets, its endpoints.
pub(super) type SliceOf<'a> = (&'a [(&'a str, u32)], &'a [SliceEndpoint]);

/// Paris and what it sees.
#[derive(Clone)]
pub(super) struct Scene {
    pub(super) inputs: Inputs,
    pub(super) world: World,
    pub(super) observed: Observed,
    pub(super) refused: Option<NotExported>,
    pub(super) allotted: BTreeMap<PortKey, PortNumber>,
    /// The same of remote pods.
    pub(super) pods: PodPorts,
    pub(super) exhausted: Option<Exhausted>,
    pub(super) now_ms: i64,
    now: Instant,
    objects: BTreeMap<ObjectId, Value>,
}

impl Scene {
    /// A single-stack IPv4 cluster with two gateways that have every port open.
    pub(super) fn new() -> Self {
        let now = crate::clock::now();
        let inputs = Inputs {
            cluster: cluster("paris"),
            started: now,
            locality: Locality::default(),
            network: "flat".into(),
            local: Arc::default(),
            peers: BTreeMap::new(),
            vips: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            drains: Arc::default(),
            ports: Arc::default(),
        };
        let protocols = [Protocol::Tcp, Protocol::Udp];
        let ports = (20_000..20_020).map(number);
        let open: BTreeSet<_> =
            ports.flat_map(|port| protocols.map(|protocol| (protocol, port))).collect();
        let pod = |n: u8| GatewayPod {
            name: format!("portolan-{n}").into(),
            uid: format!("pod-{n}").into(),
            addresses: vec![IpAddr::from([10, 1, 0, n]), ip(&format!("fd01::{n}"))],
            node: Some(format!("node-{n}").into()),
            zone: None,
            ready: true,
            open: Arc::new(open.clone()),
        };
        let world = World {
            families: vec![IpFamily::V4],
            mcs: McsVersion::V1beta1,
            gateways: vec![pod(1), pod(2)],
        };
        let observed = Observed { namespace_exists: true, ..Observed::default() };
        Self {
            inputs,
            world,
            observed,
            refused: None,
            allotted: BTreeMap::new(),
            pods: PodPorts::new(),
            exhausted: None,
            now_ms: NOW_MS,
            now,
            objects: BTreeMap::new(),
        }
    }

    pub(super) fn dual_stack(mut self) -> Self {
        self.world.families = vec![IpFamily::V4, IpFamily::V6];
        self
    }

    /// Exports from here: the Service, and slices of (target ports, endpoints).
    pub(super) fn own(self, service: ServiceObject, slices: &[SliceOf<'_>]) -> Self {
        self.own_with(service, slices, &[])
    }

    /// With annotations of the ServiceExport, without their prefix.
    pub(super) fn own_with(
        mut self,
        service: ServiceObject,
        slices: &[SliceOf<'_>],
        settings: &[(&str, &str)],
    ) -> Self {
        let protocol = |name: &str| {
            let found = service.ports.iter().find(|port| *port.name == *name);
            found.map_or(Protocol::Tcp, |port| port.protocol)
        };
        let slice = |(ports, endpoints): &SliceOf<'_>| SliceObject {
            service: web(),
            ports: ports
                .iter()
                .map(|(name, port)| SlicePort {
                    name: (*name).into(),
                    protocol: protocol(name),
                    port: number(*port),
                })
                .collect(),
            endpoints: endpoints.to_vec(),
        };
        let settings = settings.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let wanted = ExportObject { created_ms: 5, settings, ..ExportObject::default() };
        let mut events: Vec<SourceEvent> = slices
            .iter()
            .enumerate()
            .map(|(n, of)| {
                let namespace = Namespace::parse("shop").unwrap();
                let name = format!("web-{n}").into();
                SourceEvent::Slice(SliceObjectKey { namespace, name }, Some(slice(of)))
            })
            .collect();
        events.push(SourceEvent::Export(web(), Some(wanted)));
        events.push(SourceEvent::Service(web(), Some(service)));
        let mut assembly = Assembly::new();
        assembly.apply(events);
        self.refused = assembly.refused().get(&web()).copied();
        self.inputs.local = Arc::new(LocalCatalog {
            revision: 1,
            synced: true,
            exports: assembly.exports(),
            ..LocalCatalog::default()
        });
        self.observed.export = Some(ObservedExport {
            uid: "export".into(),
            generation: Some(3),
            conditions: Vec::new(),
        });
        self
    }

    pub(super) fn peer(self, name: &str, export: Export) -> Self {
        self.peer_in(name, PeerState::Up, export)
    }

    pub(super) fn peer_in(self, name: &str, state: PeerState, export: Export) -> Self {
        self.peer_of("flat", name, state, export)
    }

    /// On a network of its own.
    pub(super) fn peer_apart(self, name: &str, export: Export) -> Self {
        self.peer_of("elsewhere", name, PeerState::Up, export)
    }

    fn peer_of(mut self, network: &str, name: &str, state: PeerState, export: Export) -> Self {
        let health = PeerView {
            state,
            since: self.now,
            rtt: None,
            ranking_rtt: Some(std::time::Duration::from_millis(20)),
            loss_percent: 0.0,
            replicas: Vec::new(),
        };
        let catalog = PeerCatalog {
            exports: BTreeMap::from([(web(), Arc::new(export))]),
            network: network.into(),
            locality: Locality::default(),
        };
        let input =
            PeerInput { catalog: Arc::new(catalog), health: Some(health), ..PeerInput::default() };
        self.inputs.peers.insert(cluster(name), input);
        self
    }

    pub(super) fn gone(mut self) -> Self {
        self.inputs.peers.clear();
        self.inputs.local = Arc::default();
        self.observed.export = None;
        self
    }

    pub(super) fn route(&self) -> Option<Route> {
        plan_service(&self.inputs, &web(), self.now)
    }

    pub(super) fn local(&self) -> Option<&LocalExport> {
        self.inputs.local.exports.get(&web()).map(|local| &**local)
    }

    pub(super) fn desired(&self) -> Desired {
        self.decided(|case| case)
    }

    /// As whoever has not looked at the gateway's ports says it.
    pub(super) fn desired_by_records(&self) -> Desired {
        self.decided(|case| Case { allotted: None, pods: None, ..case })
    }

    fn decided(&self, change: impl FnOnce(Case<'_>) -> Case<'_>) -> Desired {
        let (route, key) = (self.route(), web());
        let case = Case {
            key: &key,
            route: route.as_ref(),
            local: self.local(),
            refused: self.refused,
            allotted: Some(&self.allotted),
            pods: Some(&self.pods),
            exhausted: self.exhausted.as_ref(),
        };
        desired(&change(case), &self.observed, &self.world, self.now_ms)
    }

    /// Gives each port of the import one of the gateway, from 20001 up, and each of remote pods
    /// one from 20010 up.
    pub(super) fn allot(mut self) -> Self {
        let route = self.route();
        let mut free = (20_010..).map(number);
        for pod in route.iter().flat_map(|route| &route.pods.led) {
            let ports = pod.ports.iter().map(|port| port.key).zip(&mut free).collect();
            self.pods.insert(pod.name.clone(), ports);
        }
        let ports = route.map(|route| route.ports).unwrap_or_default();
        let keys = ports.iter().map(|port| port.spec.key());
        let keys = keys.filter(|key| key.protocol != Protocol::Sctp);
        self.allotted = keys.zip((20_001..).map(number)).collect();
        self
    }

    /// Writes what is desired and observes it; whether anything had to be written.
    pub(super) fn write(&mut self) -> bool {
        let wanted = self.desired();
        let mut wrote = false;
        let ids: BTreeSet<ObjectId> = wanted.objects.iter().map(Object::id).collect();
        assert_eq!(ids.len(), wanted.objects.len(), "one object, one name");
        self.objects.retain(|id, _| {
            let stays = ids.contains(id);
            wrote |= !stays;
            stays
        });
        for object in &wanted.objects {
            assert_eq!(object.key(), Some(web()));
            assert!(object.is_ours());
            let id = object.id();
            let found = self.objects.get(&id);
            let found = found.map(|value| Object::parse(id.kind, value).unwrap());
            if found.as_ref() != Some(object) {
                wrote = true;
                let before = self.objects.get(&id).cloned();
                self.objects.insert(id, self.served(object, before.as_ref()));
            }
        }
        if let (Some(status), Some(export)) = (wanted.export, &mut self.observed.export)
            && (status.uid != export.uid || status.conditions != export.conditions)
        {
            wrote = true;
            let status = status.to_json();
            export.conditions = Condition::list(status["conditions"].as_array().unwrap());
        }
        self.observe();
        wrote
    }

    /// Writes until nothing has to be; at most five rounds.
    pub(super) fn settle(mut self) -> Self {
        for _ in 0..5 {
            if !self.write() {
                return self;
            }
        }
        panic!("it never settles: {:#?}", self.desired());
    }

    /// What the server makes of a write: defaults, addresses, uid, labels of others.
    fn served(&self, object: &Object, before: Option<&Value>) -> Value {
        let held = before.map(|value| Object::parse(object.kind(), value).unwrap());
        let patch = held.and_then(|held| object.patch_json(&held));
        let mut value = match (before, patch) {
            (Some(before), Some(patch)) => {
                let mut value = before.clone();
                merge_patch(&mut value, &patch);
                value
            }
            _ => object.to_json(),
        };
        let meta = &mut value["metadata"];
        meta["uid"] = format!("uid of {}", object.id()).into();
        meta["resourceVersion"] = "7".into();
        meta["generation"] = 1.into();
        meta["labels"]["example.org/team"] = "of somebody else".into();
        meta["annotations"]["example.org/note"] = "as well".into();
        meta["managedFields"] = json!([]);
        match object {
            Object::Service(_) => {
                let known = self.objects.keys().filter(|id| id.kind == Kind::Service).count();
                let is_pod = object.meta().labels.contains_key(LABEL_POD);
                self.serve_service(&mut value["spec"], if is_pod { 100 + known } else { 7 });
            }
            Object::Import(_) => {
                value["status"] = object.status_json().unwrap();
            }
            Object::Slice(_) => {
                for endpoint in value["endpoints"].as_array_mut().unwrap() {
                    endpoint["deprecatedTopology"] = json!({});
                }
            }
        }
        value
    }

    /// `host`: the last octet of addresses that it gets.
    fn serve_service(&self, spec: &mut Value, host: usize) {
        let ports = spec["ports"].as_array_mut().unwrap();
        for port in ports {
            port["targetPort"] = port["port"].clone();
        }
        if spec["sessionAffinity"] == "ClientIP" && spec["sessionAffinityConfig"].is_null() {
            spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": 10_800 } });
        }
        if spec["clusterIPs"].is_null() {
            // PreferDualStack: the families asked for, then the cluster's others.
            let mut families: Vec<IpFamily> =
                serde_json::from_value(spec["ipFamilies"].clone()).unwrap_or_default();
            let others = self.world.families.iter().filter(|f| !families.contains(f));
            let others: Vec<_> = others.copied().collect();
            if spec["ipFamilyPolicy"] != "SingleStack" {
                families.extend(others);
            }
            let address = |family: &IpFamily| match family {
                IpFamily::V4 => format!("10.96.0.{host}"),
                IpFamily::V6 => format!("fd96::{host}"),
            };
            let ips: Vec<_> = families.iter().map(address).collect();
            spec["clusterIP"] = json!(ips[0]);
            spec["clusterIPs"] = json!(ips);
            spec["ipFamilies"] = json!(families);
        }
    }

    fn observe(&mut self) {
        let of = |kind: Kind| self.objects.iter().find(|(id, _)| id.kind == kind).map(|(_, v)| v);
        let texts = |value: &Value| -> Vec<IpAddr> {
            serde_json::from_value(value.clone()).unwrap_or_default()
        };
        let uid = |value: &Value| value["metadata"]["uid"].as_str().unwrap().into();
        let foreign = self.observed.service.as_ref().filter(|service| service.foreign).cloned();
        let service = |value: &Value| {
            let recorded = value["metadata"]["annotations"][ANNOTATION_PORTS].as_str();
            ObservedService {
                uid: uid(value),
                ips: texts(&value["spec"]["clusterIPs"]),
                ports: recorded.map(parse_ports).unwrap_or_default(),
                foreign: false,
            }
        };
        let services = self.objects.values().filter(|value| value["kind"] == "Service");
        let services = services.map(|value| {
            let callee = Object::parse(Kind::Service, value).unwrap().callee().unwrap();
            (callee, service(value))
        });
        let mut services: BTreeMap<Callee, ObservedService> = services.collect();
        self.observed.service = foreign.or_else(|| services.remove(&web().into()));
        let pods = services.into_iter().filter_map(|(callee, of)| Some((callee.pod?, of)));
        self.observed.pods = pods.collect();
        let addressed = self
            .observed
            .pods
            .iter()
            .map(|(pod, service)| (Callee::pod(web(), pod.clone()), service.ips.clone()));
        self.inputs.vips = addressed.collect();
        self.observed.import = of(Kind::Import).map(|value| ObservedImport {
            uid: uid(value),
            ips: texts(&value["spec"]["ips"]),
            conditions: Condition::list(value["status"]["conditions"].as_array().unwrap()),
            foreign: false,
        });
    }

    /// Loses an object as if somebody had deleted it.
    pub(super) fn lose(mut self, kind: Kind) -> Self {
        self.objects.retain(|id, _| id.kind != kind);
        self.observe();
        self
    }

    /// The raw object as the server has it.
    pub(super) fn raw(&self, kind: Kind) -> &Value {
        self.objects.iter().find(|(id, _)| id.kind == kind).map(|(_, value)| value).unwrap()
    }

    pub(super) fn tamper(&mut self, kind: Kind, change: impl Fn(&mut Value)) {
        let mut found = self.objects.iter_mut().filter(|(id, _)| id.kind == kind);
        change(found.next().unwrap().1);
        self.observe();
    }

    pub(super) fn derived(&self) -> Option<DerivedService> {
        self.services().into_iter().find(|service| *service.meta.name == *derived_name(&web()))
    }

    pub(super) fn services(&self) -> Vec<DerivedService> {
        let services = self.desired().objects.into_iter().filter_map(|object| match object {
            Object::Service(service) => Some(service),
            _ => None,
        });
        services.collect()
    }

    pub(super) fn import(&self) -> Option<ServiceImport> {
        self.desired().objects.into_iter().find_map(|object| match object {
            Object::Import(import) => Some(import),
            _ => None,
        })
    }

    /// Those with that label set to that value; without a value any.
    pub(super) fn slices(&self, label: &str, value: Option<&str>) -> Vec<EndpointSlice> {
        let matches = |slice: &EndpointSlice| match (slice.meta.labels.get(label), value) {
            (Some(found), Some(value)) => **found == *value,
            (found, None) => found.is_some(),
            (None, Some(_)) => false,
        };
        let objects = self.desired().objects.into_iter().filter_map(|object| match object {
            Object::Slice(slice) => Some(slice),
            _ => None,
        });
        objects.filter(matches).collect()
    }

    /// `name->target: address address`, one line for each of kube-proxy's slices, sorted.
    pub(super) fn behind(&self) -> Vec<String> {
        lines(&self.slices(LABEL_SLICE_SERVICE, None))
    }

    /// The same of the import's slices of one cluster.
    pub(super) fn of(&self, cluster: &str) -> Vec<String> {
        lines(&self.slices(LABEL_SOURCE_CLUSTER, Some(cluster)))
    }
}

pub(super) fn lines(slices: &[EndpointSlice]) -> Vec<String> {
    let line = |slice: &EndpointSlice| {
        let ports: Vec<_> =
            slice.ports.iter().map(|port| format!("{}->{}", port.name, port.port)).collect();
        let endpoint = |e: &SliceEndpoint| {
            let address = e.addresses[0].to_string();
            if e.ready { address } else { format!("({address})") }
        };
        let endpoints: Vec<_> = slice.endpoints.iter().map(endpoint).collect();
        format!("{}: {}", ports.join(" "), endpoints.join(" "))
    };
    let mut lines: Vec<_> = slices.iter().map(line).collect();
    lines.sort();
    lines
}

/// RFC 7396.
fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge_patch(&mut target[key.as_str()], value);
        }
    }
}
