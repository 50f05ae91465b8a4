//! Listeners on clusterset addresses, as many as the route table has TCP ports that somebody
//! serves.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol as Transport, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::live::{Cut, Order, Way};
use super::metrics::as_gauge;
use super::{Gateway, Shared, order};
use crate::backoff::Backoff;
use crate::clock;
use crate::drain::{Phase, Watch};
use crate::model::{PortKey, Protocol, ServiceKey};
use crate::routes::RouteTable;

/// Connections the kernel holds for us.
const BACKLOG: i32 = 1024;
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
    /// Listens on every clusterset address and port until the drain stops it, then lets open
    /// streams run to the deadline.
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

/// The TCP ports of clusterset addresses that somebody serves.
fn wanted(table: &RouteTable) -> Wanted {
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
        let wanted = wanted(&table);
        self.open.retain(|address, open| {
            let keep = wanted.get(address) == Some(&open.serves) && !open.task.is_finished();
            if !keep {
                open.stop.cancel();
            }
            keep
        });
        self.failed.retain(|address, _| wanted.contains_key(address));
        self.shared.clients.set_listeners(wanted.len());
        for (address, serves) in wanted {
            let waits = self.failed.get(&address).is_some_and(|(_, at)| *at > clock::now());
            if !waits && !self.open.contains_key(&address) {
                self.listen(address, serves);
            }
        }
        self.shared.metrics.listeners.set(as_gauge(self.open.len()));
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
        match bind(address) {
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
                        "cannot listen; {}; tried again", remedy(&error)
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
        for open in self.open.values() {
            open.stop.cancel();
        }
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
                        Some(permit) = shared.clients.permit() => permit,
                        () = stop.cancelled() => break,
                    };
                    let (key, port) = serves.clone();
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

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Transport::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What helps against a failed bind.
fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ADDRINUSE) => "free the port: `ss -ltnp` shows who has it",
        Some(Errno::ADDRNOTAVAIL) => {
            "give this host the address (`ip addr add ADDRESS dev lo`) or choose `vips` inside 127.0.0.0/8"
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            "ports below 1024 need CAP_NET_BIND_SERVICE or the sysctl net.ipv4.ip_unprivileged_port_start"
        }
        Some(Errno::MFILE | Errno::NFILE) => "raise the descriptor limit (LimitNOFILE)",
        _ => "see the error",
    }
}
