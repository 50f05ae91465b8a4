//! The command line: of whoever runs the program, and of the parts it starts.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// What a stream through two gateways costs: ours, HAProxy's and a plain relay's, in one run.
#[derive(Debug, Parser)]
#[command(name = "gateway", args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
    #[command(flatten)]
    pub(crate) options: Options,
    /// Passed by cargo.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds of each case; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) rounds: u32,
    /// Only these cases.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Group>,
    /// How the result is written.
    #[arg(short, long, default_value = "text")]
    pub(crate) output: Output,
    /// Another portolan binary than the one built with this program.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_portolan"))]
    pub(crate) portolan: PathBuf,
    /// The haproxy binary.
    #[arg(long, default_value = "haproxy")]
    pub(crate) haproxy: PathBuf,
    /// Idle streams that are held; two descriptors each in a gateway.
    #[arg(long, default_value_t = 9_000, value_parser = clap::value_parser!(u32).range(10..=500_000))]
    pub(crate) idle_streams: u32,
}

/// Cases that are asked for together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Upload over 1 and over 32 streams.
    Bulk,
    /// New connections.
    Conn,
    /// 1 KiB there and back on an open stream.
    Ping,
    /// Memory of streams that do nothing.
    Idle,
    /// 10 000 HTTP/1.1 requests a second.
    Http,
    /// 50 ms of round trip between the gateways.
    Rtt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

/// The parts that run as processes of their own.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// The servers behind the second gateway.
    #[command(hide = true)]
    Backend {
        #[arg(long)]
        host: IpAddr,
    },
    /// One half of the plain relay pair.
    #[command(hide = true)]
    Relay {
        /// LISTEN=TARGET
        #[arg(long = "map", value_parser = mapping)]
        maps: Vec<(SocketAddr, SocketAddr)>,
    },
    /// Waits until an agent leads to a service, and prints where clients call it.
    #[command(hide = true)]
    Entry {
        #[arg(long)]
        admin: SocketAddr,
        /// namespace/name, repeatable
        #[arg(long = "service")]
        services: Vec<String>,
    },
    /// Waits until all of these accept connections.
    #[command(hide = true)]
    Await { addresses: Vec<SocketAddr> },
    /// The long line between two network namespaces.
    #[command(hide = true)]
    Line(crate::line::Options),
    /// The clients.
    #[command(hide = true)]
    Load(Load),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    #[arg(long)]
    pub(crate) kind: Kind,
    /// Where the clients connect to.
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// Where the backend tells what it received.
    #[arg(long)]
    pub(crate) counts: SocketAddr,
    /// Processes whose CPU time and memory are looked at.
    #[arg(long = "watch")]
    pub(crate) watched: Vec<u32>,
    /// Streams or threads, as the kind has it.
    #[arg(long, default_value_t = 1)]
    pub(crate) streams: usize,
    /// A second target, for a ping beside bulk streams.
    #[arg(long)]
    pub(crate) beside: Option<SocketAddr>,
    /// How long it is measured.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) millis: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Bulk,
    Conn,
    Ping,
    Idle,
    Http,
    /// One new connection after the other, with pauses.
    Paced,
    /// New connections all at once.
    Burst,
    /// Pings beside bulk streams.
    Beside,
}

fn mapping(text: &str) -> Result<(SocketAddr, SocketAddr), String> {
    let (listen, target) = text.split_once('=').ok_or("LISTEN=TARGET")?;
    let parse = |text: &str| text.parse().map_err(|error| format!("{text}: {error}"));
    Ok((parse(listen)?, parse(target)?))
}
