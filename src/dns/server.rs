//! Binding the sockets, and running one loop per socket.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};

use super::answers::SharedAnswers;
use super::metrics::Metrics;
use super::respond::Policy;
use super::shared::Shared;
use super::slots::Slots;
use super::tcp::Door;
use super::udp::{self, Io, Sockets};
use super::{dot, tcp};
use crate::drain::{Phase, Watch};

/// TCP connections that one source may hold.
pub const DEFAULT_TCP_PER_SOURCE: usize = 256;
/// TCP connections in all.
pub const DEFAULT_TCP_TOTAL: usize = 4096;

/// Connections that wait to be accepted, measured with 24 000 clients at once: with four times as
/// many places those beyond a cap wait four times as long for their end, with half of them others
/// find none, and try again a second later.
const BACKLOG: i32 = 1024;
/// How often another port is tried when port 0 gave one that UDP or TCP cannot have.
const PORT_TRIES: usize = 16;

/// What the server is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Addresses to listen on, each over UDP and TCP; port 0 takes one port free on both. `[::]` is
    /// IPv6 only.
    pub listen: Vec<SocketAddr>,
    /// How UDP sockets are driven.
    pub io: Io,
    /// TTL of positive answers and of the SOA minimum, seconds.
    pub ttl_seconds: u32,
    /// Sources that may ask; empty is everybody. Others are answered REFUSED.
    pub allow: Vec<IpNet>,
    /// Known resolvers outside the private ranges, never rate-limited.
    pub forwarders: Vec<IpNet>,
    /// TCP connections that one source (IPv4 address, IPv6 /64) may hold.
    pub tcp_per_source: usize,
    /// TCP connections in all.
    pub tcp_total: usize,
}

/// Why the server does not start, or ended.
#[derive(Debug, Error)]
pub enum Error {
    /// An address cannot be had.
    #[error(
        "cannot listen for dns on {address} over {protocol}; stop what holds it, or give another address in dns.listen"
    )]
    Bind {
        /// Which.
        address: SocketAddr,
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An address for TLS cannot be had.
    #[error(
        "cannot listen for dns over tls on {address}; stop what holds it, or give another address in dns.tls_listen"
    )]
    BindTls {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no thread for a socket.
    #[error(
        "cannot start a thread for a dns socket; raise the limit of processes (ulimit -u, pids.max)"
    )]
    Thread(#[source] io::Error),
    /// A loop panicked.
    #[error("a dns socket's loop died; this is a bug, report it with the log")]
    Died(#[source] JoinError),
    /// A loop ended although nobody asked it to.
    #[error("a dns socket's loop ended by itself; this is a bug, report it with the log")]
    EndedEarly,
}

/// The bound server.
#[derive(Debug)]
pub struct Server {
    bound: Vec<Bound>,
    pub(super) secure: Option<dot::Secure>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Bound {
    address: SocketAddr,
    udp: Sockets,
    tcp: TcpListener,
}

/// Changes the TTL while the server runs (`dns.ttl` applies live).
#[derive(Debug, Clone)]
pub struct Ttl(Arc<Shared>);

impl Server {
    /// Binds every address, or none. Must be called within the runtime that will run it.
    pub fn bind(config: Config, answers: SharedAnswers, metrics: Metrics) -> Result<Self, Error> {
        let bind = |address: &SocketAddr| bind(*address, config.io);
        let bound = config.listen.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let slots = Slots::new(config.tcp_per_source, config.tcp_total, metrics.clone());
        let Config { ttl_seconds, allow, forwarders, .. } = config;
        let policy = ArcSwap::from_pointee(Policy { ttl_seconds, allow, forwarders });
        let shared = Arc::new(Shared { policy, answers, metrics, slots });
        Ok(Self { bound, secure: None, shared })
    }

    /// The addresses bound, in the configuration's order.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.bound.iter().map(|bound| bound.address).collect()
    }

    /// A handle that changes the TTL.
    #[must_use]
    pub fn ttl(&self) -> Ttl {
        Ttl(Arc::clone(&self.shared))
    }

    /// Answers until `drain` reaches [`Phase::Draining`]; then what has come is still answered,
    /// and the sockets close. Connections that are left at [`Phase::Forced`] are cut.
    pub async fn run(self, mut drain: Watch) -> Result<(), Error> {
        let mut loops = JoinSet::new();
        if self.bound.is_empty() && self.tls_addrs().is_empty() {
            drain.reached(Phase::Draining).await;
        }
        for Bound { udp, tcp, .. } in self.bound {
            udp.start(&self.shared, &drain, &mut loops).map_err(Error::Thread)?;
            let shared = Arc::clone(&self.shared);
            loops.spawn(tcp::serve(tcp, Door::Plain, shared, drain.clone()));
        }
        if let Some(dot::Secure { listeners, certificate }) = self.secure {
            for (address, tcp) in listeners {
                tracing::info!(%address, "dns over tls is listening");
                let door = Door::Tls(Arc::clone(&certificate));
                loops.spawn(tcp::serve(tcp, door, Arc::clone(&self.shared), drain.clone()));
            }
        }
        while let Some(ended) = loops.join_next().await {
            ended.map_err(Error::Died)?;
            if drain.phase() < Phase::Draining {
                return Err(Error::EndedEarly);
            }
        }
        Ok(())
    }
}

impl Ttl {
    /// Answers carry this many seconds from the next batch on.
    pub fn set(&self, seconds: u32) {
        self.0.policy.rcu(|policy| {
            let mut policy = Policy::clone(policy);
            policy.ttl_seconds = seconds;
            policy
        });
    }
}

/// One address over both transports. With port 0 the TCP socket chooses.
fn bind(address: SocketAddr, io: Io) -> Result<Bound, Error> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_both(address, io) {
            Err(_) if tries > 0 => {}
            result => return result,
        }
    }
}

fn bind_both(address: SocketAddr, io: Io) -> Result<Bound, Error> {
    let fault = |protocol| move |source| Error::Bind { address, protocol, source };
    let tcp = listen_tcp(address).map_err(fault("tcp"))?;
    let address = tcp.local_addr().map_err(fault("tcp"))?;
    let udp = Sockets::bind(address, io, udp::lanes()).map_err(fault("udp"))?;
    Ok(Bound { address, udp, tcp })
}

pub(super) fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    only_v6(&socket, address)?;
    // A restart must not wait for connections of the process before it; two listeners stay
    // impossible.
    socket.set_reuse_address(true)?;
    // Connections inherit it, which saves each a call: answers are never held back.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn only_v6(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() { socket.set_only_v6(true) } else { Ok(()) }
}
