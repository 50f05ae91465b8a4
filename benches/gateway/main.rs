//! What a stream through two gateways costs: Portolan's pair, HAProxy's and a plain relay's,
//! interleaved round by round in one run.
//!
//! `cargo bench --bench gateway -- --rounds 5` prints medians with their bounds and fails when one
//! is missed; `benches/README.md` says what each case is. Clients, backend and plain relay are
//! parts of this program, started as processes of their own.

mod backend;
mod cases;
#[path = "../common.rs"]
mod common;
mod entry;
mod line;
mod load;
mod options;
mod pair;
mod place;
mod plain;
mod report;
mod rounds;
mod rtt;
mod usage;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::common::say;
use crate::options::{Cli, Part};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            let _unread = writeln!(io::stderr(), "gateway: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> io::Result<ExitCode> {
    raise_descriptors()?;
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match cli.part {
        None => return rounds::run(&cli.options),
        Some(Part::Line(options)) => line::carry(&options)?,
        Some(Part::Load(load)) => load::run(&load)?,
        Some(Part::Backend { host }) => runtime()?.block_on(backend::serve(host))?,
        Some(Part::Relay { maps }) => runtime()?.block_on(plain::serve(maps))?,
        Some(Part::Await { addresses }) => runtime()?.block_on(entry::accepting(&addresses))?,
        Some(Part::Entry { admin, services }) => {
            runtime()?.block_on(entry::wait(admin, &services))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Thousands of streams are held; whoever is started from here inherits it.
fn raise_descriptors() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}
