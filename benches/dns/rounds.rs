//! The run: every load, round by round, the servers one after the other in each round, in the
//! other order every other time.
//!
//! A round in which another server's figure is three times its own median was disturbed from
//! outside: it is repeated, all servers together, and counted.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use tempfile::TempDir;

use crate::cases::{CASES, Case, Traffic};
use crate::common::median;
use crate::options::{Group, Options, Output};
use crate::process::{on_cpu, output};
use crate::report::Report;
use crate::servers::{Candidate, Server};
use crate::tally::Figures;
use crate::{memory, others, perf, servers, swapped, tell, usage};

/// A server's figure in a disturbed round, in its medians.
const DISTURBED: f64 = 3.0;

/// One round: what each server came to.
pub(crate) type Round = BTreeMap<Candidate, Figures>;

/// All rounds of one load.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) case: &'static Case,
    pub(crate) rounds: Vec<Round>,
    /// Disturbed rounds that were repeated.
    pub(crate) repeated: u32,
}

/// Runs what was asked for and prints the result.
pub(crate) fn run(options: &Options) -> io::Result<ExitCode> {
    let compared: Vec<&Case> = wanted(options, false).collect();
    if !compared.is_empty() {
        others::demand_packages()?;
    }
    let dir = TempDir::new()?;
    let mut report = Report::new(options);
    if options.wants(Group::Memory) {
        report.weights = memory::measure(dir.path(), options)?;
    }
    if !compared.is_empty() {
        let (servers, skipped) = servers::start_all(dir.path(), options)?;
        report.skipped = skipped;
        if let Some(coredns) = servers.iter().find(|server| server.candidate == Candidate::Coredns)
        {
            let program = format!("/proc/{}/exe", coredns.running.pid());
            report.name_version(Path::new(&program), "-version");
        }
        for case in compared {
            report.add(&measure(case, &servers, options)?);
        }
    }
    for case in wanted(options, true) {
        let server = servers::start_swapped(dir.path(), options)?;
        report.add(&measure(case, &[server], options)?);
    }
    let text = match options.output {
        Output::Text => report.text(),
        Output::Json => report.json(),
    };
    crate::say(text.trim_end())?;
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn wanted(options: &Options, is_swapped: bool) -> impl Iterator<Item = &'static Case> {
    let fits = move |case: &&Case| options.wants(case.group) && case.is_swapped == is_swapped;
    CASES.iter().filter(fits)
}

fn measure(case: &'static Case, servers: &[Server], options: &Options) -> io::Result<Measured> {
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        rounds.push(round(case, servers, options, number)?);
    }
    let mut repeated = 0;
    while repeated < options.rounds
        && let Some(disturbed) = disturbed(case, &rounds)
    {
        repeated += 1;
        rounds[disturbed] = round(case, servers, options, repeated)?;
    }
    Ok(Measured { case, rounds, repeated })
}

fn round(case: &Case, servers: &[Server], options: &Options, number: u32) -> io::Result<Round> {
    let mut order: Vec<&Server> = servers.iter().collect();
    if number % 2 == 1 {
        order.reverse();
    }
    let mut round = Round::new();
    for server in order {
        let name = server.candidate.as_str();
        let failed = |error| io::Error::other(format!("{} {name}: {error}", case.name));
        let figures = load(case, server, options).map_err(failed)?;
        let said: Vec<String> =
            figures.iter().map(|(name, value)| format!("{name} {value:.2}")).collect();
        tell(&format!("{} {} {name}: {}", case.name, number + 1, said.join(", ")));
        round.insert(server.candidate, figures);
    }
    Ok(round)
}

/// Loads one server for a while. The clients' start and end cost it nothing, so its run time is
/// that of the answers.
fn load(case: &Case, server: &Server, options: &Options) -> io::Result<Figures> {
    let pid = server.running.pid();
    let before = usage::cpu(pid)?;
    let mut figures = match case.traffic {
        Traffic::Closed => client(server, options, &[])?,
        Traffic::Open(rate) => client(server, options, &["--rate", &rate.to_string()])?,
        Traffic::Tcp => client(server, options, &["--tcp"])?,
        Traffic::Dnsperf => perf::run(server, options)?,
    };
    let spent = usage::cpu(pid)? - before;
    let said = |name: &str| figures.get(name).copied().unwrap_or_default();
    let (answers, per_second) = (said("answers"), said("per_second"));
    if answers < 1.0 {
        return Err(io::Error::other("no answer at all"));
    }
    let mut add = |name: &str, value| figures.insert(name.to_owned(), value);
    add("cpu_us", spent.as_secs_f64() * 1e6 / answers);
    // Of the time in which it was asked.
    add("busy", spent.as_secs_f64() * per_second / answers);
    add("pss_mib", usage::pss_mib(pid)?);
    if case.is_swapped {
        add("swaps_per_second", swapped::rate(&server.running));
    }
    if case.is_swapped && figures.get("second").is_none_or(|count| *count < 1.0) {
        return Err(io::Error::other("no answer was from the second table"));
    }
    Ok(figures)
}

/// Our client.
fn client(server: &Server, options: &Options, more: &[&str]) -> io::Result<Figures> {
    let mut command = on_cpu(options.client_cpu, &std::env::current_exe()?);
    command.args(["load", "--target", &server.address.to_string()]);
    command.arg("--names").arg(&server.names);
    command.args(["--seconds", &options.seconds.to_string()]).args(more);
    Ok(serde_json::from_str(&output(command)?)?)
}

/// The first round in which another server's figure is far above its median.
fn disturbed(case: &Case, rounds: &[Round]) -> Option<usize> {
    let others = Candidate::ALL.into_iter().filter(|other| *other != Candidate::Portolan);
    others.flat_map(|other| case.telling().map(move |figure| (other, figure))).find_map(
        |(other, figure)| {
            let values = values(rounds, other, figure);
            let median = median(&values);
            values.iter().position(|value| *value > DISTURBED * median)
        },
    )
}

/// A server's figure in each round.
pub(crate) fn values(rounds: &[Round], of: Candidate, figure: &str) -> Vec<f64> {
    rounds.iter().filter_map(|round| round.get(&of)?.get(figure)).copied().collect()
}
