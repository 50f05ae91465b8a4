//! Sockets for clients: on clusterset addresses, as many as the route table has ports of a protocol
//! that somebody serves; or, where those addresses are the cluster's own and lead here, on the
//! allocated ports that stand for them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::Gauge;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::metrics::as_gauge;
use super::{ListenOn, Shared, bind, order};
use crate::backoff::Backoff;
use crate::clock;
use crate::drain::{Phase, Watch};
use crate::model::{Callee, PortKey, PortNumber, Protocol};
use crate::routes::{OpenPorts, RemotePod, RouteTable};

/// A failed bind is tried again between these.
const BIND_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The service, or one pod of it, and the port that a listener stands for.
pub(super) type Serves = (Callee, PortKey);
/// Serves a listener until it is told to stop.
pub(super) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
/// Binds a listener.
type Listen = fn(&Arc<Shared>, SocketAddr, Serves, CancellationToken) -> io::Result<Task>;
type Wanted = BTreeMap<SocketAddr, Serves>;

/// The listeners of one protocol: those there are and those there should be.
pub(super) struct Listeners {
    shared: Arc<Shared>,
    protocol: Protocol,
    bind: Listen,
    gauge: Gauge,
    open: HashMap<SocketAddr, Open>,
    failed: HashMap<SocketAddr, (Backoff, Instant)>,
    tasks: JoinSet<()>,
}

struct Open {
    serves: Serves,
    stop: CancellationToken,
    task: AbortHandle,
}

/// Where clients are to be heard.
fn wanted(table: &RouteTable, on: ListenOn, protocol: Protocol) -> Wanted {
    match on {
        ListenOn::Vips => served_vips(table, protocol),
        ListenOn::Ports(at) => allocated_ports(table, at, protocol),
    }
}

/// How many sockets for clients there should be, of every protocol.
pub(super) fn count(table: &RouteTable, on: ListenOn) -> usize {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| wanted(table, on, protocol).len()).iter().sum()
}

/// The ports of the book. Whether anybody serves them makes no difference:
/// a port that closed and opened again would be refused by clients in between.
fn allocated_ports(table: &RouteTable, at: IpAddr, protocol: Protocol) -> Wanted {
    let ours = table.ports.iter().filter(|((of, _), _)| *of == protocol);
    ours.map(|((_, port), serves)| (SocketAddr::new(at, port.get()), serves.clone())).collect()
}

/// The ports of clusterset addresses that somebody serves.
fn served_vips(table: &RouteTable, protocol: Protocol) -> Wanted {
    let mut wanted = Wanted::new();
    for (address, callee) in &table.vips {
        let Some(route) = table.services.get(&callee.service) else { continue };
        if let Some(name) = &callee.pod {
            wanted.extend(served_pod((*address, protocol), callee, route.pods.get(name)));
            continue;
        }
        for port in route.ports.iter().filter(|port| order::is_served(port)) {
            if port.spec.protocol == protocol {
                let address = SocketAddr::new(*address, port.spec.port.get());
                wanted.insert(address, (callee.clone(), port.spec.key()));
            }
        }
    }
    wanted
}

/// The ports of a pod's clusterset address.
fn served_pod(
    (address, protocol): (IpAddr, Protocol),
    callee: &Callee,
    pod: Option<&RemotePod>,
) -> impl Iterator<Item = (SocketAddr, Serves)> {
    let listens = pod.filter(|pod| pod.usable).map(RemotePod::listens).unwrap_or_default();
    let ours = listens.into_iter().filter(move |((of, _), _)| *of == protocol);
    ours.map(move |((_, number), key)| {
        (SocketAddr::new(address, number.get()), (callee.clone(), key))
    })
}

impl Listeners {
    /// None so far.
    pub(super) fn new(shared: Arc<Shared>, protocol: Protocol, bind: Listen, gauge: Gauge) -> Self {
        let (open, failed, tasks) = (HashMap::new(), HashMap::new(), JoinSet::new());
        Self { shared, protocol, bind, gauge, open, failed, tasks }
    }

    /// Follows the route table until the drain.
    pub(super) async fn run(mut self, mut drain: Watch) -> Self {
        let mut changed = self.shared.changed.clone();
        loop {
            self.reconcile();
            let retry = self.next_retry();
            tokio::select! {
                Ok(()) = changed.changed() => {}
                Some(ended) = self.tasks.join_next() => self.shared.note_panic(ended),
                () = tokio::time::sleep_until(retry.into()) => {}
                () = drain.reached(Phase::Draining) => return self,
            }
        }
    }

    fn reconcile(&mut self) {
        let table = self.shared.routes.load_full();
        let on = self.shared.config.listen_on;
        let wanted = wanted(&table, on, self.protocol);
        self.open.retain(|address, open| {
            let keep = wanted.get(address) == Some(&open.serves) && !open.task.is_finished();
            if !keep {
                open.stop.cancel();
            }
            keep
        });
        self.failed.retain(|address, _| wanted.contains_key(address));
        // Told by one task: of TCP.
        if self.protocol == Protocol::Tcp {
            self.shared.places.set_listeners(count(&table, on));
        }
        for (address, serves) in wanted {
            let waits = self.failed.get(&address).is_some_and(|(_, at)| *at > clock::now());
            if !waits && !self.open.contains_key(&address) {
                self.listen(address, serves);
            }
        }
        self.gauge.set(as_gauge(self.open.len()));
        self.publish_open(&table);
    }

    /// Tells which allocated ports accept clients and lead somewhere, as seen from here: a replica
    /// that has not heard a peer yet would only reset them. Said only when it changed.
    fn publish_open(&self, table: &RouteTable) {
        if self.shared.config.listen_on == ListenOn::Vips {
            return;
        }
        let leads = |(callee, port): &Serves| {
            let route = table.services.get(&callee.service).and_then(|route| route.port(*port));
            route.is_some_and(|route| order::serves(route, callee.pod.as_ref()))
        };
        let open = self.open.iter().filter(|(_, open)| leads(&open.serves));
        let ports = open.filter_map(|(at, _)| PortNumber::new(at.port().into()).ok());
        let ours: OpenPorts = ports.map(|port| (self.protocol, port)).collect();
        self.shared.open_ports.send_if_modified(|before| {
            let of_others = before.iter().filter(|(protocol, _)| *protocol != self.protocol);
            let open: OpenPorts = of_others.copied().chain(ours).collect();
            let differs = **before != open;
            if differs {
                *before = Arc::new(open);
            }
            differs
        });
    }

    fn listen(&mut self, address: SocketAddr, serves: Serves) {
        let stop = CancellationToken::new();
        match (self.bind)(&self.shared, address, serves.clone(), stop.clone()) {
            Ok(task) => {
                if self.failed.remove(&address).is_some() {
                    tracing::info!(%address, service = %serves.0, "listening at last");
                }
                let task = self.tasks.spawn(task);
                self.open.insert(address, Open { serves, stop, task });
            }
            Err(error) => {
                let protocol = self.protocol;
                let (_, next) = self.failed.entry(address).or_insert_with(|| {
                    tracing::warn!(
                        %address, %protocol, service = %serves.0, %error,
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

    fn next_retry(&self) -> Instant {
        let far = clock::now() + Duration::from_secs(3600);
        self.failed.values().map(|(_, at)| *at).min().unwrap_or(far)
    }

    /// No more clients; what they began runs until it ends, or is ended by the deadline.
    pub(super) async fn finish(mut self, mut drain: Watch) {
        for (_, open) in self.open.drain() {
            open.stop.cancel();
        }
        self.publish_open(&self.shared.routes.load_full());
        self.gauge.set(0.0);
        let shared = Arc::clone(&self.shared);
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
        shared.force();
        ended.await;
    }
}
