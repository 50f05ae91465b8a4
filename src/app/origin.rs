//! The source of truth and what hangs on it: a directory of manifests, or a cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus::Registry;
use tokio::sync::{mpsc, watch};

use super::build::BuildError;
use super::cluster::{self, ClusterFacts, Hearers};
use super::director::{Director, DirectorConfig, Outlets, Sources};
use super::planner::Start;
use super::supervise::{Role, Supervisor};
use super::{settings, start};
use crate::catalog::SourceUpdate;
use crate::config::{Config, Kubernetes, Pod, Source};
use crate::gateway::Gateway;
use crate::model::ReplicaId;
use crate::routes::SharedTable;
use crate::store::Store;
use crate::{drain, files, kubernetes, peering, siblings, tls};

/// Room for what the director says.
const DESIRED: usize = 1_024;

/// Room for connections of siblings.
const SIBLINGS: usize = 64;

/// The source, open but not yet running, and what is known from it and from earlier runs.
pub(super) struct Opened {
    pub(super) origin: Origin,
    pub(super) start: Start,
    pub(super) trust: tls::Trust,
}

/// Where truth comes from.
pub(super) enum Origin {
    /// A directory of manifests.
    Files(Box<files::Source>),
    /// The API server of the own cluster.
    Cluster(Box<Cluster>),
}

/// What belongs to a cluster as the source.
pub(super) struct Cluster {
    source: kubernetes::Source,
    writer: kubernetes::Writer,
    supply: watch::Sender<Arc<tls::Supply>>,
    facts: watch::Sender<Arc<ClusterFacts>>,
    pod: Pod,
    settings: Kubernetes,
    config: Config,
    /// What messages call the own identity.
    identity: PathBuf,
}

/// What others need of a source that runs.
pub(super) struct Spawned {
    /// What the cluster says to the planner.
    pub(super) cluster: Option<watch::Receiver<Arc<ClusterFacts>>>,
    /// Who takes siblings' connections; replicas that share a folder do not know of one another.
    pub(super) siblings: Option<mpsc::Sender<tls::Accepted>>,
}

/// What the source is connected to.
pub(super) struct Wiring<'a> {
    pub(super) replica: ReplicaId,
    pub(super) updates: mpsc::Sender<SourceUpdate>,
    pub(super) table: SharedTable,
    pub(super) changed: watch::Receiver<u64>,
    pub(super) draining: watch::Receiver<bool>,
    pub(super) presence: watch::Sender<peering::Presence>,
    pub(super) gateway: &'a Gateway,
    /// Takes the addresses of all replicas: none is a backend.
    pub(super) gateways: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    pub(super) trust: tls::Trust,
    pub(super) registry: &'a Registry,
    pub(super) drain: drain::Watch,
}

impl Opened {
    /// Opens the source that is configured, with the identity that belongs to it.
    pub(super) async fn open(
        config: &Config,
        pod: &Pod,
        store: &Store,
        registry: &Registry,
    ) -> Result<Self, BuildError> {
        match &config.source {
            Source::Files(dir) => Self::from_files(config, dir, store, registry),
            Source::Kubernetes(settings) => {
                Self::from_cluster(config, settings, pod, store, registry).await
            }
        }
    }

    fn from_files(
        config: &Config,
        dir: &Path,
        store: &Store,
        registry: &Registry,
    ) -> Result<Self, BuildError> {
        let trust = tls::Trust::open(settings::trust(config), tls::Metrics::register(registry)?)?;
        let (source, first) = files::Source::open(files::Config { dir: dir.to_owned() })?;
        let source = source.with_metrics(files::Metrics::register(registry)?);
        let start = start::from_files(config, store, first);
        Ok(Self { origin: Origin::Files(Box::new(source)), start, trust })
    }
}

impl Opened {
    async fn from_cluster(
        config: &Config,
        settings: &Kubernetes,
        pod: &Pod,
        store: &Store,
        registry: &Registry,
    ) -> Result<Self, BuildError> {
        let watched = settings::kubernetes::source(config, pod)
            .map_err(BuildError::Namespace)?
            .ok_or_else(|| BuildError::Namespace("it is not the source".to_owned()))?;
        let trust = settings::kubernetes::trust(config, &watched);
        let namespace = watched.namespace.clone();
        let metrics = kubernetes::Metrics::register(registry)?;
        let source = kubernetes::Source::open(watched.clone(), metrics).await?;
        let own = identity(config, &watched, &trust.dir, &source.clients()).await?;
        let (start, facts) = start::from_cluster(config, store);
        let supply = tls::Supply { own: Some(Arc::new(own)), peers: facts.bundles.clone() };
        let (supply, supplied) = watch::channel(Arc::new(supply));
        let named = trust.dir.clone();
        let trust = tls::Trust::supplied(trust, supplied, tls::Metrics::register(registry)?)?;
        let writer = kubernetes::Writer::new(
            kubernetes::WriterConfig {
                namespace,
                lease: settings.lease.clone(),
                identity: identity_of(pod),
            },
            source.clients(),
            source.mirror(),
            kubernetes::WriterMetrics::register(registry)?,
        );
        let cluster = Cluster {
            source,
            writer,
            supply,
            facts: watch::Sender::new(facts),
            pod: pod.clone(),
            settings: settings.clone(),
            config: config.clone(),
            identity: named,
        };
        Ok(Self { origin: Origin::Cluster(Box::new(cluster)), start, trust })
    }
}

/// The mounted Secret, so that a restart needs no API server; else the one in the cluster, made
/// where there is none.
async fn identity(
    config: &Config,
    watched: &kubernetes::Config,
    name: &Path,
    clients: &kubernetes::Clients,
) -> Result<tls::Pair, BuildError> {
    if let Some(dir) = &config.trust_dir
        && let Some(pair) = tls::Pair::mounted(dir)?
    {
        return Ok(pair);
    }
    let make = || {
        tls::new_authority(&config.cluster)
            .map(|(certificate, key)| kubernetes::NewAuthority { certificate, key })
    };
    let wanted = settings::kubernetes::wanted(config, watched);
    let secret = kubernetes::identity(clients, &wanted, make).await?;
    Ok(settings::kubernetes::pair(&secret, name)?)
}

/// What tells this replica from the others: the pod, else the process.
fn identity_of(pod: &Pod) -> Box<str> {
    pod.name.clone().unwrap_or_else(|| format!("process-{}", std::process::id()).into())
}

impl Origin {
    /// Sets the source going, and what goes with it.
    pub(super) fn spawn(
        self,
        tasks: &mut Supervisor,
        wiring: Wiring<'_>,
    ) -> Result<Spawned, BuildError> {
        match self {
            Self::Files(source) => {
                let run = source.run(wiring.updates, wiring.drain);
                tasks.spawn("source", Role::Supporting, run);
                Ok(Spawned { cluster: None, siblings: None })
            }
            Self::Cluster(cluster) => cluster.spawn(tasks, wiring),
        }
    }
}

impl Cluster {
    fn spawn(self, tasks: &mut Supervisor, wiring: Wiring<'_>) -> Result<Spawned, BuildError> {
        let Wiring { table, changed, draining, presence, gateway, drain, .. } = wiring;
        let facts = self.facts.subscribe();
        let (view_tx, view) = watch::channel(Arc::default());
        let (members_tx, members) = watch::channel(Arc::default());
        let (siblings_tx, siblings) = watch::channel(Arc::default());
        let (leader_tx, leader) = watch::channel(false);
        let (refusals_tx, refusals) = watch::channel(Arc::default());
        let (desired_tx, desired) = mpsc::channel(DESIRED);
        let (sibling_tx, accepted) = mpsc::channel(SIBLINGS);
        let (peers_tx, peers) = watch::channel(Arc::default());
        let own = self.pod.uid.clone().unwrap_or_default();

        let watch = siblings::Siblings::new(
            siblings::Config {
                replica: wiring.replica,
                uid: own.clone(),
                addresses: self.pod.addresses.clone(),
            },
            tls::Dialer::new(wiring.trust.clone()),
            wiring.trust,
            members,
            gateway.open_ports(),
            siblings::Metrics::register(wiring.registry)?,
        );
        let director = Director::new(
            DirectorConfig {
                cluster: self.config.cluster.clone(),
                own,
                ports: self.settings.ports.clone(),
            },
            Sources {
                table,
                changed,
                view: view.clone(),
                siblings: siblings.clone(),
                open: gateway.open_ports(),
                refusals,
                leader,
                draining,
            },
            Outlets { desired: desired_tx, peers: peers_tx },
            &self.writer,
        );
        let book = cluster::book(self.settings.ports.clone(), &self.facts.borrow().ports);
        let hearers = Hearers {
            facts: self.facts,
            presence,
            supply: self.supply,
            members: members_tx,
            gateways: wiring.gateways,
            replica: wiring.replica,
            name: self.identity,
            book,
            secret: None,
            gateway_port: self.config.gateway.listen.first().map_or(0, |at| at.port()),
        };
        let advertise = self.config.gateway.advertise.clone();
        let inputs = kubernetes::WriterInputs { desired, peers };
        let outputs = kubernetes::WriterOutputs { leader: leader_tx, refusals: refusals_tx };
        let source = self.source.run(wiring.updates, view_tx, drain.clone());
        tasks.spawn("source", Role::Supporting, source);
        let hear = cluster::follow(view, siblings, advertise, hearers, drain.clone());
        tasks.spawn("cluster", Role::Supporting, hear);
        let watch = watch.run(accepted, siblings_tx, drain.clone());
        tasks.spawn("siblings", Role::Supporting, watch);
        tasks.spawn("director", Role::Supporting, director.run(drain.clone()));
        tasks.spawn("writer", Role::Supporting, self.writer.run(inputs, outputs, drain));
        Ok(Spawned { cluster: Some(facts), siblings: Some(sibling_tx) })
    }
}
