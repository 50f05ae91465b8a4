//! The command line: of whoever runs the program, and of the parts it starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// What a DNS query costs: Portolan, Knot, NSD, Unbound and CoreDNS, in one run.
#[derive(Debug, Parser)]
#[command(name = "dns", args_conflicts_with_subcommands = true)]
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
    /// Rounds of each load; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) rounds: u32,
    /// How long each server is loaded in a round.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) seconds: u32,
    /// Only these.
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    pub(crate) only: Vec<Group>,
    /// How the result is written.
    #[arg(short, long, default_value = "text")]
    pub(crate) output: Output,
    /// Another portolan binary than the one built with this program.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_portolan"))]
    pub(crate) portolan: PathBuf,
    /// A CoreDNS binary; without, CoreDNS is built once from its Go module.
    #[arg(long)]
    pub(crate) coredns: Option<PathBuf>,
    /// The CPU that all servers are pinned to, each with one worker.
    #[arg(long, default_value_t = 0)]
    pub(crate) server_cpu: u32,
    /// The CPU of the clients.
    #[arg(long, default_value_t = 1)]
    pub(crate) client_cpu: u32,
}

impl Options {
    pub(crate) fn wants(&self, group: Group) -> bool {
        self.only.is_empty() || self.only.contains(&group)
    }
}

/// Kinds of measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// As much as each server can over UDP.
    Saturation,
    /// 20 000 queries a second.
    #[value(name = "20k")]
    Low,
    /// 100 000 queries a second.
    #[value(name = "100k")]
    High,
    /// TCP, one query in flight on each of 64 connections.
    Tcp,
    /// As much as dnsperf can ask over UDP: another client, for comparison.
    Dnsperf,
    /// 100 000 queries a second while two tables are swapped.
    Swap,
    /// What names weigh.
    Memory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

/// The parts that run as processes of their own.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// The client.
    #[command(hide = true)]
    Load(Load),
    /// The library's server, its answers compiled from one of two tables in turn.
    #[command(hide = true)]
    Swapped {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        names: PathBuf,
    },
    /// Compiles the answers of so many names and tells what they weigh.
    #[command(hide = true)]
    Answers {
        #[arg(long)]
        names: u32,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// The server.
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// Names and their addresses.
    #[arg(long)]
    pub(crate) names: PathBuf,
    /// Queries a second; as many as are answered if left out.
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    /// Over TCP.
    #[arg(long, conflicts_with = "rate")]
    pub(crate) tcp: bool,
    /// How long.
    #[arg(long)]
    pub(crate) seconds: u32,
}
