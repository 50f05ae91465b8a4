//! Real loopback sockets; every refusal is asserted by its metric reason, and that a good peer is
//! still served afterwards.

mod caps;
mod reload;
mod siblings;
mod supply;
mod who;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use prometheus::Registry;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;
use crate::drain;
use crate::testing::trust::{self, Client, Credentials, cluster};

/// The gateway port of `paris` in a mesh with `oregon` and `tokyo`.
struct Port {
    dir: TempDir,
    address: SocketAddr,
    trust: Trust,
    registry: Registry,
    control: mpsc::Receiver<Accepted>,
    data: mpsc::Receiver<Accepted>,
    sibling: mpsc::Receiver<Accepted>,
    trigger: drain::Trigger,
    watch: drain::Watch,
    tasks: JoinSet<Result<(), Error>>,
}

impl Port {
    fn open(limits: Limits) -> Self {
        Self::serving(limits, false)
    }

    /// One that knows siblings.
    fn with_siblings() -> Self {
        Self::serving(Limits::default(), true)
    }

    fn serving(limits: Limits, siblings: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        trust::mesh(dir.path(), &["paris", "oregon", "tokyo"]);
        let (trust, registry) = trust::open(&dir.path().join("paris"), "paris");
        let listen = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(listen, trust.clone(), limits).unwrap();
        let address = listener.local_addr();
        let (to_control, control) = mpsc::channel(64);
        let (to_data, data) = mpsc::channel(64);
        let (to_sibling, sibling) = mpsc::channel(64);
        let (trigger, watch) = drain::channel();
        let mut tasks = JoinSet::new();
        let handlers = Handlers {
            control: to_control,
            data: to_data,
            sibling: siblings.then_some(to_sibling),
        };
        tasks.spawn(listener.run(handlers, watch.clone()));
        Self { dir, address, trust, registry, control, data, sibling, trigger, watch, tasks }
    }

    fn folder(&self, cluster: &str) -> PathBuf {
        self.dir.path().join(cluster)
    }

    fn dialer(&self, cluster: &str) -> Dialer {
        Dialer::new(trust::open(&self.folder(cluster), cluster).0)
    }

    /// A raw client that shows `credentials` and offers `portolan-data/1`.
    fn client(&self, credentials: Option<Credentials>) -> Client {
        Client::of(&self.folder("paris"), "paris", credentials)
    }

    /// Oregon is served: dials and gets a byte back from the handler.
    async fn serves_oregon(&mut self) -> (Dialed, Accepted) {
        let paris = cluster("paris");
        let dialed = self.dialer("oregon").dial(&paris, self.address, Kind::Data).await.unwrap();
        let accepted = self.data.recv().await.unwrap();
        assert_eq!(accepted.peer.cluster(), &cluster("oregon"));
        assert_eq!(dialed.peer.cluster(), &paris);
        (dialed, accepted)
    }
}

/// The refusals counted in a registry: reason and count, zeros left out.
fn refusals(registry: &Registry) -> Vec<(String, u64)> {
    registry
        .gather()
        .iter()
        .filter(|family| family.name() == "portolan_tls_refused_total")
        .flat_map(|family| family.get_metric().to_vec())
        .map(|metric| {
            let count = metric.get_counter().get_value().to_string().parse().unwrap();
            (metric.get_label()[0].value().to_owned(), count)
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// The expiry known of a cluster, Unix seconds.
fn expiry(registry: &Registry, cluster: &str) -> Option<f64> {
    registry
        .gather()
        .iter()
        .filter(|family| family.name() == "portolan_certificate_expiry_seconds")
        .flat_map(|family| family.get_metric().to_vec())
        .find(|metric| metric.get_label()[0].value() == cluster)
        .map(|metric| metric.get_gauge().get_value())
}

/// What was logged on this thread while the guard lives.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self, with: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(with)).map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
