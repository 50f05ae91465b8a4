//! The data plane: outbound listeners, inbound, tunnels, pool, byte pump and probes.
//!
//! A client that connects to a clusterset address (or to the allocated port that stands for it,
//! [`ListenOn`]) is accepted, its candidates are tried in the
//! route table's order, and not one of its bytes is read before one of them has accepted
//! ([`client`]): so a refusal, a silence or a lost connection moves to the next, and the client
//! sees nothing. Peers' streams come in over framed TLS connections, one stream at a time on
//! each ([`inbound`]), and go to the backend that [`balance`] chooses. Probes travel the same way and are reported as facts ([`probe`]).
//!
//! Invariants: the table is loaded once per stream and never held across an await; nothing but
//! endpoints of exported services is dialled for peers; an abnormal end is a reset, never a FIN;
//! buffered bytes are bounded per stream and in all.
//! Clients' datagrams take the same way over connections of their own ([`udp`]).
//! Not here: what facts mean (`health`), the order of candidates (`routes`).

mod affinity;
mod allowance;
mod answers;
mod attempt;
mod backend;
mod balance;
mod bind;
mod choice;
mod client;
mod conn;
mod descriptors;
mod ends;
mod guests;
mod inbound;
mod listeners;
mod live;
mod load;
mod memory;
mod metrics;
mod news;
mod order;
mod outbound;
mod pool;
mod probe;
mod probes;
mod proxy;
mod pump;
mod race;
mod relay;
mod role;
mod session;
mod spares;
mod stream;
#[cfg(test)]
mod tests;
mod udp;
mod upkeep;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use socket2::SockRef;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::metrics::Metrics;
use crate::clock;
use crate::health::Fact;
use crate::model::{ClusterId, ReplicaId};
use crate::routes::{OpenPorts, SharedTable};
use crate::tls;

/// Attempts that lost their race and are being wound up.
const LOOSE_ENDS: usize = 4096;

/// Where clients are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListenOn {
    /// On the clusterset addresses themselves, which are this host's.
    #[default]
    Vips,
    /// On the ports of [`RouteTable::ports`](crate::routes::RouteTable), at this address of
    /// ours: the clusterset addresses are the cluster's own and lead here. `[::]` is every address
    /// of both families.
    Ports(IpAddr),
}

/// Which congestion control connections between gateways have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// `bbr` where the kernel has it and allows it: on long lossy ways it moves ten times what
    /// others do, and it fills the queues of others.
    #[default]
    Bbr,
    /// The kernel's default.
    System,
}

/// The data plane's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Whether clients are accepted here.
    pub outbound: bool,
    /// Where they are.
    pub listen_on: ListenOn,
    /// Streams from clients, and as many again from peers; the descriptor limit may allow
    /// fewer.
    pub most_streams: usize,
    /// UDP sessions of clients, and as many again of peers' clients; no more than a quarter of the
    /// descriptor limit. Each of a peer's takes a local port.
    pub most_sessions: usize,
    /// Which congestion control connections between gateways ask for.
    pub congestion: Congestion,
    /// Idle connections that one peer may keep here; the descriptor limit may allow fewer.
    pub idle_per_peer: usize,
    /// Bytes that all streams together hold unwritten before reads shrink.
    pub buffered_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            outbound: true,
            listen_on: ListenOn::default(),
            most_streams: 10_000,
            most_sessions: 16_384,
            congestion: Congestion::default(),
            idle_per_peer: 1_024,
            buffered_bytes: 64 * 1024 * 1024,
        }
    }
}

/// What the data plane works with.
#[derive(Debug)]
pub struct Context {
    /// The own cluster.
    pub cluster: ClusterId,
    /// This process.
    pub replica: ReplicaId,
    /// Where calls go.
    pub routes: SharedTable,
    /// Rises after each published table.
    pub changed: watch::Receiver<u64>,
    /// Makes connections to peers.
    pub dialer: tls::Dialer,
    /// Tells whose certificates are still good.
    pub trust: tls::Trust,
    /// Where this process listens: never dialled as a backend, whatever a manifest says.
    pub listeners: Vec<SocketAddr>,
    /// Addresses of the own cluster's gateways, this one's among them, where they are known:
    /// nothing there is a backend either.
    pub gateways: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    /// Where observations go.
    pub facts: mpsc::Sender<Fact>,
    /// What is counted.
    pub metrics: Metrics,
}

/// The data plane; a cheap handle.
#[derive(Debug, Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

/// What all parts of the data plane share.
#[derive(Debug)]
struct Shared {
    config: Config,
    cluster: ClusterId,
    replica: ReplicaId,
    routes: SharedTable,
    changed: watch::Receiver<u64>,
    dialer: tls::Dialer,
    trust: tls::Trust,
    listeners: Vec<SocketAddr>,
    gateways: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    open_ports: watch::Sender<Arc<OpenPorts>>,
    news: news::News,
    metrics: Metrics,
    pool: pool::Pool,
    streams: Arc<live::Streams>,
    loads: Arc<load::Loads>,
    allowances: allowance::Allowances,
    budget: memory::Budget,
    window: answers::Window,
    udp: udp::Udp,
    places: descriptors::Places,
    guests: Arc<guests::Guests>,
    /// The drain's deadline has passed for clients.
    forced: CancellationToken,
    loose: mpsc::Sender<attempt::Loose>,
    loose_ends: Mutex<Option<mpsc::Receiver<attempt::Loose>>>,
}

impl Shared {
    /// Frames a connection between gateways whose handshake is done.
    fn tunnel<R: role::Role>(
        &self,
        stream: tls::Stream,
        peer: tls::PeerIdentity,
        address: SocketAddr,
    ) -> conn::Conn<R> {
        self.choose_congestion(&stream);
        conn::Conn::new(stream, peer, address, self.trust.own_expiry())
    }

    /// Asks for the congestion control that is wanted, and counts which one is in force.
    fn choose_congestion(&self, stream: &tls::Stream) {
        let socket = SockRef::from(stream.get_ref().0);
        let is_wanted = self.config.congestion == Congestion::Bbr;
        // Not loaded, or not allowed to this user: the kernel's default serves.
        let is_bbr = is_wanted && socket.set_tcp_congestion(b"bbr").is_ok();
        let algorithm = if is_bbr { "bbr" } else { "default" };
        self.metrics.congestion.with_label_values(&[algorithm]).inc();
    }

    /// Whether an idle connection is to be closed: a leaf ended, or the trust in it was
    /// withdrawn.
    fn is_spent<R: role::Role>(&self, conn: &conn::Conn<R>) -> bool {
        conn.is_expired(clock::wall()) || !self.trust.still_trusts(&conn.peer)
    }
}

impl Gateway {
    /// A data plane that does nothing until its loops run.
    #[must_use]
    pub fn new(config: Config, context: Context) -> Self {
        let (loose, loose_ends) = mpsc::channel(LOOSE_ENDS);
        let (ejected, ejections) =
            (context.metrics.ejected.clone(), context.metrics.ejections.clone());
        let places = descriptors::Places::new(config.most_streams);
        let sessions = places.sessions(config.most_sessions);
        let guests = guests::Guests::new(config.idle_per_peer, places.limit());
        Self {
            shared: Arc::new(Shared {
                config,
                cluster: context.cluster,
                replica: context.replica,
                routes: context.routes,
                changed: context.changed,
                dialer: context.dialer,
                trust: context.trust,
                listeners: context.listeners,
                gateways: context.gateways,
                open_ports: watch::channel(Arc::default()).0,
                news: news::News::new(context.facts, context.metrics.facts_dropped.clone()),
                udp: udp::Udp::new(sessions, context.metrics.udp.clone()),
                metrics: context.metrics,
                pool: pool::Pool::default(),
                streams: Arc::default(),
                loads: Arc::new(load::Loads::new(ejected, ejections)),
                allowances: allowance::Allowances::default(),
                budget: memory::Budget::new(config.buffered_bytes),
                window: answers::Window::default(),
                places,
                guests: Arc::new(guests),
                forced: CancellationToken::new(),
                loose,
                loose_ends: Mutex::new(Some(loose_ends)),
            }),
        }
    }

    /// The allocated ports that accept clients at this moment and lead somewhere; none with [`ListenOn::Vips`], nor
    /// once it drains.
    #[must_use]
    pub fn open_ports(&self) -> watch::Receiver<Arc<OpenPorts>> {
        self.shared.open_ports.subscribe()
    }
}
