//! Listeners for clients: on clusterset addresses, as many as the route table has TCP ports that
//! somebody serves; or, where those addresses are the cluster's own and lead here, on the
//! allocated ports that stand for them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::live::{Cut, Order, Way};
use super::metrics::as_gauge;
use super::{Gateway, ListenOn, Shared, bind, order};
use crate::backoff::Backoff;
use crate::clock;
use crate::drain::{Phase, Watch};
use crate::model::{PortKey, PortNumber, Protocol, ServiceKey, canonical};
use crate::routes::{OpenPorts, RouteTable};

/// Pause after the system had no descriptor for a client.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);
/// A failed bind is tried again between these.
const BIND_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

type Wanted = BTreeMap<SocketAddr, (ServiceKey, PortKey)>;

/// The listeners there are and those there should be.
struct Listeners {
    shared: Arc<Shared>,
    open: HashMap<SocketAddr, Open>,
    failed: HashMap<SocketAddr, (Backoff, std::time::Instant)>,
    tasks: JoinSet<()>,
    /// UDP and SCTP ports were mentioned.
    mentioned: bool,
}

struct Open {
    serves: (ServiceKey, PortKey),
    stop: CancellationToken,
    task: AbortHandle,
}

impl Gateway {
    /// Listens for clients as [`Config::listen_on`](super::Config) says until the drain stops it,
    /// then lets open streams run to the deadline.
    pub async fn run_outbound(self, drain: Watch) {
        let shared = self.shared;
        let mut stop = drain.clone();
        if !shared.config.outbound {
            return stop.reached(Phase::Draining).await;
        }
        let mut listeners = Listeners {
            shared: Arc::clone(&shared),
            open: HashMap::new(),
            failed: HashMap::new(),
            tasks: JoinSet::new(),
            mentioned: false,
        };
        let mut changed = shared.changed.clone();
        loop {
            listeners.reconcile();
            let retry = listeners.next_retry();
            tokio::select! {
                Ok(()) = changed.changed() => {}
                Some(ended) = listeners.tasks.join_next() => shared.note_panic(ended),
                () = tokio::time::sleep_until(retry.into()) => {}
                () = stop.reached(Phase::Draining) => break,
            }
        }
        listeners.finish(drain).await;
    }
}

/// Where clients are to be accepted.
fn wanted(table: &RouteTable, on: ListenOn) -> Wanted {
    match on {
        ListenOn::Vips => served_vips(table),
        ListenOn::Ports(at) => allocated_ports(table, at),
    }
}

/// The TCP ports of the book. Whether anybody serves them makes no difference:
/// a port that closed and opened again would be refused by clients in between.
fn allocated_ports(table: &RouteTable, at: IpAddr) -> Wanted {
    let tcp = table.ports.iter().filter(|((protocol, _), _)| *protocol == Protocol::Tcp);
    tcp.map(|((_, port), serves)| (SocketAddr::new(at, port.get()), serves.clone())).collect()
}

/// The TCP ports of clusterset addresses that somebody serves.
fn served_vips(table: &RouteTable) -> Wanted {
    let mut wanted = Wanted::new();
    for (address, key) in &table.vips {
        let Some(route) = table.services.get(key) else { continue };
        for port in route.ports.iter().filter(|port| order::is_served(port)) {
            if port.spec.protocol == Protocol::Tcp {
                let address = SocketAddr::new(*address, port.spec.port.get());
                wanted.insert(address, (key.clone(), port.spec.key()));
            }
        }
    }
    wanted
}

impl Listeners {
    fn reconcile(&mut self) {
        let table = self.shared.routes.load_full();
        self.mention_others(&table);
        let wanted = wanted(&table, self.shared.config.listen_on);
        self.open.retain(|address, open| {
            let keep = wanted.get(address) == Some(&open.serves) && !open.task.is_finished();
            if !keep {
                open.stop.cancel();
            }
            keep
        });
        self.failed.retain(|address, _| wanted.contains_key(address));
        self.shared.places.set_listeners(wanted.len());
        for (address, serves) in wanted {
            let waits = self.failed.get(&address).is_some_and(|(_, at)| *at > clock::now());
            if !waits && !self.open.contains_key(&address) {
                self.listen(address, serves);
            }
        }
        self.shared.metrics.listeners.set(as_gauge(self.open.len()));
        self.publish_open(&table);
    }

    /// Tells which allocated ports accept clients and lead somewhere, as seen from here: a replica
    /// that has not heard a peer yet would only reset them. Said only when it changed.
    fn publish_open(&self, table: &RouteTable) {
        if self.shared.config.listen_on == ListenOn::Vips {
            return;
        }
        let leads = |(key, port): &(ServiceKey, PortKey)| {
            let route = table.services.get(key);
            route.and_then(|route| route.port(*port)).is_some_and(order::is_served)
        };
        let open = self.open.iter().filter(|(_, open)| leads(&open.serves));
        let ports = open.filter_map(|(at, _)| PortNumber::new(at.port().into()).ok());
        let open: OpenPorts = ports.map(|port| (Protocol::Tcp, port)).collect();
        self.shared.open_ports.send_if_modified(|before| {
            let differs = **before != open;
            if differs {
                *before = Arc::new(open);
            }
            differs
        });
    }

    fn mention_others(&mut self, table: &RouteTable) {
        let other = |key: &ServiceKey| {
            table.services.get(key).is_some_and(|route| {
                route.ports.iter().any(|port| port.spec.protocol != Protocol::Tcp)
            })
        };
        if !self.mentioned && table.vips.values().any(other) {
            self.mentioned = true;
            tracing::info!("UDP and SCTP ports of clusterset addresses are not served yet");
        }
    }

    fn listen(&mut self, address: SocketAddr, serves: (ServiceKey, PortKey)) {
        match bind::listen(address) {
            Ok(listener) => {
                if self.failed.remove(&address).is_some() {
                    tracing::info!(%address, service = %serves.0, "listening at last");
                }
                let stop = CancellationToken::new();
                let accept =
                    accept(Arc::clone(&self.shared), listener, serves.clone(), stop.clone());
                let task = self.tasks.spawn(accept);
                self.open.insert(address, Open { serves, stop, task });
            }
            Err(error) => {
                let (_, next) = self.failed.entry(address).or_insert_with(|| {
                    tracing::warn!(
                        %address, service = %serves.0, %error,
                        "cannot listen; {}; tried again", bind::remedy(&error)
                    );
                    let (min, max) = BIND_PAUSE;
                    let backoff = Backoff::try_new(min, max).expect("the range is in order");
                    (backoff, clock::now())
                });
                *next = clock::now();
                if let Some((backoff, next)) = self.failed.get_mut(&address) {
                    *next += backoff.pause();
                }
            }
        }
    }

    fn next_retry(&self) -> std::time::Instant {
        let far = clock::now() + Duration::from_secs(3600);
        self.failed.values().map(|(_, at)| *at).min().unwrap_or(far)
    }

    /// No more clients; streams run until they end or are ended.
    async fn finish(mut self, mut drain: Watch) {
        for (_, open) in self.open.drain() {
            open.stop.cancel();
        }
        self.publish_open(&self.shared.routes.load_full());
        let shared = Arc::clone(&self.shared);
        shared.metrics.listeners.set(0.0);
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                shared.note_panic(ended);
            }
        };
        tokio::pin!(ended);
        tokio::select! {
            () = &mut ended => return,
            () = drain.reached(Phase::Forced) => {}
        }
        shared.forced.cancel();
        shared.streams.tell(Order::Cut(Cut::Shutdown), |live| live.way != Way::In);
        ended.await;
    }
}

/// Accepts clients until told to stop, then waits for their streams.
async fn accept(
    shared: Arc<Shared>,
    listener: TcpListener,
    serves: (ServiceKey, PortKey),
    stop: CancellationToken,
) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = clients.join_next() => shared.note_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((client, from)) => {
                    // Thousands of listeners share the permits, so one is taken only for a
                    // client that is there; the others of this port wait in the kernel.
                    let permit = tokio::select! {
                        Some(permit) = shared.places.client() => permit,
                        () = stop.cancelled() => break,
                    };
                    let (key, port) = serves.clone();
                    // On a dual-stack socket an IPv4 client has a mapped address.
                    let from = SocketAddr::new(canonical(from.ip()), from.port());
                    let served = Arc::clone(&shared).serve_client(client, from, key, port);
                    clients.spawn(async move {
                        served.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "accepting failed");
                    tokio::time::sleep(SHORTAGE_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while let Some(ended) = clients.join_next().await {
        shared.note_panic(ended);
    }
}
