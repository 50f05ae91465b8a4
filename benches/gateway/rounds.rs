//! The run: every case, round by round, the pairs one after the other in each round.
//!
//! Each measurement has fresh processes, so a cold start is part of all figures. A round in which
//! another pair's cost is three times its own median was disturbed from outside: it is repeated,
//! all pairs together, and counted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Resource, getrlimit};
use tempfile::TempDir;

use crate::cases::{CASES, Case, FAR_CASES};
use crate::common::median;
use crate::load::Figures;
use crate::options::{Group, Kind, Options, Output};
use crate::pair::{Candidate, Pair};
use crate::place::{self, Place};
use crate::report::{Measured, Report};
use crate::rtt::Line;

/// A pair's cost in a disturbed round, in its medians.
const DISTURBED: f64 = 3.0;
/// Descriptors of a gateway that are no streams.
const KEPT_DESCRIPTORS: u64 = 1_200;
/// Attempts at one measurement before the run fails.
const TRIES: u32 = 3;

/// One round: what each pair came to.
pub(crate) type Round = BTreeMap<Candidate, Figures>;

/// Runs what was asked for and prints the result.
pub(crate) fn run(options: &Options) -> io::Result<ExitCode> {
    let dir = TempDir::new()?;
    let mut bench = Bench { options, dir: dir.path(), number: 0, failures: 0, line: None };
    let is_wanted = |group| options.only.is_empty() || options.only.contains(&group);
    let mut report = Report::new(options);
    for case in CASES.iter().filter(|case| is_wanted(case.group)) {
        report.add(bench.case(case)?);
    }
    if is_wanted(Group::Rtt) {
        match Line::new(dir.path()) {
            Ok(line) => {
                bench.line = Some(line);
                for case in FAR_CASES {
                    report.add(bench.case(case)?);
                }
            }
            Err(reason) => {
                report.skipped.extend(FAR_CASES.iter().map(|case| (case.name, reason.to_string())));
            }
        }
    }
    report.failures = bench.failures;
    let text = match options.output {
        Output::Text => report.text(),
        Output::Json => report.json(),
    };
    crate::say(text.trim_end())?;
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Bench<'a> {
    options: &'a Options,
    dir: &'a Path,
    number: u8,
    failures: u32,
    /// What lies between the gateways; without, nothing does.
    line: Option<Line>,
}

impl Bench<'_> {
    fn case(&mut self, case: &'static Case) -> io::Result<Measured> {
        let mut rounds = Vec::new();
        for number in 0..self.options.rounds {
            rounds.push(self.round(case, number)?);
        }
        let mut repeated = 0;
        while repeated < self.options.rounds
            && let Some(disturbed) = disturbed(case, &rounds)
        {
            repeated += 1;
            rounds[disturbed] = self.round(case, repeated)?;
        }
        Ok(Measured { case, rounds, repeated })
    }

    /// Another pair begins in each round.
    fn round(&mut self, case: &Case, number: u32) -> io::Result<Round> {
        let mut order = Candidate::ALL;
        order.rotate_left(number as usize % Candidate::ALL.len());
        let mut round = Round::new();
        for candidate in order {
            let _unread =
                write!(io::stderr(), "{} {} {}: ", case.name, number + 1, candidate.as_str());
            let figures = self.measure(case, candidate)?;
            let said: Vec<String> =
                figures.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
            let _unread = writeln!(io::stderr(), "{}", said.join(", "));
            round.insert(candidate, figures);
        }
        Ok(round)
    }

    fn measure(&mut self, case: &Case, candidate: Candidate) -> io::Result<Figures> {
        let mut tries = 0;
        loop {
            match self.measure_once(case, candidate) {
                Err(error) if tries + 1 < TRIES => {
                    tries += 1;
                    self.failures += 1;
                    let _unread = writeln!(io::stderr(), "{error}; once more");
                }
                measured => return measured,
            }
        }
    }

    fn measure_once(&mut self, case: &Case, candidate: Candidate) -> io::Result<Figures> {
        self.number = self.number % 250 + 1;
        let dir = self.dir.join(self.number.to_string());
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let place = match &self.line {
            None => Place::loopback(dir, self.number),
            Some(line) => {
                line.set_lossy(false)?;
                line.place(dir, case.cubic)?
            }
        };
        let _backend = place.start_backend()?;
        let pair = Pair::start(candidate, &place, self.options)?;
        if let (Some(line), Kind::Beside) = (&self.line, case.kind) {
            line.set_lossy(true)?;
        }
        load(case, &place, &pair, self.streams(case))
    }

    fn streams(&self, case: &Case) -> usize {
        if case.group != Group::Idle {
            return case.streams;
        }
        let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let most = limit.saturating_sub(KEPT_DESCRIPTORS) / 2;
        let wanted = u64::from(self.options.idle_streams).min(most);
        usize::try_from(wanted).expect("a number of descriptors")
    }
}

/// Runs the clients of a case against a pair.
fn load(case: &Case, place: &Place, pair: &Pair, streams: usize) -> io::Result<Figures> {
    let kind = clap::ValueEnum::to_possible_value(&case.kind).expect("every kind has a name");
    let mut arguments = vec![
        "load".to_owned(),
        format!("--kind={}", kind.get_name()),
        format!("--target={}", pair.entry(case.service)),
        format!("--counts={}", place.counts()),
        format!("--streams={streams}"),
        format!("--millis={}", case.millis),
    ];
    if case.kind == Kind::Beside {
        arguments.push(format!("--beside={}", pair.entry("sink")));
    }
    arguments.extend(pair.pids().iter().map(|pid| format!("--watch={pid}")));
    let answer = place::ask(&place.near, &arguments)?;
    Ok(serde_json::from_slice(&answer)?)
}

/// The first round in which another pair's cost is far above its median.
fn disturbed(case: &Case, rounds: &[Round]) -> Option<usize> {
    let others = Candidate::ALL.into_iter().filter(|other| *other != Candidate::Portolan);
    let costs = case.figures.iter().filter(|figure| figure.is_cost);
    others.flat_map(|other| costs.clone().map(move |cost| (other, cost.name))).find_map(
        |(other, name)| {
            let values: Vec<f64> = rounds.iter().map(|round| round[&other][name]).collect();
            let median = median(&values);
            values.iter().position(|value| *value > DISTURBED * median)
        },
    )
}
