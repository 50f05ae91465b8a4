//! Whole peerings over real loopback TLS.

mod catalogs;
mod claims;
mod dialling;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::fixtures::{cluster, open_catalog};
use super::link::{Reader, Writer};
use super::{Config, DownReplicas, Event, Lookup, Metrics, PeerConfig, Peering, Presence};
use crate::catalog::{LocalCatalog, NamespaceRules, PeerCatalog};
use crate::drain::{self, Trigger};
use crate::model::{ClusterId, Locality, PeerAddress, ReplicaId};
use crate::testing::trust;
use crate::tls::{Accepted, Dialer, Handlers, Limits, Listener, Stream, Trust};
use crate::wire::control::{Body, Hello};

/// How long an event may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// One gateway with its peering, in this process.
struct Agent {
    name: String,
    replica: u64,
    address: SocketAddr,
    local: watch::Sender<Arc<LocalCatalog>>,
    peers: watch::Sender<Arc<Vec<PeerConfig>>>,
    down: watch::Sender<Arc<DownReplicas>>,
    presence: watch::Sender<Presence>,
    events: mpsc::Receiver<Event>,
    trigger: Trigger,
    registry: Registry,
    tasks: JoinSet<()>,
}

impl Agent {
    fn start(dir: &Path, name: &str, replica: u64) -> Self {
        Self::start_with(dir, name, replica, Lookup::system(), Vec::new())
    }

    fn start_with(
        dir: &Path,
        name: &str,
        replica: u64,
        lookup: Lookup,
        advertise: Vec<PeerAddress>,
    ) -> Self {
        let (trust, _) = trust::open(&dir.join(name), name);
        let here = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(here, trust.clone(), Limits::default()).unwrap();
        let address = listener.local_addr();
        let (local, local_seen) = watch::channel(Arc::new(open_catalog(1, Vec::new())));
        let (peers, peers_seen) = watch::channel(Arc::new(Vec::new()));
        let (down, down_seen) = watch::channel(Arc::default());
        let first = Presence { addresses: advertise, ..Presence::default() };
        let (presence, presence_seen) = watch::channel(first.clone());
        let (told, events) = mpsc::channel(64);
        let registry = Registry::new();
        let config = Config {
            cluster: cluster(name),
            replica: ReplicaId::from_u64(replica),
            network: "".into(),
            presence: first,
            version: "test".into(),
            own_ranges: vec!["10.9.0.0/16".parse().unwrap()],
        };
        let metrics = Metrics::register(&registry).unwrap();
        let dialer = Dialer::new(trust.clone());
        let peering =
            Peering::new(config, peers_seen, local_seen, dialer, trust.clone(), told, metrics)
                .with_down(down_seen)
                .with_presence(presence_seen)
                .with_lookup(lookup);
        let (trigger, drain) = drain::channel();
        let (control, accepted) = mpsc::channel(16);
        let (data, _) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        let (d1, d2) = (drain.clone(), drain.clone());
        tasks.spawn(async move {
            drop(listener.run(Handlers { control, data, sibling: None }, d1).await)
        });
        tasks.spawn(async move { drop(trust.run(d2).await) });
        tasks.spawn(async move {
            peering.run(accepted, drain).await.ok();
        });
        let name = name.to_owned();
        Self {
            name,
            replica,
            address,
            local,
            peers,
            down,
            presence,
            events,
            trigger,
            registry,
            tasks,
        }
    }

    /// Is dialled by this configuration.
    fn as_peer(&self) -> PeerConfig {
        peer(&self.name, &[self.address])
    }

    fn imports_from(&self, peers: &[PeerConfig]) {
        self.peers.send_replace(Arc::new(peers.to_vec()));
    }

    fn exports(&self, catalog: LocalCatalog) {
        self.local.send_replace(Arc::new(catalog));
    }

    /// Waits for an event; those before it are passed over.
    async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let found = timeout(PATIENCE, async {
            loop {
                let event = self.events.recv().await.expect("peering runs");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("{} never saw {what}", self.name))
    }

    /// Waits for a catalog that fits; how many catalogs came until then.
    async fn until_catalog(
        &mut self,
        what: &str,
        fits: impl Fn(&PeerCatalog) -> bool,
    ) -> (Arc<PeerCatalog>, u32) {
        let mut seen = 0;
        self.until(what, |event| match event {
            Event::Catalog { catalog, .. } => {
                seen += 1;
                fits(&catalog).then_some((catalog, seen))
            }
            _ => None,
        })
        .await
    }

    async fn until_sessions(&mut self, wanted: u32) {
        self.until(&format!("{wanted} sessions"), |event| match event {
            Event::Sessions { count, .. } => (count == wanted).then_some(()),
            _ => None,
        })
        .await;
    }

    async fn until_trouble(&mut self, text: &str) -> String {
        self.until(text, |event| match event {
            Event::Trouble { error, .. } => error.contains(text).then_some(error),
            _ => None,
        })
        .await
    }

    /// The sum of a counter over the label values that contain this text.
    fn counted(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.into_iter().flat_map(|family| family.get_metric());
        metrics
            .filter(|metric| metric.get_label().iter().any(|pair| pair.value() == label))
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }

    /// Ends everything at once, as a crash does.
    async fn crash(mut self) {
        self.tasks.shutdown().await;
    }
}

fn peer(name: &str, addresses: &[SocketAddr]) -> PeerConfig {
    PeerConfig {
        trust_policy: true,
        cluster: cluster(name),
        addresses: addresses.iter().copied().map(PeerAddress::from).collect(),
        networks: Vec::new(),
        namespaces: NamespaceRules::Any,
    }
}

fn names(catalog: &PeerCatalog) -> Vec<String> {
    catalog.exports.keys().map(ToString::to_string).collect()
}

fn ready(catalog: &PeerCatalog, name: &str) -> Option<u32> {
    catalog.exports.get(&super::fixtures::key(name)).map(|export| export.ports[0].ready)
}

/// A gateway whose control sessions are played by hand.
struct Fake {
    address: SocketAddr,
    accepted: mpsc::Receiver<Accepted>,
    trust: Trust,
    _trigger: Trigger,
    _tasks: JoinSet<()>,
}

type ByHand = (Reader<ReadHalf<Stream>>, Writer<WriteHalf<Stream>>);

impl Fake {
    fn start(dir: &Path, name: &str) -> Self {
        let (trust, _) = trust::open(&dir.join(name), name);
        let here = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(here, trust.clone(), Limits::default()).unwrap();
        let address = listener.local_addr();
        let (control, accepted) = mpsc::channel(16);
        let (data, _) = mpsc::channel(1);
        let (trigger, drain) = drain::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            drop(listener.run(Handlers { control, data, sibling: None }, drain).await)
        });
        Self { address, accepted, trust, _trigger: trigger, _tasks: tasks }
    }

    fn halves(stream: Stream) -> ByHand {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let (reader, writer) = tokio::io::split(stream);
        (Reader::new(reader, metrics.clone()), Writer::new(writer, metrics))
    }

    /// The next session that somebody dials, past its `Hello`.
    async fn session(&mut self, hello: Hello) -> ByHand {
        let accepted = timeout(PATIENCE, self.accepted.recv()).await.unwrap().unwrap();
        let (mut reader, mut writer) = Self::halves(accepted.stream);
        assert!(matches!(reader.next().await.unwrap().body, Body::Hello(_)));
        writer.send(Body::Hello(hello)).await.unwrap();
        (reader, writer)
    }
}

fn hello(name: &str, replica: u64) -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        cluster: name.into(),
        replica,
        replicas: vec![replica],
        ..Hello::default()
    }
}

fn clusters(list: &[&str]) -> BTreeSet<ClusterId> {
    list.iter().map(|name| cluster(name)).collect()
}
