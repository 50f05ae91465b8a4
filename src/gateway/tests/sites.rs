//! Clusters of one gateway each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::catalog::{
    Backend, CallerRules, ClusterRules, Export, ExportedPort, Guidance, LocalCatalog, LocalExport,
    ServiceType, SessionAffinity, Settings, Share, Steer,
};
use crate::clock;
use crate::drain::{self, Trigger};
use crate::gateway::{Config, Context, Gateway, Metrics};
use crate::health::{Fact, Pace, PeerState, PeerView, ReplicaView, Target};
use crate::model::{ClusterId, HostLabel, PortKey, PortSpec, Protocol, ReplicaId, ServiceKey};
use crate::routes::{
    Candidate, PeerStatus, PortRoute, Reason, Route, RouteTable, SharedTable, TableWriter,
};
use crate::testing::trust;
use crate::tls::{Dialer, Handlers, Limits, Listener, Trust};

/// The port of every service here.
pub(super) const PORT: u16 = 8080;
const KEY: &str = "shop/web";

static NEXT_VIP: AtomicU32 = AtomicU32::new(1);

pub(in crate::gateway) fn key() -> ServiceKey {
    ServiceKey::parse(KEY).unwrap()
}

fn spec() -> PortSpec {
    PortSpec {
        name: "".into(),
        protocol: Protocol::Tcp,
        port: crate::model::PortNumber::new(PORT.into()).unwrap(),
        app_protocol: None,
    }
}

pub(in crate::gateway) fn port_key() -> PortKey {
    spec().key()
}

/// Trust folders of some clusters.
pub(super) struct Mesh {
    pub(super) dir: TempDir,
}

impl Mesh {
    pub(super) fn new(clusters: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        trust::mesh(dir.path(), clusters);
        Self { dir }
    }

    pub(super) fn trust(&self, name: &str) -> Trust {
        trust::open(&self.dir.path().join(name), name).0
    }

    pub(super) fn folder(&self, name: &str) -> impl AsRef<Path> {
        self.dir.path().join(name)
    }
}

/// The export of the service with these backends.
pub(in crate::gateway) fn local_export(backends: &[SocketAddr]) -> LocalExport {
    let backends = backends.iter().map(|address| Backend { address: *address, hostname: None });
    export_of(backends.collect())
}

fn export_of(mut backends: Vec<Backend>) -> LocalExport {
    backends.sort();
    let ready = u32::try_from(backends.len()).unwrap();
    let export = Export {
        key: key(),
        created_ms: 0,
        service_type: ServiceType::ClusterSetIp,
        ports: vec![ExportedPort { spec: spec(), ready }],
        session_affinity: SessionAffinity::None,
        ip_families: vec![],
        internal_traffic_policy: None,
        traffic_distribution: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        settings: Settings::default(),
        endpoints: vec![],
        hosts: vec![],
    };
    LocalExport {
        export: Arc::new(export),
        clusters: ClusterRules::Any,
        allow: CallerRules::default(),
        most_streams: None,
        steer: Steer::default(),
        direct_share: Share::FULL,
        guidance: Guidance::default(),
        backends: [(port_key(), backends)].into(),
        slices: Vec::new(),
        problems: vec![],
    }
}

/// One cluster with one gateway.
pub(super) struct Site {
    pub(super) name: ClusterId,
    pub(super) replica: ReplicaId,
    pub(super) gateway: Gateway,
    /// The gateway port.
    pub(super) address: SocketAddr,
    /// Where its clients connect.
    pub(super) vip: SocketAddr,
    pub(super) facts: mpsc::Receiver<Fact>,
    pub(super) trust: Trust,
    pub(super) trigger: Option<Trigger>,
    pub(super) tasks: JoinSet<()>,
    pub(super) table: RouteTable,
    pub(super) registry: prometheus::Registry,
    pub(super) gateways: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    writer: TableWriter,
    changed: watch::Sender<u64>,
}

/// Which loops run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Loops {
    Probing,
    Quiet,
}

impl Site {
    pub(super) fn start(mesh: &Mesh, name: &str, loops: Loops) -> Self {
        Self::with_config(mesh, name, loops, Config::default())
    }

    pub(super) fn with_config(mesh: &Mesh, name: &str, loops: Loops, config: Config) -> Self {
        Self::open(mesh, name, loops, config, Ipv4Addr::LOCALHOST.into())
    }

    /// A gateway port at this address, no probes.
    pub(super) fn start_at(mesh: &Mesh, name: &str, address: IpAddr) -> Self {
        Self::open(mesh, name, Loops::Quiet, Config::default(), address)
    }

    fn open(mesh: &Mesh, name: &str, loops: Loops, config: Config, address: IpAddr) -> Self {
        let trust = mesh.trust(name);
        let name = ClusterId::parse(name).unwrap();
        let replica = ReplicaId::from_u64(rand::random());
        let table = RouteTable {
            revision: 0,
            built: clock::now(),
            cluster: name.clone(),
            locality: crate::model::Locality::default(),
            services: std::collections::HashMap::new(),
            vips: BTreeMap::new(),
            drains: Arc::default(),
            ports: Arc::default(),
            peers: BTreeMap::new(),
            local: Arc::new(LocalCatalog::default()),
        };
        let (writer, routes) = SharedTable::new(table.clone());
        let (changed, changes) = watch::channel(0);
        let (gateways, gateways_known) = watch::channel(Arc::default());
        let (facts_in, facts) = mpsc::channel(4096);
        let registry = prometheus::Registry::new();
        let gateway = Gateway::new(
            config,
            Context {
                cluster: name.clone(),
                replica,
                routes,
                changed: changes,
                dialer: Dialer::new(trust.clone()),
                trust: trust.clone(),
                listeners: Vec::new(),
                gateways: gateways_known,
                facts: facts_in,
                metrics: Metrics::register(&registry).unwrap(),
            },
        );
        let limits = Limits { per_source: 1024, ..Limits::default() };
        let any = SocketAddr::from((address, 0));
        let listener = Listener::bind(any, trust.clone(), limits).unwrap();
        let address = listener.local_addr();
        let (trigger, drain) = drain::channel();
        let (control, _) = mpsc::channel(1);
        let (data, accepted) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        let handlers = Handlers { control, data, sibling: None };
        let watch = drain.clone();
        tasks.spawn(async move { listener.run(handlers, watch).await.unwrap() });
        tasks.spawn(gateway.clone().run_inbound(accepted, drain.clone()));
        tasks.spawn(gateway.clone().run_outbound(drain.clone()));
        tasks.spawn(gateway.clone().run_pool(drain.clone()));
        tasks.spawn(gateway.clone().run_udp(drain.clone()));
        tasks.spawn(gateway.clone().run_lanes(drain.clone()));
        if loops == Loops::Probing {
            tasks.spawn(gateway.clone().run_probes(drain));
        }
        let number = NEXT_VIP.fetch_add(1, Ordering::Relaxed);
        let low = u8::try_from(number % 250 + 1).unwrap();
        let mid = u8::try_from(std::process::id() % 250).unwrap();
        let vip =
            SocketAddr::from(([127, 100 + u8::try_from(number / 250).unwrap(), mid, low], PORT));
        let trigger = Some(trigger);
        Self {
            name,
            replica,
            gateway,
            address,
            vip,
            facts,
            trust,
            trigger,
            tasks,
            table,
            registry,
            gateways,
            writer,
            changed,
        }
    }

    pub(super) fn publish(&mut self) {
        self.table.revision += 1;
        self.writer.publish(Arc::new(self.table.clone()));
        self.changed.send_replace(self.table.revision);
    }

    /// Exports the service with these backends, to whom the rules say.
    pub(super) fn export(&mut self, backends: &[SocketAddr], allow: CallerRules) {
        self.export_with(backends, |local| local.allow = allow);
    }

    /// The same of pods with hostnames, to everybody.
    pub(super) fn export_pods(&mut self, pods: &[(&str, SocketAddr)]) {
        let backend = |(name, address): &(&str, SocketAddr)| Backend {
            address: *address,
            hostname: Some(HostLabel::parse(name).unwrap()),
        };
        self.export_backends(pods.iter().map(backend).collect(), |_| {});
    }

    /// Exports the service with these backends and what else is to be said.
    pub(super) fn export_with(
        &mut self,
        backends: &[SocketAddr],
        change: impl FnOnce(&mut LocalExport),
    ) {
        let backends = backends.iter().map(|address| Backend { address: *address, hostname: None });
        self.export_backends(backends.collect(), change);
    }

    fn export_backends(&mut self, backends: Vec<Backend>, change: impl FnOnce(&mut LocalExport)) {
        let mut local = export_of(backends);
        change(&mut local);
        self.table.local = Arc::new(LocalCatalog {
            revision: 1,
            synced: true,
            exports: [(key(), Arc::new(local))].into(),
            ..LocalCatalog::default()
        });
        self.publish();
    }

    /// Knows a peer at an address, and its replica where given.
    pub(super) fn know(&mut self, peer: &str, address: SocketAddr, replica: Option<ReplicaId>) {
        self.know_all(peer, &[(address, replica)]);
    }

    /// Knows a peer at several addresses.
    pub(super) fn know_all(&mut self, peer: &str, at: &[(SocketAddr, Option<ReplicaId>)]) {
        let peer = ClusterId::parse(peer).unwrap();
        let replicas = at
            .iter()
            .filter_map(|(address, replica)| Some((*address, (*replica)?)))
            .map(|(address, replica)| ReplicaView {
                target: Target { peer: peer.clone(), address, replica },
                state: PeerState::Up,
                since: clock::now(),
                rtt: Some(Duration::from_millis(1)),
                pace: Pace::Steady,
                ask_streams: false,
                reset_unheard_since: None,
                slow_start: 1.0,
            })
            .collect();
        let health = PeerView {
            state: PeerState::Up,
            since: clock::now(),
            rtt: None,
            ranking_rtt: None,
            loss_percent: 0.0,
            replicas,
        };
        let status = PeerStatus {
            health,
            sessions: 1,
            revision: 1,
            last_error: None,
            addresses: at.iter().map(|(address, _)| *address).collect(),
        };
        self.table.peers.insert(peer, status);
        self.publish();
    }

    /// Imports the service from these clusters, best first; waits until it listens.
    pub(super) async fn import(&mut self, clusters: &[&str]) {
        self.set_candidates(clusters);
        let vip = self.vip;
        let metrics = &self.gateway.shared.metrics.listeners;
        super::until(|| metrics.get() > 0.0).await;
        let _ = vip;
    }

    pub(super) fn set_candidates(&mut self, clusters: &[&str]) {
        let candidates = clusters
            .iter()
            .map(|cluster| {
                let local = *cluster == self.name.as_str();
                Candidate {
                    cluster: ClusterId::parse(cluster).unwrap(),
                    local,
                    state: PeerState::Up,
                    rtt: Some(Duration::from_millis(1)),
                    weight: 100,
                    share: 1.0,
                    usable: true,
                    reason: if local { Reason::Local } else { Reason::Nearest },
                    since: clock::now(),
                }
            })
            .collect();
        let mut route = crate::testing::table::route(KEY, &[&format!(":TCP:{PORT}")]);
        route.vips = vec![self.vip.ip()];
        route.ports = vec![PortRoute { spec: spec(), candidates, by_weight: false }];
        self.put(route);
    }

    /// Changes the route to the service.
    pub(super) fn change_route(&mut self, change: impl FnOnce(&mut Route)) {
        let mut route = Route::clone(&self.table.services[&key()]);
        change(&mut route);
        self.put(route);
    }

    /// Waits until a spare to that peer is at hand.
    pub(super) async fn stocked(&self, peer: &str) {
        let peer = ClusterId::parse(peer).unwrap();
        super::until(|| self.gateway.shared.pool.stock(&peer).idle > 0).await;
    }

    fn put(&mut self, route: Route) {
        for vip in &route.vips {
            self.table.vips.insert(*vip, route.key.clone().into());
        }
        self.table.services.insert(route.key.clone(), Arc::new(route));
        self.publish();
    }

    /// A client's connection.
    pub(super) async fn client(&self) -> tokio::net::TcpStream {
        super::soon(tokio::net::TcpStream::connect(self.vip)).await.unwrap()
    }

    /// The next fact that matches; others are passed over.
    pub(super) async fn fact(&mut self, mut matches: impl FnMut(&Fact) -> bool) -> Fact {
        super::soon(async {
            loop {
                let fact = self.facts.recv().await.expect("facts go on");
                if matches(&fact) {
                    return fact;
                }
            }
        })
        .await
    }

    /// What a counter of streams says.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    pub(super) fn ended(&self, direction: &str, peer: &str, result: &str) -> u32 {
        let labels = [("direction", direction), ("peer", peer), ("result", result)];
        let families = self.registry.gather();
        let streams = families.iter().find(|family| family.name() == "portolan_streams_total");
        let metrics = streams.map(|family| family.get_metric()).unwrap_or_default();
        metrics
            .iter()
            .filter(|metric| {
                labels.iter().all(|(name, value)| {
                    metric.get_label().iter().any(|l| l.name() == *name && l.value() == *value)
                })
            })
            .map(|metric| metric.get_counter().get_value())
            .sum::<f64>() as u32
    }
}

/// paris imports from oregon, which has one backend; the listener is that backend.
pub(super) struct Pair {
    pub(super) paris: Site,
    pub(super) oregon: Site,
    pub(super) backend: tokio::net::TcpListener,
    pub(super) mesh: Mesh,
}

pub(super) async fn pair() -> Pair {
    pair_with(Config::default()).await
}

pub(super) async fn pair_with(config: Config) -> Pair {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let mut paris = Site::with_config(&mesh, "paris", Loops::Quiet, config);
    let mut oregon = Site::with_config(&mesh, "oregon", Loops::Quiet, config);
    let (backend, address) = super::backend().await;
    oregon.export(&[address], CallerRules::default());
    paris.know("oregon", oregon.address, Some(oregon.replica));
    paris.import(&["oregon"]).await;
    Pair { paris, oregon, backend, mesh }
}
