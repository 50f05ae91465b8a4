//! The result, as one table or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::cases::{Bound, Limit};
use crate::common::{cores, kernel, median, processor, short, version};
use crate::memory::Weight;
use crate::options::Options;
use crate::others::program;
use crate::rounds::{Measured, values};
use crate::servers::{Candidate, Skipped};

/// The figures in the table, with their headings; lost queries are summed.
const COLUMNS: [(&str, &str); 7] = [
    ("per_second", "q/s"),
    ("cpu_us", "CPU µs/q"),
    ("p50_us", "p50 µs"),
    ("p99_us", "p99 µs"),
    ("lost", "lost"),
    ("busy", "busy"),
    ("pss_mib", "PSS MiB"),
];
const WIDTH: usize = 11;
/// The column that has its ratio beside it.
const RATIO_OF: &str = "cpu_us";
const LOST: &str = "lost";

/// The whole result.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Vec<String>,
    rounds: u32,
    seconds: u32,
    rows: Vec<Row>,
    verdicts: Vec<Verdict>,
    /// What names weigh.
    pub(crate) weights: Vec<Weight>,
    /// Rounds repeated by load, because another server was disturbed.
    repeated: BTreeMap<&'static str, u32>,
    /// Servers that could not run here, and why.
    pub(crate) skipped: Skipped,
}

/// One server under one load.
#[derive(Debug, Serialize)]
struct Row {
    load: &'static str,
    server: &'static str,
    figures: BTreeMap<String, Spread>,
    /// CPU time per query over Knot's of the same round, the median of the rounds.
    of_knot: f64,
}

#[derive(Debug, Serialize)]
struct Spread {
    median: f64,
    sum: f64,
    rounds: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Verdict {
    /// The bound in words.
    bound: String,
    /// What is held against it.
    value: f64,
    held: bool,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            machine: machine(options),
            rounds: options.rounds,
            seconds: options.seconds,
            rows: Vec::new(),
            verdicts: Vec::new(),
            weights: Vec::new(),
            repeated: BTreeMap::new(),
            skipped: Vec::new(),
        }
    }

    /// Names the version of a program that need not be there.
    pub(crate) fn name_version(&mut self, program: &Path, flag: &str) {
        self.machine.push(version(program, flag));
    }

    pub(crate) fn add(&mut self, measured: &Measured) {
        self.repeated.insert(measured.case.name, measured.repeated);
        let all = Candidate::ALL.into_iter().chain([Candidate::Swapped]);
        self.rows.extend(all.filter_map(|candidate| Row::new(measured, candidate)));
        let bounds = measured.case.bounds.iter();
        self.verdicts.extend(bounds.map(|bound| Verdict::of(*bound, measured)));
    }

    /// Whether every bound held.
    pub(crate) fn holds(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.held) && self.weights.iter().all(Weight::holds)
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and texts are JSON")
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.machine {
            text += &format!("{line}\n");
        }
        let (rounds, seconds) = (self.rounds, self.seconds);
        write!(text, "medians of {rounds} rounds of {seconds} s; lost: all rounds together\n\n")
            .expect("a String takes everything");
        if !self.rows.is_empty() {
            self.table(&mut text);
        }
        for Weight { what, value, unit, .. } in &self.weights {
            writeln!(text, "{what:<50} {:>9} {unit}", short(*value)).expect("as above");
        }
        text.push('\n');
        let weights = self.weights.iter().filter_map(Weight::verdict);
        let verdicts = self.verdicts.iter().map(|v| (v.bound.clone(), v.value, v.held));
        for (bound, value, held) in verdicts.chain(weights) {
            let said = if held { "ok" } else { "MISSED" };
            writeln!(text, "{bound:<62} {:>9}  {said}", short(value)).expect("as above");
        }
        let repeated: u32 = self.repeated.values().sum();
        writeln!(text, "\n{repeated} rounds repeated because another server was disturbed")
            .expect("as above");
        for (server, reason) in &self.skipped {
            writeln!(text, "LEFT OUT {server}: {reason}").expect("as above");
        }
        text.push_str(if self.holds() { "every bound held\n" } else { "a bound was MISSED\n" });
        text
    }

    fn table(&self, text: &mut String) {
        write!(text, "{:<12}{:<10}", "load", "server").expect("a String takes everything");
        for (figure, heading) in COLUMNS {
            write!(text, "{heading:>WIDTH$}").expect("as above");
            if figure == RATIO_OF {
                write!(text, "{:>WIDTH$}", "× knot").expect("as above");
            }
        }
        text.push('\n');
        for Row { load, server, figures, of_knot } in &self.rows {
            write!(text, "{load:<12}{server:<10}").expect("as above");
            for (figure, _) in COLUMNS {
                let of = |spread: &Spread| match figure {
                    LOST => spread.sum,
                    _ => spread.median,
                };
                let value = figures.get(figure).map_or(f64::NAN, of);
                write!(text, "{:>WIDTH$}", short(value)).expect("as above");
                if figure == RATIO_OF {
                    write!(text, "{:>WIDTH$}", short(*of_knot)).expect("as above");
                }
            }
            text.push('\n');
        }
        text.push('\n');
    }
}

impl Row {
    fn new(measured: &Measured, candidate: Candidate) -> Option<Self> {
        let first = measured.rounds.first()?.get(&candidate)?;
        let spread = |figure: &String| {
            let rounds = values(&measured.rounds, candidate, figure);
            let spread = Spread { median: median(&rounds), sum: rounds.iter().sum(), rounds };
            (figure.clone(), spread)
        };
        Some(Self {
            load: measured.case.name,
            server: candidate.as_str(),
            figures: first.keys().map(spread).collect(),
            of_knot: in_rounds(measured, candidate, RATIO_OF),
        })
    }
}

/// The median of a server's figure over Knot's of the same round.
fn in_rounds(measured: &Measured, candidate: Candidate, figure: &str) -> f64 {
    let ours = values(&measured.rounds, candidate, figure);
    let knots = values(&measured.rounds, Candidate::Knot, figure);
    median(&ours.iter().zip(&knots).map(|(ours, knots)| ours / knots).collect::<Vec<f64>>())
}

impl Verdict {
    fn of(Bound { figure, limit }: Bound, measured: &Measured) -> Self {
        let (name, ours) = (measured.case.name, measured.case.ours());
        let of = |candidate| values(&measured.rounds, candidate, figure);
        let (value, held, words) = match limit {
            Limit::OfKnotInRounds(most) => {
                let times = in_rounds(measured, ours, figure);
                (times, times <= most, format!("<= {most} x Knot's in the same round"))
            }
            Limit::OfKnotByMedians(most) => {
                let times = median(&of(ours)) / median(&of(Candidate::Knot));
                (times, times <= most, format!("<= {most} x Knot's, by medians"))
            }
            Limit::InAll(most) => {
                let sum = of(ours).iter().sum();
                (sum, sum <= most, format!("<= {most} in all rounds"))
            }
            Limit::AtLeast(least) => {
                let median = median(&of(ours));
                (median, median >= least, format!(">= {least}"))
            }
        };
        Self { bound: format!("{name}: {figure} {words}"), value, held }
    }
}

impl Weight {
    fn holds(&self) -> bool {
        self.bound.is_none_or(|most| self.value <= most)
    }

    fn verdict(&self) -> Option<(String, f64, bool)> {
        let most = self.bound?;
        Some((format!("{} <= {most} {}", self.what, self.unit), self.value, self.holds()))
    }
}

/// The machine and the versions.
fn machine(options: &Options) -> Vec<String> {
    let versions = [
        version(&options.portolan, "--version"),
        version(&program("knotd"), "--version"),
        version(&program("nsd"), "-v"),
        format!("Unbound {}", version(&program("unbound"), "-V")),
    ];
    let machine = format!("{}, {} cores, Linux {}", processor(), cores(), kernel());
    vec![machine, versions.join("; ")]
}
