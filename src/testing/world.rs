//! Whole agents in one process: written configuration files, real sockets, `app::build`.
//!
//! Each agent has a runtime of its own, so that ending one abruptly ends all its tasks and
//! sockets at once, as a killed process would.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use crate::admin::json::{ServiceJson, StateJson};
use crate::app;
use crate::commands::client::Admin;
use crate::config::{Config, Pod};
use crate::testing::trust;

/// How long a condition may take to come true before the test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Addresses of one cluster: hosts from 1, clusterset addresses from 16.
const SPAN: usize = 48;

static WORLDS: AtomicU16 = AtomicU16::new(0);

/// A cluster set on loopback addresses of its own.
#[derive(Debug)]
pub struct World {
    dir: TempDir,
    clusters: Vec<String>,
    block: (u8, u8),
    extra: String,
    vips: Option<String>,
}

impl World {
    /// Clusters that trust each other; nothing runs yet.
    ///
    /// # Panics
    /// When the disk refuses: this is for tests.
    #[must_use]
    pub fn new(clusters: &[&str]) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        trust::mesh(&dir.path().join("trust"), clusters);
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let process = u8::try_from(std::process::id() % 100).expect("below 100");
        let block = (128 + process, u8::try_from(number % 256).expect("below 256"));
        let world = Self {
            dir,
            clusters: clusters.iter().map(|name| (*name).to_owned()).collect(),
            block,
            extra: String::new(),
            vips: None,
        };
        for cluster in &world.clusters {
            fs::create_dir_all(world.registry(cluster)).expect("writable");
        }
        world
    }

    /// Adds lines to every configuration file that is written from now on.
    pub fn configure(&mut self, yaml: &str) {
        self.extra.push_str(yaml);
        self.extra.push('\n');
    }

    /// Uses this range for clusterset addresses and listens on none of them.
    pub fn set_vips(&mut self, range: &str) {
        self.vips = Some(range.to_owned());
    }

    /// The folder that holds everything.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A cluster's trust folder.
    #[must_use]
    pub fn trust(&self, cluster: &str) -> PathBuf {
        self.dir.path().join("trust").join(cluster)
    }

    /// A cluster's manifests.
    #[must_use]
    pub fn registry(&self, cluster: &str) -> PathBuf {
        self.dir.path().join(cluster).join("registry")
    }

    /// An address of this world's own: one host per cluster and role.
    #[must_use]
    pub fn host(&self, cluster: &str, role: u8) -> IpAddr {
        let index = self.clusters.iter().position(|c| c == cluster).expect("a known cluster");
        let last = u8::try_from(index * SPAN).expect("few clusters") + role;
        Ipv4Addr::new(127, self.block.0, self.block.1, last).into()
    }

    /// Where a cluster's gateway listens.
    #[must_use]
    pub fn gateway(&self, cluster: &str) -> SocketAddr {
        SocketAddr::new(self.host(cluster, 1), 8443)
    }

    /// Where a cluster's admin port listens.
    #[must_use]
    pub fn admin(&self, cluster: &str) -> SocketAddr {
        SocketAddr::new(self.host(cluster, 1), 9900)
    }

    /// Where a cluster's DNS listens.
    #[must_use]
    pub fn dns(&self, cluster: &str) -> SocketAddr {
        SocketAddr::new(self.host(cluster, 1), 5353)
    }

    /// Writes a Service, its EndpointSlice and its ServiceExport as one file.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn export(&self, cluster: &str, key: &str, port: u16, backends: &[SocketAddr]) {
        self.export_with(cluster, key, port, backends, "");
    }

    /// As [`World::export`], with annotation lines (`portolan.dev/policy: local`).
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn export_with(
        &self,
        cluster: &str,
        key: &str,
        port: u16,
        backends: &[SocketAddr],
        annotations: &str,
    ) {
        self.write_export(cluster, key, ("TCP", port), backends, annotations);
    }

    /// As [`World::export`], of a port for datagrams.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn export_udp(&self, cluster: &str, key: &str, port: u16, backends: &[SocketAddr]) {
        self.write_export(cluster, key, ("UDP", port), backends, "");
    }

    fn write_export(
        &self,
        cluster: &str,
        key: &str,
        (protocol, port): (&str, u16),
        backends: &[SocketAddr],
        annotations: &str,
    ) {
        let (namespace, name) = key.split_once('/').expect("namespace/name");
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: {namespace}, name: {name} }}\n\
             spec: {{ ports: [ {{ protocol: {protocol}, port: {port} }} ] }}\n---\n\
             apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata:\n  \
             namespace: {namespace}\n  name: {name}\n  annotations:\n    test: world\n"
        );
        for line in annotations.lines() {
            writeln!(text, "    {line}").expect("a string takes text");
        }
        for (index, backend) in backends.iter().enumerate() {
            write!(
                text,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
                 namespace: {namespace}\n  name: {name}-{index}\n  labels: {{ \
                 kubernetes.io/service-name: {name} }}\naddressType: IPv4\nports: [ {{ protocol: \
                 {protocol}, port: {} }} ]\nendpoints: [ {{ addresses: [\"{}\"] }} ]\n",
                backend.port(),
                backend.ip()
            )
            .expect("a string takes text");
        }
        self.manifest(cluster, &format!("{namespace}-{name}.yaml"), &text);
    }

    /// Writes a manifest as an editor does: to a new file, then in place of the old one.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn manifest(&self, cluster: &str, file: &str, text: &str) {
        let registry = self.registry(cluster);
        let fresh = self.dir.path().join(cluster).join(format!("{file}.new"));
        fs::write(&fresh, text).expect("writable");
        fs::rename(&fresh, registry.join(file)).expect("renamed");
    }

    /// Removes a manifest.
    ///
    /// # Panics
    /// When there is none.
    pub fn remove_manifest(&self, cluster: &str, file: &str) {
        fs::remove_file(self.registry(cluster).join(file)).expect("was there");
    }

    /// Writes a cluster's configuration; every other cluster is its peer, at `addresses(peer)`.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn write_config(
        &self,
        cluster: &str,
        addresses: impl Fn(&str) -> Vec<SocketAddr>,
    ) -> PathBuf {
        self.write_replica(cluster, 1, addresses)
    }

    /// As [`World::write_config`], for the replica of a cluster that listens on the host of this
    /// role, 1 or 2: the same manifests and trust folder, its own state and clusterset addresses.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn write_replica(
        &self,
        cluster: &str,
        replica: u8,
        addresses: impl Fn(&str) -> Vec<SocketAddr>,
    ) -> PathBuf {
        let host = self.host(cluster, replica);
        let IpAddr::V4(vips) = self.host(cluster, 16 * replica) else { unreachable!("IPv4") };
        let own = format!("{vips}/28");
        let (vips, outbound) = match &self.vips {
            Some(range) => (range, false),
            None => (&own, true),
        };
        let (file, state) = match replica {
            1 => ("portolan.yaml".to_owned(), "./state".to_owned()),
            _ => (format!("replica-{replica}.yaml"), format!("./state-{replica}")),
        };
        let mut text = format!(
            "cluster: {cluster}\nclusterset: clusterset.local\nnetwork: flat\n\
             source: {{ files: ./registry }}\nstate: {{ dir: {state} }}\n\
             vips: [{vips}]\n\
             gateway: {{ listen: [\"{host}:8443\"], outbound: {outbound}, drain: 2s, \
             shutdown_delay: 300ms }}\n\
             dns: {{ listen: [\"{host}:5353\"], shutdown_delay: 300ms }}\n\
             admin: {{ listen: \"{host}:9900\" }}\ntrust: {{ dir: ../trust/{cluster} }}\n"
        );
        text.push_str(if self.clusters.len() > 1 { "peers:\n" } else { "peers: []\n" });
        for peer in self.clusters.iter().filter(|peer| *peer != cluster) {
            let list: Vec<String> = addresses(peer).iter().map(|a| format!("\"{a}\"")).collect();
            writeln!(
                text,
                "  - {{ cluster: {peer}, addresses: [{}], networks: [127.0.0.0/8] }}",
                list.join(", ")
            )
            .expect("a string takes text");
        }
        text.push_str(&self.extra);
        let path = self.dir.path().join(cluster).join(file);
        fs::write(&path, text).expect("writable");
        path
    }

    /// Writes the configuration with every peer at its own gateway, and starts the agent.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(&self, cluster: &str) -> Agent {
        let path = self.write_config(cluster, |peer| vec![self.gateway(peer)]);
        Agent::start(&path)
    }
}

/// One agent that runs in this process.
#[derive(Debug)]
pub struct Agent {
    /// Where it listens.
    pub addresses: app::Addresses,
    /// Its admin port.
    pub admin: Admin,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<oneshot::Receiver<Result<(), app::TaskEnded>>>,
    config: watch::Sender<Arc<Config>>,
}

impl Agent {
    /// Starts an agent from its configuration file.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(path: &Path) -> Self {
        Self::try_start(path).unwrap_or_else(|error| panic!("the agent does not start: {error}"))
    }

    /// Starts an agent, or tells why it did not.
    ///
    /// # Errors
    /// The text a person would read.
    ///
    /// # Panics
    /// When the machine gives no threads.
    pub fn try_start(path: &Path) -> Result<Self, String> {
        Self::try_start_in(path, Pod::default())
    }

    /// The same in a pod.
    ///
    /// # Errors
    /// The text a person would read.
    ///
    /// # Panics
    /// When the machine gives no threads.
    pub fn try_start_in(path: &Path, pod: Pod) -> Result<Self, String> {
        let config = Config::load(path).map_err(|errors| errors.to_string())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads");
        let (live_tx, live) = watch::channel(Arc::new(config.clone()));
        let (started_tx, started) = std::sync::mpsc::sync_channel(1);
        let (stop_tx, stop) = oneshot::channel::<()>();
        let (ended_tx, ended) = oneshot::channel();
        runtime.spawn(async move {
            match app::build(&config, live, &pod).await {
                Ok(running) => {
                    let _told = started_tx.send(Ok(running.addresses().clone()));
                    let end = running.until(async { drop(stop.await) }).await;
                    let _told = ended_tx.send(end);
                }
                Err(error) => {
                    let _told = started_tx.send(Err(format!("{:#}", anyhow::Error::from(error))));
                }
            }
        });
        let started = started.recv().map_err(|_| "the agent panicked".to_owned());
        let addresses = match started.and_then(|started| started) {
            Ok(addresses) => addresses,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        Ok(Self {
            admin: Admin::new(addresses.admin),
            addresses,
            runtime: Some(runtime),
            stop: Some(stop_tx),
            ended: Some(ended),
            config: live_tx,
        })
    }

    /// Puts a changed configuration file in force, as the file watch would.
    ///
    /// # Panics
    /// When the file is wrong.
    pub fn reload(&self, path: &Path) {
        let config = Config::load(path).unwrap_or_else(|errors| panic!("{errors}"));
        self.config.send_replace(Arc::new(config));
    }

    /// Ends it abruptly: every task and socket at once.
    pub fn kill(mut self) {
        self.end_runtime();
    }

    /// Asks it to drain; the receiver yields how it ended.
    ///
    /// # Panics
    /// When called twice.
    pub fn begin_stop(&mut self) -> oneshot::Receiver<Result<(), app::TaskEnded>> {
        drop(self.stop.take());
        self.ended.take().expect("stopped once")
    }

    /// The whole state.
    ///
    /// # Panics
    /// When the admin port does not answer.
    pub async fn state(&self) -> StateJson {
        self.admin.state().await.expect("the admin port answers")
    }

    /// One service as explained, `None` while it is unknown.
    pub async fn explain(&self, name: &str) -> Option<ServiceJson> {
        self.admin.explain(name).await.ok()
    }

    /// Waits until an explained service is as wanted.
    ///
    /// # Panics
    /// When it does not become so within [`PATIENCE`].
    pub async fn until(&self, name: &str, wanted: impl Fn(&ServiceJson) -> bool) -> ServiceJson {
        let deadline = crate::clock::now() + PATIENCE;
        loop {
            let seen = self.explain(name).await;
            if let Some(service) = seen.as_ref().filter(|service| wanted(service)) {
                return service.clone();
            }
            assert!(crate::clock::now() < deadline, "{name} never came to be as wanted: {seen:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a service is led by this cluster.
    pub async fn led_by(&self, name: &str, cluster: &str) -> ServiceJson {
        self.until(name, |service| {
            service.candidates.first().is_some_and(|c| c.usable && c.cluster.as_str() == cluster)
                && service.candidates.first().is_some_and(|c| c.rtt_ms.is_some())
        })
        .await
    }

    /// Where clients call a service: its clusterset address and first port.
    pub async fn vip(&self, name: &str) -> SocketAddr {
        let service = self.until(name, |s| !s.ips.is_empty() && !s.ports.is_empty()).await;
        SocketAddr::new(service.ips[0], service.ports[0].port.get())
    }

    /// Connects to a service as a client does, waiting until its listener is open.
    ///
    /// # Panics
    /// When it does not open within [`PATIENCE`].
    pub async fn connect(&self, name: &str) -> tokio::net::TcpStream {
        let vip = self.vip(name).await;
        let deadline = crate::clock::now() + PATIENCE;
        loop {
            match tokio::net::TcpStream::connect(vip).await {
                Ok(stream) => return stream,
                Err(error) => assert!(crate::clock::now() < deadline, "{vip}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every peer is Up.
    ///
    /// # Panics
    /// When one does not come up within [`PATIENCE`].
    pub async fn peers_up(&self) {
        let deadline = crate::clock::now() + PATIENCE;
        loop {
            let state = self.state().await;
            if state.peers.iter().all(|p| p.state == crate::health::PeerState::Up) {
                return;
            }
            assert!(crate::clock::now() < deadline, "peers not up: {:#?}", state.peers);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn end_runtime(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end_runtime();
    }
}
