//! What a DNS query costs: Portolan beside Knot, NSD, Unbound and CoreDNS with the same 10 000
//! names, interleaved round by round in one run.
//!
//! `cargo bench --bench dns -- --rounds 5` prints one table with ratios to Knot and every bound,
//! and fails when one is missed; `benches/README.md` says what each load is. The client and the
//! server whose tables are swapped are parts of this program, started as processes of their
//! own; servers are pinned to one CPU, clients to another.

mod agent;
mod cases;
mod client;
#[path = "../common.rs"]
mod common;
mod coredns;
mod memory;
mod options;
mod others;
mod perf;
mod process;
mod questions;
mod report;
mod rounds;
mod servers;
mod swapped;
mod tally;
mod tcp;
mod usage;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use crate::common::say;
use crate::options::{Cli, Part};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            let _unread = writeln!(io::stderr(), "dns: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> io::Result<ExitCode> {
    match cli.part {
        None => return rounds::run(&cli.options),
        Some(Part::Load(load)) => {
            let figures = if load.tcp { tcp::run(&load) } else { client::run(&load) }?;
            say(&serde_json::to_string(&figures).expect("numbers are JSON"))?;
        }
        Some(Part::Swapped { listen, names }) => swapped::serve(listen, &names)?,
        Some(Part::Answers { names }) => memory::answers(names)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What goes on, for whoever watches.
pub(crate) fn tell(line: &str) {
    let _unread = writeln!(io::stderr(), "{line}");
}
