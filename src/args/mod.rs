//! The command line: what may be written, and the help that teaches it.
//!
//! Only parsing happens here; `main` says which command runs. A command line that is wrong ends
//! with exit 2, like a wrong configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::admin::zone::Format as ZoneFormat;
use crate::commands::ask::Listing;
use crate::commands::output::Format;
use crate::config::Pod;
use crate::model::{ClusterId, DnsName, Drain};
use crate::wire::control::{PROTOCOL_MAX, PROTOCOL_MIN};

/// Where `run` listens for commands unless configured otherwise.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);

/// What `--version` prints after the name: version, git id, protocol range.
#[must_use]
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let id = option_env!("PORTOLAN_GIT_ID").unwrap_or("unknown");
        let version = env!("CARGO_PKG_VERSION");
        format!("{version} (git {id}, protocol {PROTOCOL_MIN} to {PROTOCOL_MAX})")
    });
    &VERSION
}

/// What the downward API tells a pod about itself.
///
/// # Errors
/// A variable is set to what it cannot be; the text names it.
#[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
pub fn pod() -> Result<Pod, String> {
    Pod::read(|name| std::env::var(name).ok())
}

const ABOUT: &str = "\
A multi-cluster service mesh: one name for a service in every cluster, answered by the nearest \
healthy place, over mutual TLS; no sidecar, no CNI condition, no hub.";

const EXAMPLES: &str = "\
Examples:
  portolan demo                               three clouds on this machine; nothing else needed
  portolan trust init --cluster paris --out trust
  portolan check --config paris.yaml          find every fault before starting
  portolan run --config paris.yaml            one cluster's agent
  portolan explain web.shop:80                where a connection goes now, and why
  portolan status -o json                     for scripts

Exit codes: 0 good; 1 it ran and something is wrong; 2 the command line or the configuration is
wrong; 3 the agent cannot be reached.";

/// The whole command line.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "portolan", version = version(), about = ABOUT, after_help = EXAMPLES)]
#[command(subcommand_required = true, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run one cluster's agent
    ///
    /// Reads the configuration, exports and imports services, answers DNS, listens for clients
    /// and peers. The file is watched: peers, locality, dns.ttl and log.filter apply while
    /// running. SIGTERM or Ctrl-C drains and ends; a second one ends at once.
    #[command(after_help = "Example:\n  portolan run --config paris.yaml")]
    Run(RunArgs),
    /// Show everything on one machine: three clouds, a load, and failures on purpose
    ///
    /// Needs no root, no network and nothing installed. Without --once it stays up after the
    /// script and prints commands to try; Ctrl-C ends it.
    #[command(after_help = "\
Examples:
  portolan demo
  portolan demo --once -o json     exit 0 only if every bound held
  portolan demo --keep /tmp/demo   leave configuration, manifests and logs for reading")]
    Demo(DemoArgs),
    /// Find what is wrong: with a configuration file, or with a running agent
    ///
    /// With --config, everything is looked at without starting: the file, keys, manifests,
    /// addresses, limits. Without it, the running agent is asked.
    #[command(after_help = "\
Examples:
  portolan check --config paris.yaml
  portolan check --admin 127.0.1.1:9900")]
    Check(AskArgs),
    /// Show an agent, its source and its peers; exit 1 if something is wrong
    #[command(after_help = "\
Examples:
  portolan status
  portolan status --config paris.yaml
  portolan status --admin 127.0.1.1:9900 --admin 127.0.2.1:9900 -o json")]
    Status(AskArgs),
    /// Explain where a new connection to a name goes, and why
    ///
    /// Shows every candidate in order, with the evidence: state, measured round trip, weight and
    /// the reason for its place. Exit 1 if none is usable.
    #[command(after_help = "\
Examples:
  portolan explain web.shop
  portolan explain web.shop:443
  portolan explain web.shop.svc.clusterset.local -o json")]
    Explain(ExplainArgs),
    /// List routes, peers, exports or imports
    #[command(after_help = "\
Examples:
  portolan get routes
  portolan get peers --config paris.yaml
  portolan get imports -o yaml")]
    Get(GetArgs),
    /// Take new connections away from a cluster, or from a service of this one
    ///
    /// A peer is drained where its services are imported: at the agents that are named. The own
    /// cluster, and a service, are drained where they are exported, and every importer obeys.
    /// Open connections finish. Each agent keeps it over restarts until it is taken back. On a
    /// terminal it shows how far it is; Ctrl-C ends only the showing.
    #[command(after_help = "\
Examples:
  portolan drain oregon --over 10m
  portolan drain web.shop --over 90s --admin 10.0.0.4:9900 --admin 10.0.0.5:9900
  portolan drain oregon --undo")]
    Drain(DrainArgs),
    /// Show what an agent's DNS server answers
    #[command(subcommand)]
    Zone(ZoneCommand),
    /// Make or show a cluster's keys and certificates
    #[command(subcommand)]
    Trust(TrustCommand),
}

/// `run`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RunArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// `demo`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DemoArgs {
    /// End after the script, with exit 0 only if every bound held
    #[arg(long)]
    pub once: bool,
    /// How the report is written
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: DemoFormat,
    /// Leave configuration, manifests and logs in this directory (empty or not there yet)
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// How the demo's report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DemoFormat {
    /// The story, for people
    Text,
    /// The checks with their figures and bounds
    Json,
}

/// Which agents are asked, and how their answers are written.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct AskArgs {
    /// Ask the agent there (repeat for several) [default: 127.0.0.1:9900]
    #[arg(long, value_name = "ADDR")]
    pub admin: Vec<SocketAddr>,
    /// Ask the agent that runs by this configuration; with 'check', check the file itself
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    pub config: Option<PathBuf>,
    /// How the answer is written
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ExplainArgs {
    /// web.shop or the full DNS name, with an optional :port
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `drain`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DrainArgs {
    /// A cluster, or a service that the agent's cluster exports: oregon, web.shop
    #[arg(value_name = "CLUSTER|SERVICE")]
    pub name: String,
    /// Over which time its share falls to nothing, at most 24h [default: at once]
    #[arg(long, value_name = "TIME", value_parser = Drain::parse_over)]
    pub over: Option<Duration>,
    /// Take the drain back, at once
    #[arg(long, conflicts_with_all = ["over", "wait"])]
    pub undo: bool,
    /// Stay until it is complete and no connection is left, also without a terminal
    #[arg(long)]
    pub wait: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `get`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct GetArgs {
    /// What to list
    #[arg(value_name = "WHAT")]
    pub listing: Listing,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `trust`.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum TrustCommand {
    /// Make a cluster's authority and its first certificate
    ///
    /// Writes ca.pem, ca.key (10 years), cert.pem, key.pem (24 h, renewed by 'run') and an empty
    /// peers/. Nothing is ever replaced.
    #[command(after_help = "\
Example, two clusters that trust each other:
  portolan trust init --cluster paris --out paris/trust
  portolan trust init --cluster oregon --out oregon/trust
  cp paris/trust/ca.pem oregon/trust/peers/paris.pem
  cp oregon/trust/ca.pem paris/trust/peers/oregon.pem")]
    Init(TrustInitArgs),
    /// Show the certificates of a trust directory; keys are never opened
    #[command(after_help = "Example:\n  portolan trust show --dir paris/trust")]
    Show(TrustShowArgs),
}

/// `trust init`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TrustInitArgs {
    /// The cluster that the certificates speak for
    #[arg(long, value_name = "NAME", value_parser = ClusterId::parse)]
    pub cluster: ClusterId,
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The cluster set's zone
    #[arg(long, value_name = "ZONE", default_value = "clusterset.local", value_parser = DnsName::parse)]
    pub clusterset: DnsName,
}

/// `trust show`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TrustShowArgs {
    /// The trust directory
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    pub dir: Option<PathBuf>,
    /// The configuration that names it
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    pub config: Option<PathBuf>,
    /// How the answer is written
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// `zone`.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ZoneCommand {
    /// Print the whole zone as a master file (RFC 1035), as the agent serves it now
    ///
    /// All names with their records, in an order that does not change, so that two dumps can be
    /// compared with diff; another DNS server can serve one. The zone's name server, ns.dns, has
    /// no address: where a server or a checker demands one, add it.
    #[command(after_help = "\
Examples:
  portolan zone dump --config paris.yaml > zone && nsd-checkzone clusterset.local zone
  diff <(portolan zone dump --admin 127.0.1.1:9900) <(portolan zone dump --admin 127.0.2.1:9900)
  portolan zone dump -o json | jq -r '.records[] | select(.type == \"A\") | .name'
  echo 'ns.dns.clusterset.local. 5 IN A 10.96.0.53' >> zone    for kzonecheck, named-checkzone")]
    Dump(ZoneDumpArgs),
}

/// `zone dump`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ZoneDumpArgs {
    /// Ask the agent there [default: 127.0.0.1:9900]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// Ask the agent that runs by this configuration
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    pub config: Option<PathBuf>,
    /// How the zone is written
    #[arg(short, long, value_name = "FORMAT", default_value = "zone")]
    pub output: ZoneFormat,
}

impl AskArgs {
    /// The admin addresses named on the command line; `configured` where none is and there is a
    /// configuration, else the default.
    #[must_use]
    pub fn agents(&self, configured: Option<SocketAddr>) -> Vec<SocketAddr> {
        if self.admin.is_empty() {
            return vec![configured.unwrap_or(DEFAULT_ADMIN)];
        }
        self.admin.clone()
    }
}

impl ZoneDumpArgs {
    /// The admin address, as [`AskArgs::agents`] has it.
    #[must_use]
    pub fn agent(&self, configured: Option<SocketAddr>) -> SocketAddr {
        self.admin.or(configured).unwrap_or(DEFAULT_ADMIN)
    }
}

#[cfg(test)]
mod tests;
