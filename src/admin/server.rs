//! The sockets of the admin port: accept, make room, spawn; every connection has its deadlines.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::{IntCounter, Registry};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use super::answer::{Source, everything, probes};
use super::order::Order;
use super::{Config, View};
use crate::telemetry::{Throttle, panic_counter};
use crate::{clock, drain};

/// Connections served at once on one listener; when full, the oldest is closed.
const MAX_CONNECTIONS: usize = 64;
/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 128;
/// For the whole head of a request, also between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole connection, however slowly it reads.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest head read, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between log lines about failing accepts.
const ACCEPT_LOG_EVERY: Duration = Duration::from_secs(10);

/// Why the admin port cannot be opened.
#[derive(Debug, Error)]
pub enum Error {
    /// The address is not to be had.
    #[error("cannot listen on {address}: {source}; free the port or change {field}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The field of the configuration.
        field: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The registry has the admin port's metrics already.
    #[error("cannot register the admin port's metrics: {0}; bind it once per registry")]
    Metrics(#[from] prometheus::Error),
}

/// The admin port, bound.
#[derive(Debug)]
pub struct Server {
    whole: Door,
    probes: Option<Door>,
    panics: IntCounter,
}

/// One listener with what it answers.
#[derive(Debug)]
struct Door {
    socket: TcpListener,
    address: SocketAddr,
    paths: Router,
}

impl Server {
    /// Binds at once (call it inside a tokio runtime); it answers from `run` on. Without `orders`
    /// none are taken.
    pub fn bind(
        config: Config,
        view: Arc<dyn View>,
        orders: Option<mpsc::Sender<Order>>,
        registry: Registry,
    ) -> Result<Self, Error> {
        let panics = panic_counter(&registry, "admin")?;
        let source = Source { view, registry, orders };
        let whole = Door::open(config.listen, "admin.listen", everything(source.clone()))?;
        let probes = config
            .probes
            .map(|address| Door::open(address, "admin.probes", probes(source)))
            .transpose()?;
        Ok(Self { whole, probes, panics })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.whole.address
    }

    /// Where the second listener listens, if there is one.
    #[must_use]
    pub fn probes_addr(&self) -> Option<SocketAddr> {
        self.probes.as_ref().map(|door| door.address)
    }

    /// Answers until drain is forced.
    pub async fn run(self, mut drain: drain::Watch) -> Result<(), Error> {
        let second = async {
            match self.probes {
                Some(door) => door.serve(&self.panics).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.whole.serve(&self.panics) => {}
            () = second => {}
            () = drain.reached(drain::Phase::Forced) => {}
        }
        Ok(())
    }
}

impl Door {
    fn open(address: SocketAddr, field: &'static str, paths: Router) -> Result<Self, Error> {
        let bound = listen(address).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (bound, socket) = bound.map_err(|source| Error::Bind { address, field, source })?;
        Ok(Self { socket, address: bound, paths })
    }

    /// Never ends by itself. Connections end with it.
    async fn serve(self, panics: &IntCounter) {
        let mut tasks = JoinSet::new();
        let mut by_age = VecDeque::new();
        let brake = Throttle::new(ACCEPT_LOG_EVERY);
        loop {
            tokio::select! {
                Some(ended) = tasks.join_next() => count_panic(panics, ended),
                accepted = self.socket.accept() => match accepted {
                    Ok((tcp, _)) => {
                        make_room(&mut by_age);
                        by_age.push_back(tasks.spawn(converse(tcp, self.paths.clone())));
                    }
                    Err(error) => pause(&error, &brake).await,
                },
            }
        }
    }
}

/// The oldest connection goes when all places are taken: an answer takes milliseconds, so it is
/// one that idles, and a probe must never wait behind those.
fn make_room(by_age: &mut VecDeque<AbortHandle>) {
    if by_age.len() >= MAX_CONNECTIONS {
        by_age.retain(|connection| !connection.is_finished());
    }
    if by_age.len() >= MAX_CONNECTIONS
        && let Some(oldest) = by_age.pop_front()
    {
        oldest.abort();
    }
}

/// One connection. How it ended is the client's business.
async fn converse(tcp: TcpStream, paths: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
    let service = TowerToHyperService::new(paths);
    let connection = http.serve_connection(TokioIo::new(tcp), service);
    let _ended = timeout(CONNECTION_TIMEOUT, connection).await;
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Descriptors and memory come back; the loop waits for them and never ends.
async fn pause(error: &io::Error, brake: &Throttle) {
    if let Some(unsaid) = brake.pass(clock::now()) {
        tracing::warn!(%error, unsaid, "cannot accept on the admin port; raise ulimit -n");
    }
    sleep(ACCEPT_PAUSE).await;
}

fn count_panic(panics: &IntCounter, ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        panics.inc();
        tracing::error!(%error, "an admin connection's task panicked; only that one ended");
    }
}
