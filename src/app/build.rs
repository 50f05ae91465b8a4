//! From a checked configuration to a running agent, block by block.

use std::net::SocketAddr;
use std::sync::Arc;

use prometheus::Registry;
use thiserror::Error;
use tokio::sync::{mpsc, watch};

use super::origin::{Opened, Spawned, Wiring};
use super::planner::{Feeds, Outlets, Planner};
use super::publisher::Publisher;
use super::saver;
use super::status::{SourceStatus, Status};
use super::supervise::{Role, Supervisor};
use super::{Addresses, Running, Stages, orders, settings, staleness};
use crate::config::{Config, Pod};
use crate::model::ReplicaId;
use crate::store::Store;
use crate::zone::ZoneConfig;
use crate::{admin, dns, drain, files, gateway, kubernetes, peering, telemetry, tls};

/// Room for facts between the data path and the planner.
const FACTS: usize = 4_096;
/// Room for events of each other edge.
const EVENTS: usize = 256;

/// Why an agent could not start.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The own certificate, key or bundles.
    #[error("trust")]
    Trust(#[from] tls::Error),
    /// The saved state's folder.
    #[error("state")]
    State(#[from] crate::store::Error),
    /// The manifests.
    #[error("source")]
    Source(#[from] files::Error),
    /// The API server's clients.
    #[error("source.kubernetes")]
    Kubernetes(#[from] kubernetes::Error),
    /// The own namespace is not known.
    #[error("source.kubernetes: {0}")]
    Namespace(String),
    /// The Secret with the own identity.
    #[error("identity")]
    Identity(#[from] kubernetes::IdentityError),
    /// A DNS address.
    #[error("dns")]
    Dns(#[from] dns::Error),
    /// The admin address.
    #[error("admin")]
    Admin(#[from] admin::Error),
    /// Two metrics of one name.
    #[error("two metrics have one name, which is a bug; report it")]
    Metrics(#[from] prometheus::Error),
}

/// Builds an agent: everything is checked, restored, planned once and bound before it returns.
/// Later changes of the configuration come through `live`.
///
/// # Errors
/// Names what cannot be read or bound, and what to do; nothing is left running.
#[allow(clippy::too_many_lines, reason = "the composition root: one block per module, in order")]
pub async fn build(
    config: &Config,
    live: watch::Receiver<Arc<Config>>,
    pod: &Pod,
) -> Result<Running, BuildError> {
    let registry = Registry::new();
    telemetry::register_process(&registry)?;
    let config_faulty = telemetry::gauge(
        &registry,
        "portolan_config_faulty",
        "1 while the configuration file as it stands is faulty and the old one stays in force.",
    )?;
    let replica = ReplicaId::from_u64(rand::random());
    let store = Arc::new(Store::open(&config.state_dir)?);
    let Opened { origin, start, trust } = Opened::open(config, pod, &store, &registry).await?;

    let listeners = bind_gateways(config, &trust)?;
    let gateway_addresses: Vec<SocketAddr> =
        listeners.iter().map(tls::Listener::local_addr).collect();

    let (publisher, table, answers) = Publisher::new(&start.table, config);
    let (changed_tx, changed) = watch::channel(start.table.revision);
    let (local_tx, local) = watch::channel(Arc::clone(&start.inputs.local));
    let (source_tx, source_status) = watch::channel(SourceStatus::new(start.inputs.local.synced));
    let (ready_tx, ready) = watch::channel(false);
    let (draining_tx, draining) = watch::channel(false);
    let (down_tx, down) = watch::channel(Arc::new(peering::DownReplicas::new()));
    let (presence_tx, presence) = watch::channel(settings::presence(config));
    let (zone_tx, zone) = watch::channel(settings::zone(config));
    let (dns_tx, dns_addresses) = watch::channel(Vec::new());
    let (peers_tx, peers) = watch::channel(Arc::new(start.peers.clone()));
    let (gateways_tx, gateways) = watch::channel(Arc::default());
    let (update_tx, updates) = mpsc::channel(EVENTS);
    let (event_tx, events) = mpsc::channel(EVENTS);
    let (fact_tx, facts) = mpsc::channel(FACTS);
    let (job_tx, jobs) = mpsc::channel(1);
    let (saved_tx, saved) = mpsc::channel(1);
    let (control_tx, control) = mpsc::channel(EVENTS);
    let (data_tx, data) = mpsc::channel(EVENTS);
    let (gateway_trigger, gateway_drain) = drain::channel();
    let (dns_trigger, dns_drain) = drain::channel();

    let dialer = tls::Dialer::new(trust.clone());
    let gateway = gateway::Gateway::new(
        settings::gateway(config),
        gateway::Context {
            cluster: config.cluster.clone(),
            replica,
            routes: table.clone(),
            changed: changed.clone(),
            dialer: dialer.clone(),
            trust: trust.clone(),
            listeners: settings::listeners(config, &gateway_addresses),
            gateways,
            facts: fact_tx,
            metrics: gateway::Metrics::register(&registry)?,
        },
    );
    let peering = peering::Peering::new(
        settings::peering(config, replica, &gateway_addresses),
        peers,
        local,
        dialer,
        trust.clone(),
        event_tx,
        peering::Metrics::register(&registry)?,
    )
    .with_down(down)
    .with_presence(presence);
    let status = Status {
        table: table.clone(),
        zone: zone.clone(),
        ready: ready.clone(),
        draining: draining.clone(),
        source: source_status.clone(),
        source_kind: settings::source_kind(config),
        gateway: gateway.clone(),
    };
    let (admin, asked) = bind_admin(config, status, &registry)?;
    let dns = DnsTask::prepare(config, &trust, answers, &registry, (ready, zone, source_status))?;
    let (admin_address, probes) = (admin.local_addr(), admin.probes_addr());

    let outlets = Outlets {
        table: publisher,
        changed: changed_tx,
        local: local_tx,
        source: source_tx,
        ready: ready_tx,
        save: job_tx,
        down: down_tx,
        peers: peers_tx,
        metrics: super::metrics::Metrics::register(&registry)?,
    };
    let (desk, orders) = orders::desk(&start, replica, &store, &table, &gateway);
    let mut tasks = Supervisor::default();
    tasks.spawn("orders", Role::Supporting, desk.run(asked, gateway_drain.clone()));
    let wiring = Wiring {
        replica,
        updates: update_tx,
        table,
        changed,
        draining,
        presence: presence_tx.clone(),
        gateway: &gateway,
        gateways: gateways_tx,
        trust: trust.clone(),
        registry: &registry,
        drain: gateway_drain.clone(),
    };
    let Spawned { cluster, siblings } = origin.spawn(&mut tasks, wiring)?;
    let feeds = Feeds {
        source: updates,
        peering: events,
        facts,
        saved,
        config: live.clone(),
        orders,
        cluster,
    };
    let planner = Planner::new(start, outlets);
    tasks.spawn("planner", Role::Supporting, planner.run(feeds, gateway_drain.clone()));
    let saver = saver::run(store, jobs, saved_tx, gateway_drain.clone());
    tasks.spawn("saver", Role::Supporting, saver);
    tasks.spawn("trust", Role::Supporting, trust.run(gateway_drain.clone()));
    tasks.spawn("peering", Role::Supporting, peering.run(control, gateway_drain.clone()));
    let handlers = tls::Handlers { control: control_tx, data: data_tx, sibling: siblings };
    let data_path = DataPath { gateway, listeners, handlers, data };
    data_path.spawn(&mut tasks, &gateway_drain);
    tasks.spawn("admin", Role::Supporting, admin.run(gateway_drain.clone()));
    tasks.spawn("dns", Role::Serving, dns.run(dns_tx, dns_drain));
    let follow = follow_config(live, presence_tx, zone_tx, gateway_drain.clone());
    tasks.spawn("config", Role::Supporting, follow);

    Ok(Running {
        addresses: Addresses {
            gateway: gateway_addresses,
            admin: admin_address,
            probes,
            dns: dns_addresses,
        },
        supervisor: tasks,
        config_faulty,
        drain: gateway_drain,
        stages: Stages::new(config, gateway_trigger, dns_trigger, draining_tx),
    })
}

/// The admin port, and the orders that it takes.
fn bind_admin(
    config: &Config,
    status: Status,
    registry: &Registry,
) -> Result<(admin::Server, mpsc::Receiver<admin::order::Order>), BuildError> {
    let (orders, asked) = mpsc::channel(EVENTS);
    let (shown, orders) = (Arc::new(status), Some(orders));
    let admin = settings::admin(config);
    Ok((admin::Server::bind(admin, shown, orders, registry.clone())?, asked))
}

/// The port between clusters and what is carried over it.
struct DataPath {
    gateway: gateway::Gateway,
    listeners: Vec<tls::Listener>,
    handlers: tls::Handlers,
    data: mpsc::Receiver<tls::Accepted>,
}

impl DataPath {
    fn spawn(self, tasks: &mut Supervisor, drain: &drain::Watch) {
        let Self { gateway, listeners, handlers, data } = self;
        for listener in listeners {
            let handlers = handlers.clone();
            tasks.spawn("listener", Role::Supporting, listener.run(handlers, drain.clone()));
        }
        tasks.spawn("outbound", Role::Serving, gateway.clone().run_outbound(drain.clone()));
        tasks.spawn("inbound", Role::Serving, gateway.clone().run_inbound(data, drain.clone()));
        tasks.spawn("probes", Role::Supporting, gateway.clone().run_probes(drain.clone()));
        tasks.spawn("udp", Role::Serving, gateway.clone().run_udp(drain.clone()));
        tasks.spawn("udp lanes", Role::Supporting, gateway.clone().run_lanes(drain.clone()));
        tasks.spawn("pool", Role::Supporting, gateway.run_pool(drain.clone()));
    }
}

fn bind_gateways(config: &Config, trust: &tls::Trust) -> Result<Vec<tls::Listener>, BuildError> {
    let bind = |address: &SocketAddr| {
        tls::Listener::bind(*address, trust.clone(), tls::Limits::default()).map_err(Into::into)
    };
    config.gateway.listen.iter().map(bind).collect()
}

/// Opens DNS when the agent is ready, and serves.
struct DnsTask {
    config: dns::Config,
    /// Where it listens for TLS too, and what it shows there.
    secure: Option<(Vec<SocketAddr>, Arc<tls::ServerCertificate>)>,
    answers: dns::SharedAnswers,
    metrics: dns::Metrics,
    ready: watch::Receiver<bool>,
    zone: watch::Receiver<ZoneConfig>,
    source: watch::Receiver<SourceStatus>,
}

impl DnsTask {
    /// It opens only when synced, but an address that cannot be had must refuse the start.
    fn prepare(
        config: &Config,
        trust: &tls::Trust,
        answers: dns::SharedAnswers,
        registry: &Registry,
        (ready, zone, source): (
            watch::Receiver<bool>,
            watch::Receiver<ZoneConfig>,
            watch::Receiver<SourceStatus>,
        ),
    ) -> Result<Self, BuildError> {
        let secure = settings::dns_certificate(config, trust)?
            .map(|certificate| (config.dns.tls.listen.clone(), certificate));
        let config = settings::dns(config);
        let metrics = dns::Metrics::register(registry)?;
        let task = Self { config, secure, answers, metrics, ready, zone, source };
        drop(task.bind()?);
        Ok(task)
    }

    fn bind(&self) -> Result<dns::Server, dns::Error> {
        let (answers, metrics) = (self.answers.clone(), self.metrics.clone());
        let server = dns::Server::bind(self.config.clone(), answers, metrics)?;
        match &self.secure {
            Some((listen, certificate)) => server.with_tls(listen, Arc::clone(certificate)),
            None => Ok(server),
        }
    }

    async fn run(
        mut self,
        addresses: watch::Sender<Vec<SocketAddr>>,
        mut drain: drain::Watch,
    ) -> anyhow::Result<()> {
        tokio::select! {
            open = self.ready.wait_for(|ready| *ready) => { open?; }
            () = drain.reached(drain::Phase::Draining) => return Ok(()),
        }
        self.config.ttl_seconds = self.zone.borrow_and_update().ttl_seconds;
        let server = self.bind()?;
        let stale = staleness::follow(self.source, self.answers.staleness());
        let ttl = server.ttl();
        addresses.send_replace(server.local_addrs());
        let follow_ttl = async {
            while self.zone.changed().await.is_ok() {
                ttl.set(self.zone.borrow_and_update().ttl_seconds);
            }
            std::future::pending::<()>().await;
        };
        let certificate_drain = drain.clone();
        let follow_certificate = async {
            if let Some((_, certificate)) = self.secure {
                certificate.run(certificate_drain).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = server.run(drain) => Ok(ended?),
            () = follow_ttl => Ok(()),
            () = follow_certificate => Ok(()),
            () = stale => Ok(()),
        }
    }
}

/// Hands live changes of the configuration to the edges that take them.
async fn follow_config(
    mut live: watch::Receiver<Arc<Config>>,
    presence: watch::Sender<peering::Presence>,
    zone: watch::Sender<ZoneConfig>,
    mut drain: drain::Watch,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            changed = live.changed() => {
                if changed.is_err() {
                    // Nobody changes the configuration any more; what is in force stays.
                    drain.reached(drain::Phase::Forced).await;
                    return Ok(());
                }
                let config = Arc::clone(&live.borrow_and_update());
                presence.send_modify(|presence| presence.locality = config.locality.clone());
                zone.send_replace(settings::zone(&config));
            }
            () = drain.reached(drain::Phase::Forced) => return Ok(()),
        }
    }
}
