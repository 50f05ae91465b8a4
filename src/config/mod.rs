//! What the user wrote, checked: one YAML file becomes one [`Config`].
//!
//! - A [`Config`] exists only when every field of it is right; there is no half-checked one.
//! - Every fault of the file is reported at once, with line, column, field and remedy.
//! - Whatever is left out has the default named here; relative paths are relative to the file.
//! - [`reload`] says what a changed file changes while running; [`check`] looks at what the
//!   configuration points at (keys, manifests, addresses).
//!
//! Nothing here starts anything: `app` makes each module's own configuration from this one.

pub mod check;
mod dns_tls;
mod errors;
mod fields;
mod kubernetes;
mod load;
mod localities;
mod node;
pub mod reload;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::catalog::NamespaceRules;
use crate::dns::{DEFAULT_TCP_PER_SOURCE, DEFAULT_TCP_TOTAL, Io};
use crate::model::{ClusterId, DnsName, Locality, PeerAddress};
use crate::telemetry::LogFormat;
pub use dns_tls::DnsTls;
pub use errors::{At, Errors, Problem};
pub use kubernetes::{Kubernetes, Pod};

/// Largest configuration file, in bytes.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

/// One cluster's agent, as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The own cluster; must be the certificate's.
    pub cluster: ClusterId,
    /// The DNS zone and trust domain; `clusterset.local` by default.
    pub clusterset: DnsName,
    /// Equal and non-empty on two sides: their endpoints reach each other directly.
    pub network: Box<str>,
    /// Where the cluster stands.
    pub locality: Locality,
    /// The source of truth.
    pub source: Source,
    /// Where the last known good is kept; `<cluster>.state` beside the file by default.
    pub state_dir: PathBuf,
    /// Ranges for clusterset addresses, at most one per family; none with Kubernetes, where they
    /// are those of Services.
    pub vips: Vec<IpNet>,
    /// The port between clusters and the listeners for clients.
    pub gateway: Gateway,
    /// Names.
    pub dns: Dns,
    /// The admin port.
    pub admin: Admin,
    /// `cert.pem`, `key.pem`, `ca.pem`, optional `ca.key`, `peers/<cluster>.pem`. `None` only
    /// with Kubernetes, where it is the Secret mounted so that a start needs no API server.
    pub trust_dir: Option<PathBuf>,
    /// The other clusters; none with Kubernetes, where they are Peer objects.
    pub peers: Vec<Peer>,
    /// The log.
    pub log: Log,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, Errors> {
        let source = load::read(path).map_err(|problem| Errors::new(path, vec![problem]))?;
        Self::parse(&source, path)
    }

    /// Checks a file's text; `path` is named in errors and anchors relative paths.
    pub fn parse(source: &str, path: &Path) -> Result<Self, Errors> {
        load::config(source, path).map_err(|problems| Errors::new(path, problems))
    }
}

/// Where exports and imports come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory of Kubernetes manifests.
    Files(PathBuf),
    /// A Kubernetes API server.
    Kubernetes(Box<Kubernetes>),
}

/// `gateway:`.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// Where peers dial in.
    pub listen: Vec<SocketAddr>,
    /// What peers are told to dial; empty: what they have configured.
    pub advertise: Vec<PeerAddress>,
    /// Whether clusterset addresses are listened on; `false`: they are answered only.
    pub outbound: bool,
    /// Which congestion control connections between gateways ask for.
    pub congestion: Congestion,
    /// How long open streams may finish at shutdown.
    pub drain: Duration,
    /// How long new streams are accepted after shutdown was announced (load balancers lag).
    pub shutdown_delay: Duration,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 8443))],
            advertise: Vec::new(),
            outbound: true,
            congestion: Congestion::Bbr,
            drain: Duration::from_secs(30),
            shutdown_delay: Duration::from_secs(15),
        }
    }
}

/// Which congestion control connections between gateways ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    /// `bbr` where the kernel allows it.
    Bbr,
    /// The kernel's default.
    System,
}

/// `dns:`.
#[derive(Debug, Clone, PartialEq)]
pub struct Dns {
    /// Where questions are taken, UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The answers' TTL, whole seconds.
    pub ttl: Duration,
    /// How the sockets are driven.
    pub io: Io,
    /// Who may ask; empty: everybody who reaches the socket.
    pub allow: Vec<IpNet>,
    /// Resolvers that ask for many clients: exempt from per-source limits, and believed about the
    /// subnets of those clients.
    pub forwarders: Vec<IpNet>,
    /// Where clients stand; those of no network here stand where the cluster does.
    pub localities: Vec<ClientPlace>,
    /// Most TCP connections of one source at a time.
    pub tcp_per_source: usize,
    /// Most of all sources.
    pub tcp_total: usize,
    /// Questions over TLS.
    pub tls: DnsTls,
    /// How long questions are answered after shutdown was announced.
    pub shutdown_delay: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 5353))],
            ttl: Duration::from_secs(5),
            io: Io::Auto,
            allow: Vec::new(),
            forwarders: Vec::new(),
            localities: Vec::new(),
            tcp_per_source: DEFAULT_TCP_PER_SOURCE,
            tcp_total: DEFAULT_TCP_TOTAL,
            tls: DnsTls::default(),
            shutdown_delay: Duration::from_secs(5),
        }
    }
}

/// One of `dns.localities`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientPlace {
    /// Where the clients' addresses lie; no network stands in two entries, of nested ones the
    /// longest prefix counts.
    pub networks: Vec<IpNet>,
    /// Where they stand; the region is not empty.
    pub locality: Locality,
}

/// `admin:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Everything: probes, metrics, state, explain.
    pub listen: SocketAddr,
    /// A second listener with `/livez`, `/readyz` and `/metrics` only.
    pub probes: Option<SocketAddr>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9900)), probes: None }
    }
}

/// One of `peers:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name, as in its certificate.
    pub cluster: ClusterId,
    /// Where it is reached; at least one.
    pub addresses: Vec<PeerAddress>,
    /// Where its endpoints may lie; empty: it is believed about no endpoint address.
    pub networks: Vec<IpNet>,
    /// What is imported from it.
    pub namespaces: NamespaceRules,
}

/// `log:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Directives of `tracing_subscriber::EnvFilter`, checked.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

#[cfg(test)]
mod tests;
