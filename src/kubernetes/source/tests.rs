//! The source against a fake API server; the names of the faults are those of the fault list.

use std::time::Duration;

use prometheus::Registry;
use serde_json::{Value, json};

use super::*;
use crate::catalog::{Assembly, Guidance, Policy, SourceEvent};
use crate::drain::{self, Trigger};
use crate::kubernetes::client::Access;
use crate::model::{ClusterId, Namespace, ServiceKey};
use crate::objects::{Kind as OurKind, McsVersion, ObjectId};
use crate::testing::PATIENCE;
use crate::testing::kube::{ApiServer, End, Kind, Rule, Scope, Verb};

const MCS: &str = "multicluster.x-k8s.io/v1beta1";

/// A running source, what it told, and the server it watches.
struct Rig {
    server: ApiServer,
    updates: mpsc::Receiver<SourceUpdate>,
    view: watch::Receiver<Arc<ClusterView>>,
    mirror: Arc<Mirror>,
    clients: Arc<Clients>,
    registry: Registry,
    log: Vec<SourceUpdate>,
    catalog: Assembly,
    _trigger: Trigger,
    _task: JoinSet<Result<(), Error>>,
}

fn config(server: &ApiServer) -> Config {
    Config {
        cluster: ClusterId::parse("a").unwrap(),
        namespace: Namespace::parse("portolan-system").unwrap(),
        gateway_service: "portolan".into(),
        secret: "portolan-ca".into(),
        access: Access::Url(server.url()),
    }
}

fn quick() -> Timing {
    let ms = Duration::from_millis;
    Timing {
        watch: Duration::from_secs(1),
        grace: ms(200),
        answer: Duration::from_secs(5),
        page: Duration::from_secs(10),
        absent: ms(100),
        pause: (ms(20), ms(100)),
        publish: ms(20),
    }
}

impl Rig {
    async fn start(server: ApiServer) -> Self {
        Self::with(server, quick()).await
    }

    async fn with(server: ApiServer, timing: Timing) -> Self {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let mut source = Source::open(config(&server), metrics).await.unwrap();
        source.timing = timing;
        let (mirror, clients) = (source.mirror(), source.clients());
        let (sender, updates) = mpsc::channel(8);
        let (view_sender, view) = watch::channel(Arc::default());
        let (trigger, drain) = drain::channel();
        let mut task = JoinSet::new();
        task.spawn(source.run(sender, view_sender, drain));
        Self {
            server,
            updates,
            view,
            mirror,
            clients,
            registry,
            log: Vec::new(),
            catalog: Assembly::new(),
            _trigger: trigger,
            _task: task,
        }
    }

    /// Waits until what was told is as wanted.
    async fn until(&mut self, what: &str, is: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is(self) {
                tokio::select! {
                    update = self.updates.recv() => self.take(update.expect("the source runs")),
                    changed = self.view.changed() => changed.expect("the source runs"),
                }
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("waited {PATIENCE:?} for {what}; told: {:#?}", self.log.iter().rev().take(5));
        }
    }

    fn take(&mut self, update: SourceUpdate) {
        if let SourceUpdate::Changed(events) = &update {
            self.catalog.apply(events.clone());
        }
        self.log.push(update);
    }

    async fn synced(&mut self) {
        self.until("the first sync", |rig| {
            rig.log.contains(&SourceUpdate::Synced) && rig.view.borrow().synced
        })
        .await;
    }

    fn exports(&self, name: &str) -> bool {
        self.catalog.export(&key(name)).is_some()
    }

    fn backends(&self, name: &str) -> usize {
        let export = self.catalog.export(&key(name));
        export.map_or(0, |local| local.backends.values().map(Vec::len).sum())
    }

    fn failed(&self, with: &str) -> bool {
        let failed = |update: &SourceUpdate| matches!(update, SourceUpdate::Failed { error, .. } if error.contains(with));
        self.log.iter().rev().take(1).any(failed)
    }

    fn recovered(&self) -> bool {
        self.log.last() == Some(&SourceUpdate::Recovered)
            || !matches!(self.complaint(), Some(SourceUpdate::Failed { .. }))
    }

    /// The last word on troubles.
    fn complaint(&self) -> Option<&SourceUpdate> {
        let says = |update: &&SourceUpdate| {
            matches!(update, SourceUpdate::Failed { .. } | SourceUpdate::Recovered)
        };
        self.log.iter().rev().find(says)
    }

    fn errors(&self, reason: &str) -> f64 {
        let families = self.registry.gather();
        let of = |metric: &&prometheus::proto::Metric| {
            metric.get_label().iter().any(|label| label.value() == reason)
        };
        let metrics = families.iter().flat_map(|family| family.get_metric());
        metrics.filter(of).map(|metric| metric.get_counter().get_value()).sum()
    }

    /// Every absence that was told.
    fn absences(&self) -> Vec<&SourceEvent> {
        let events = self.log.iter().filter_map(|update| match update {
            SourceUpdate::Changed(events) => Some(events),
            _ => None,
        });
        let gone = |event: &&SourceEvent| {
            matches!(
                event,
                SourceEvent::Service(_, None)
                    | SourceEvent::Slice(_, None)
                    | SourceEvent::Export(_, None)
            )
        };
        events.flatten().filter(gone).collect()
    }
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::parse(&format!("shop/{name}")).unwrap()
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "shop", "name": name },
        "spec": { "ports": [{ "name": "http", "port": 80 }] },
    })
}

fn export(name: &str) -> Value {
    json!({
        "apiVersion": MCS, "kind": "ServiceExport",
        "metadata": { "namespace": "shop", "name": name },
    })
}

fn slice(name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> =
        addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "namespace": "shop", "name": format!("{name}-x"),
            "labels": { "kubernetes.io/service-name": name },
        },
        "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": endpoints,
    })
}

async fn shop(names: &[&str]) -> ApiServer {
    let server = ApiServer::start().await;
    for name in names {
        server.put(service(name));
        server.put(slice(name, &["10.0.0.1"]));
        server.put(export(name));
    }
    server
}

#[tokio::test]
async fn everything_is_told_in_one_step_and_then_as_it_changes() {
    let mut rig = Rig::start(shop(&["web", "db"]).await).await;
    rig.synced().await;
    let first = rig.log.iter().position(|update| *update == SourceUpdate::Synced).unwrap();
    assert_eq!(first, 1, "one change, then synced: {:#?}", rig.log);
    assert_eq!((rig.backends("web"), rig.backends("db")), (1, 1));
    rig.server.put(slice("web", &["10.0.0.1", "10.0.0.2"]));
    rig.until("the second endpoint", |rig| rig.backends("web") == 2).await;
    rig.server.delete("serviceexports", "shop/db");
    rig.until("the end of the export", |rig| !rig.exports("db")).await;
    rig.server.delete("services", "shop/web");
    rig.until("the end of the Service", |rig| !rig.exports("web")).await;
    let view = rig.view.borrow().clone();
    assert!(view.exports.contains_key(&key("web")) && !view.exports.contains_key(&key("db")));
    assert_eq!(view.mcs, McsVersion::V1beta1);
    assert_eq!(view.families.len(), 2);
}

#[tokio::test]
async fn the_view_shows_replicas_addresses_peers_and_the_secret() {
    let server = shop(&["web"]).await;
    server.put(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "portolan-system", "name": "portolan" },
        "spec": { "type": "LoadBalancer", "ports": [{ "name": "gateway", "port": 8443 }] },
        "status": { "loadBalancer": { "ingress": [
            { "ip": "192.0.2.1" }, { "ip": "2001:db8::1" }, { "hostname": "gw.example.org" },
        ] } },
    }));
    server.put(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "namespace": "portolan-system", "name": "portolan-x",
            "labels": { "kubernetes.io/service-name": "portolan" },
        },
        "ports": [{ "name": "gateway", "port": 8443 }],
        "endpoints": [{
            "addresses": ["10.1.0.1"], "nodeName": "n1", "zone": "z1",
            "conditions": { "ready": true },
            "targetRef": { "kind": "Pod", "name": "portolan-0", "uid": "u0" },
        }],
    }));
    server.put(json!({
        "apiVersion": "portolan.dev/v1alpha1", "kind": "Peer", "metadata": { "name": "b" },
        "spec": {
            "addresses": ["gw.b.example.org"], "networks": ["10.2.0.0/16"], "bundle": "PEM",
            "import": { "namespaces": ["shop"] }, "trustPolicy": false,
        },
    }));
    server.put(json!({
        "apiVersion": "about.k8s.io/v1beta1", "kind": "ClusterProperty",
        "metadata": { "name": "cluster.clusterset.k8s.io" }, "spec": { "value": "a" },
    }));
    server.put(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "namespace": "portolan-system", "name": "portolan-ca" },
        "data": { "tls.crt": "Q0VSVA==" },
    }));
    server.put(json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": "dev", "annotations": { "portolan.dev/policy": "local", "x": "y" } },
    }));
    let mut rig = Rig::start(server).await;
    rig.synced().await;
    rig.until("the optional kinds", |rig| {
        let view = rig.view.borrow();
        view.secret.is_some() && view.cluster_id.is_some()
    })
    .await;
    let view = rig.view.borrow().clone();
    let advertised: Vec<_> = view.advertise.iter().map(ToString::to_string).collect();
    assert_eq!(advertised, ["192.0.2.1:8443", "[2001:db8::1]:8443", "gw.example.org:8443"]);
    assert_eq!(view.gateways.len(), 1);
    let replica = &view.gateways[0];
    assert_eq!((&*replica.name, &*replica.uid, replica.ready), ("portolan-0", "u0", true));
    let peer = &view.peers[&ClusterId::parse("b").unwrap()];
    assert_eq!(peer.addresses[0].to_string(), "gw.b.example.org:8443");
    assert!(!peer.trust_policy && peer.dial_out);
    assert_eq!(view.cluster_id.as_deref(), Some("a"));
    let secret = view.secret.as_ref().unwrap();
    assert_eq!(&secret.0["tls.crt"][..], b"CERT");
    assert!(!format!("{view:?}").contains("CERT"));
    let said = &view.namespaces[&Namespace::parse("dev").unwrap()];
    assert_eq!(*said, Guidance { policy: Some(Policy::Local), ..Guidance::default() });
    rig.server.terminate("dev");
    let dev = Namespace::parse("dev").unwrap();
    rig.until("the end of the namespace", |rig| !rig.view.borrow().namespaces.contains_key(&dev))
        .await;
}

#[tokio::test]
async fn what_is_ours_goes_to_the_mirror_and_never_to_the_catalog() {
    let server = shop(&["web"]).await;
    let derived = crate::objects::derived_name(&key("web"));
    let ours = |manager: &str| json!({ manager: "portolan.dev", "portolan.dev/service": "web" });
    server.put(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "namespace": "shop", "name": derived, "labels": ours("app.kubernetes.io/managed-by"),
            "annotations": { "portolan.dev/ports": "tcp-80=20001" },
        },
        "spec": { "ports": [{ "name": "tcp-80", "port": 80 }] },
    }));
    let mut own_slice = slice(&derived, &["10.0.0.9"]);
    own_slice["metadata"]["labels"] = ours("endpointslice.kubernetes.io/managed-by");
    own_slice["metadata"]["labels"]["kubernetes.io/service-name"] = derived.as_str().into();
    server.put(own_slice);
    server.put(json!({
        "apiVersion": MCS, "kind": "ServiceImport",
        "metadata": {
            "namespace": "shop", "name": "web", "labels": ours("app.kubernetes.io/managed-by"),
        },
        "spec": { "type": "ClusterSetIP", "ports": [], "ips": ["10.96.0.7"] },
    }));
    server.put(json!({
        "apiVersion": MCS, "kind": "ServiceImport",
        "metadata": { "namespace": "shop", "name": "db" },
        "spec": { "type": "ClusterSetIP", "ports": [] },
    }));
    let mut rig = Rig::start(server).await;
    rig.synced().await;
    assert!(rig.mirror.synced());
    assert_eq!(rig.mirror.of(&key("web")).len(), 3);
    let view = rig.view.borrow().clone();
    let observed = view.observed(&key("web"), None);
    let service = observed.service.unwrap();
    assert_eq!((service.ips.len(), service.ports.len(), service.foreign), (1, 1, false));
    assert!(observed.namespace_exists && !observed.import.unwrap().foreign);
    assert!(view.imports[&key("db")].foreign);
    let told = format!("{:?}", rig.log);
    assert!(!told.contains("portolan-"), "{told}");
    // The label is taken away: it is somebody's own now, and in the way.
    rig.server.change("services", &format!("shop/{derived}"), |service| {
        service["metadata"]["labels"] = json!({});
    });
    rig.until("the foreign Service", |rig| {
        rig.view.borrow().service(&key("web")).is_some_and(|service| service.foreign)
    })
    .await;
    let id =
        ObjectId { kind: OurKind::Service, namespace: key("web").namespace, name: derived.into() };
    assert_eq!(rig.mirror.get(&id), None);
}

#[tokio::test]
async fn k02_a_410_on_a_watch_lists_anew_without_an_empty_moment() {
    let mut rig = Rig::start(shop(&["web", "db", "api"]).await).await;
    rig.synced().await;
    rig.server.delete("serviceexports", "shop/db");
    rig.until("the end of the export", |rig| !rig.exports("db")).await;
    let mark = rig.server.mark();
    for resource in ["services", "endpointslices", "serviceexports"] {
        rig.server.end_watches(resource, End::Expired);
    }
    rig.server
        .await_request_since(mark, |r| r.verb == Verb::List && r.resource == "services")
        .await;
    rig.server.put(service("late"));
    rig.server.put(export("late"));
    rig.until("what came later", |rig| rig.exports("late")).await;
    assert_eq!(rig.absences().len(), 1, "only the export that was deleted");
    assert!(rig.errors("gone") >= 3.0);
    assert!(rig.recovered());
}

#[tokio::test]
async fn k02_a_410_in_mid_list_starts_over_without_an_empty_moment() {
    let server = shop(&["web"]).await;
    for index in 0..700 {
        server.put(export(&format!("e{index}")));
    }
    let mut rig = Rig::start(server).await;
    rig.synced().await;
    assert_eq!(rig.view.borrow().exports.len(), 701);
    // The next list is cut between its two pages, each of which waits until it may go on.
    let stall = || Rule::stall().verb(Verb::List).resource("serviceexports");
    let first_page = rig.server.fail(stall());
    let mark = rig.server.mark();
    rig.server.end_watches("serviceexports", End::Expired);
    let is_list =
        |r: &crate::testing::kube::Request| r.resource == "serviceexports" && r.verb == Verb::List;
    let second = |r: &crate::testing::kube::Request| is_list(r) && r.query.contains_key("continue");
    rig.server.await_request_since(mark, is_list).await;
    let second_page = rig.server.fail(stall());
    rig.server.take_back(first_page);
    rig.server.await_request_since(mark, second).await;
    rig.server.compact();
    rig.server.take_back(second_page);
    rig.server.await_request_since(mark, |r| second(r) && r.code == 410).await;
    rig.server.delete("serviceexports", "shop/e7");
    rig.until("the end of one export", |rig| {
        !rig.view.borrow().exports.contains_key(&key("e7")) && !rig.absences().is_empty()
    })
    .await;
    assert_eq!(rig.absences().len(), 1);
    assert_eq!(rig.view.borrow().exports.len(), 700);
}

#[tokio::test]
async fn k03_a_half_open_watch_is_noticed_and_what_is_known_stays() {
    let mut rig = Rig::start(shop(&["web"]).await).await;
    rig.synced().await;
    rig.server.black_hole("services");
    rig.server.put(service("late"));
    rig.server.put(export("late"));
    rig.until("the complaint", |rig| rig.failed("silent")).await;
    assert!(rig.errors("timeout") >= 1.0);
    assert!(rig.exports("web") && !rig.exports("late"));
    rig.server.heal();
    rig.until("what came meanwhile", |rig| rig.exports("late") && rig.recovered()).await;
    assert_eq!(rig.absences(), Vec::<&SourceEvent>::new());
}

#[tokio::test]
async fn k06_a_storm_of_changes_is_coalesced_and_its_end_is_right() {
    let mut rig = Rig::start(shop(&["web"]).await).await;
    rig.synced().await;
    let before = rig.log.len();
    let mut every = tokio::time::interval(Duration::from_millis(1));
    let began = clock::now();
    for round in 0..1_000_u32 {
        every.tick().await;
        let [_, _, high, low] = round.to_be_bytes();
        rig.server.put(slice("web", &[&format!("10.9.{high}.{low}")]));
        while let Ok(update) = rig.updates.try_recv() {
            rig.take(update);
        }
    }
    let last = |rig: &Rig| {
        let local = rig.catalog.export(&key("web")).unwrap();
        let backends = local.backends.values().flatten();
        backends.into_iter().any(|backend| backend.address.ip().to_string() == "10.9.3.231")
    };
    let ended = clock::now();
    rig.until("the last state", last).await;
    assert!(clock::now() - ended <= Duration::from_millis(500));
    let most = (clock::now() - began).as_millis() / 20 + 2;
    let told = rig.log.len() - before;
    assert!((told as u128) <= most, "{told} updates, at most {most}");
}

#[tokio::test]
async fn k07_a_namespace_on_its_way_out_exports_nothing() {
    let mut rig = Rig::start(shop(&["web", "db"]).await).await;
    rig.synced().await;
    assert!(rig.exports("web") && rig.exports("db"));
    rig.server.terminate("shop");
    rig.until("the end of its exports", |rig| !rig.exports("web") && !rig.exports("db")).await;
    assert!(rig.server.has("serviceexports", "shop/web"), "before they themselves are gone");
}

#[tokio::test]
async fn k12_only_v1alpha1_with_unknown_fields_and_values_is_served() {
    let server = ApiServer::start().await;
    for (plural, kind) in [("serviceexports", "ServiceExport"), ("serviceimports", "ServiceImport")]
    {
        let versions = &["v1alpha1"];
        server.install(Kind::custom(
            "multicluster.x-k8s.io",
            versions,
            plural,
            kind,
            Scope::Namespaced,
        ));
    }
    let mut strange = service("web");
    strange["spec"]["type"] = "Quantum".into();
    strange["spec"]["clusterIP"] = "10.96.0.9".into();
    strange["spec"]["sessionAffinity"] = "Cookie".into();
    strange["spec"]["ipFamilies"] = json!(["IPv4", "IPv7"]);
    strange["spec"]["ports"] =
        json!([{ "name": "http", "port": 80 }, { "name": "q", "port": 81, "protocol": "QUIC" }]);
    strange["spec"]["novelty"] = json!({ "deep": [1, 2] });
    server.raw(strange);
    let mut strange = slice("web", &["10.0.0.1"]);
    strange["endpoints"][0]["hints"] = json!({ "forNodes": [{ "name": "n" }] });
    strange["endpoints"][0]["conditions"] = json!({ "glowing": true });
    server.raw(strange);
    let mut of_names = slice("web", &["db.example.org"]);
    of_names["metadata"]["name"] = "names".into();
    of_names["addressType"] = "FQDN".into();
    server.raw(of_names);
    let mut strange = export("web");
    strange["apiVersion"] = "multicluster.x-k8s.io/v1alpha1".into();
    strange["spec"] = json!({ "novelty": 1 });
    strange["status"] = json!({ "conditions": [
        { "type": "Valid", "status": "Perhaps" },
        { "type": "Ready", "status": "True", "reason": "Ready", "message": "" },
    ] });
    server.raw(strange);
    let mut rig = Rig::start(server).await;
    rig.synced().await;
    assert_eq!(rig.backends("web"), 1);
    assert_eq!(rig.complaint(), None);
    let view = rig.view.borrow().clone();
    assert_eq!(view.mcs, McsVersion::V1alpha1);
    assert_eq!(view.exports[&key("web")].conditions.len(), 1);
    assert_eq!(rig.clients.served(Resource::Export), Some("v1alpha1"));
}

#[tokio::test]
async fn k12_a_version_that_was_missing_for_a_moment_is_taken_again() {
    let server = shop(&["web"]).await;
    server.fail(Rule::refuse(404).resource("serviceimports").times(1));
    let mut rig = Rig::start(server).await;
    let watched = |version: &'static str| {
        move |of: &crate::testing::kube::Request| {
            of.verb == Verb::Watch && of.resource == "serviceimports" && of.path.contains(version)
        }
    };
    rig.server.await_request(watched("/v1alpha1/")).await;
    rig.server.await_request(watched("/v1beta1/")).await;
    rig.until("the better version", |rig| {
        rig.view.borrow().mcs == McsVersion::V1beta1
            && rig.clients.served(Resource::Import) == Some("v1beta1")
    })
    .await;
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_told_and_looked_for_again() {
    let server = shop(&["web"]).await;
    server.uninstall("peers");
    server.uninstall("clusterproperties");
    let mut rig = Rig::start(server).await;
    rig.synced().await;
    rig.until("the complaint", |rig| rig.failed("peers.portolan.dev is not installed")).await;
    assert!(!rig.failed("clusterproperties"), "that one is optional");
    rig.server.restore("peers");
    rig.until("that it is over", Rig::recovered).await;
    rig.server.put(json!({
        "apiVersion": "portolan.dev/v1alpha1", "kind": "Peer", "metadata": { "name": "b" },
        "spec": { "addresses": ["192.0.2.9"] },
    }));
    rig.until("the peer", |rig| rig.view.borrow().peers.len() == 1).await;
}

#[tokio::test]
async fn k13_a_revoked_right_keeps_the_state_says_so_and_resumes() {
    let mut rig = Rig::start(shop(&["web"]).await).await;
    rig.synced().await;
    let revoked = rig.server.fail(Rule::refuse(403).reads().resource("endpointslices"));
    rig.server.end_watches("endpointslices", End::Clean);
    rig.until("the complaint", |rig| rig.failed("grant our service account")).await;
    assert!(rig.failed("endpointslices.discovery.k8s.io") && rig.errors("forbidden") >= 1.0);
    rig.server.put(slice("web", &["10.0.0.1", "10.0.0.2"]));
    assert_eq!(rig.backends("web"), 1);
    rig.server.take_back(revoked);
    rig.until("the endpoint", |rig| rig.backends("web") == 2 && rig.recovered()).await;
    assert_eq!(rig.absences(), Vec::<&SourceEvent>::new());
}

#[tokio::test]
async fn k14_a_refused_token_keeps_the_state_and_resumes() {
    let mut rig = Rig::start(shop(&["web"]).await).await;
    rig.synced().await;
    let expired = rig.server.fail(Rule::refuse(401));
    rig.server.end_watches("services", End::Torn);
    rig.until("the complaint", |rig| rig.failed("token")).await;
    assert!(rig.errors("unauthorized") >= 1.0 && rig.exports("web"));
    rig.server.put(service("late"));
    rig.server.put(export("late"));
    rig.server.take_back(expired);
    rig.until("what came meanwhile", |rig| rig.exports("late") && rig.recovered()).await;
}

#[tokio::test]
async fn a_pause_that_the_server_asks_for_is_kept() {
    let server = shop(&["web"]).await;
    let busy = Rule::refuse(429).verb(Verb::List).resource("services").times(1).retry_after(1);
    server.fail(busy);
    let mut rig = Rig::start(server).await;
    rig.synced().await;
    let lists: Vec<_> = rig.server.requests();
    let lists: Vec<_> =
        lists.iter().filter(|r| r.verb == Verb::List && r.resource == "services").collect();
    assert!(lists.len() >= 2 && lists[1].at - lists[0].at >= Duration::from_secs(1));
    assert!(rig.errors("throttled") >= 1.0);
}

#[tokio::test]
async fn k17_hostile_objects_are_skipped_and_the_last_good_state_stays() {
    let server = shop(&["web", "db"]).await;
    let addresses: Vec<String> =
        (0..100_000_u32).map(|n| std::net::Ipv4Addr::from(n).to_string()).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut huge = slice("web", &addresses);
    huge["metadata"]["name"] = "huge".into();
    server.raw(huge);
    let mut chatty = export("chatty");
    chatty["metadata"]["annotations"] = json!({ "note": "x".repeat(1 << 20) });
    server.raw(chatty);
    server.raw(json!({
        "apiVersion": MCS, "kind": "ServiceExport",
        "metadata": { "namespace": "shop", "name": "../../etc/passwd\u{1b}[2J" },
    }));
    server.raw(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "shop", "name": "odd", "labels": [1, 2] },
        "spec": "none",
    }));
    let mut rig = Rig::start(server).await;
    rig.synced().await;
    assert_eq!((rig.backends("web"), rig.backends("db")), (1, 1));
    rig.until("the complaint", |rig| rig.failed("more than")).await;
    let refused = rig.view.borrow().refused.clone();
    let names: Vec<_> = refused.iter().map(|refused| (refused.kind, &*refused.name)).collect();
    assert_eq!(names.len(), 4, "{refused:#?}");
    assert!(names.contains(&("EndpointSlice", "huge")) && names.contains(&("Service", "odd")));
    assert!(rig.errors("object") >= 4.0);
    // A good object that turns bad keeps what it was, one that turns good again counts.
    let mut bad = service("db");
    bad["spec"]["ports"][0]["port"] = 70_000.into();
    rig.server.raw(bad);
    rig.until("the refusal", |rig| rig.view.borrow().refused.len() == 5).await;
    assert!(rig.exports("db"));
    rig.server.put(service("db"));
    for (resource, name) in [
        ("endpointslices", "huge"),
        ("serviceexports", "chatty"),
        ("serviceexports", "../../etc/passwd\u{1b}[2J"),
        ("services", "odd"),
    ] {
        assert!(rig.server.delete(resource, &format!("shop/{name}")), "{name}");
    }
    rig.until("that all is well", |rig| rig.log.last() == Some(&SourceUpdate::Recovered)).await;
    assert!(rig.exports("db") && rig.view.borrow().refused.is_empty());
}

#[tokio::test]
async fn a_garbled_stream_is_listed_anew() {
    let mut rig = Rig::start(shop(&["web"]).await).await;
    rig.synced().await;
    let mark = rig.server.mark();
    rig.server.garble("services", "{\"type\": \"ADDED\", \"object\": {");
    rig.server
        .await_request_since(mark, |r| r.verb == Verb::List && r.resource == "services")
        .await;
    rig.server.put(service("late"));
    rig.server.put(export("late"));
    rig.until("what came later", |rig| rig.exports("late") && rig.recovered()).await;
    assert!(rig.errors("answer") >= 1.0);
}

#[tokio::test]
async fn an_api_server_that_comes_back_is_followed_from_where_it_was() {
    let mut rig = Rig::start(shop(&["web"]).await).await;
    rig.synced().await;
    rig.server.stop().await;
    rig.until("the complaint", |rig| rig.failed("cannot be reached")).await;
    rig.server.put(service("late"));
    rig.server.put(export("late"));
    rig.server.delete("services", "shop/web");
    assert!(rig.exports("web"));
    rig.server.resume().await;
    rig.until("what happened meanwhile", |rig| {
        rig.exports("late") && !rig.exports("web") && rig.recovered()
    })
    .await;
}

/// Nobody listens at the address, so that every attempt fails at once, and only pauses count.
#[tokio::test(start_paused = true)]
async fn k01_attempts_are_bounded_while_the_server_is_away() {
    let unused = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", unused.local_addr().unwrap());
    drop(unused);
    let clients = Arc::new(Clients::open(&Access::Url(url)).await.unwrap());
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let decoder = Arc::new(Decoder {
        cluster: ClusterId::parse("a").unwrap(),
        namespace: Namespace::parse("n").unwrap(),
        gateway_service: "portolan".into(),
        secret: "s".into(),
    });
    let (sender, mut heard) = mpsc::channel(1);
    let timing = (Timing::default(), metrics);
    let watcher = Watcher::new(Resource::Service, None, clients, decoder, timing, sender);
    let mut task = JoinSet::new();
    task.spawn(watcher.run());
    let began = clock::now();
    let mut attempts = Vec::new();
    while clock::now() - began < Duration::from_secs(3_600) {
        let Some(super::super::watch::Heard::Down { .. }) = heard.recv().await else {
            panic!("nothing but failures");
        };
        attempts.push(clock::now() - began);
    }
    let minute = Duration::from_secs(60);
    let first = attempts.iter().filter(|at| **at < minute).count();
    assert!((3..=8).contains(&first), "{first} attempts in the first minute");
    for at in attempts.iter().filter(|at| **at >= minute) {
        let within = attempts.iter().filter(|other| **other >= *at && **other < *at + minute);
        let within = within.count();
        assert!(within <= 4, "{within} attempts in the minute after {at:?}");
    }
}
