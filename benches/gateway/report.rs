//! The result, as a table or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::cases::{Bound, Case, Figure};
use crate::common::{cores, kernel, median, processor, short, version};
use crate::options::Options;
use crate::pair::Candidate;
use crate::rounds::Round;

/// All rounds of one case.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) case: &'static Case,
    pub(crate) rounds: Vec<Round>,
    /// Disturbed rounds that were repeated.
    pub(crate) repeated: u32,
}

/// The whole result.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    rounds: u32,
    rows: Vec<Row>,
    /// Rounds repeated by case, because another pair's cost was three times its median.
    repeated: BTreeMap<&'static str, u32>,
    /// Cases that could not run here, and why.
    pub(crate) skipped: BTreeMap<&'static str, String>,
    /// Measurements that failed and were made again.
    pub(crate) failures: u32,
}

#[derive(Debug, Serialize)]
struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    portolan: String,
    haproxy: String,
}

/// One figure of one case.
#[derive(Debug, Serialize)]
struct Row {
    case: &'static str,
    figure: &'static str,
    pairs: BTreeMap<&'static str, Spread>,
    verdicts: Vec<Verdict>,
}

#[derive(Debug, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
    rounds: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Verdict {
    /// The bound in words.
    bound: String,
    /// What is held against it.
    value: f64,
    held: bool,
    /// Missing a goal fails nothing.
    is_goal: bool,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            machine: Machine::here(options),
            rounds: options.rounds,
            rows: Vec::new(),
            repeated: BTreeMap::new(),
            skipped: BTreeMap::new(),
            failures: 0,
        }
    }

    pub(crate) fn add(&mut self, measured: Measured) {
        self.repeated.insert(measured.case.name, measured.repeated);
        self.rows.extend(measured.case.figures.iter().map(|figure| Row::new(&measured, figure)));
    }

    /// Whether every bound held.
    pub(crate) fn holds(&self) -> bool {
        self.rows
            .iter()
            .flat_map(|row| &row.verdicts)
            .all(|verdict| verdict.held || verdict.is_goal)
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and texts are JSON")
    }

    pub(crate) fn text(&self) -> String {
        let Machine { cpu, cores, kernel, portolan, haproxy } = &self.machine;
        let mut text = format!(
            "{cpu}, {cores} cores, Linux {kernel}\n{portolan}; {haproxy}\nmedians [min-max] of {} \
             rounds\n\n{:<10}{:<16}{:>26}{:>26}{:>26}  bounds\n",
            self.rounds, "case", "figure", "portolan", "haproxy", "plain"
        );
        for row in &self.rows {
            row.write(&mut text);
        }
        let repeated: u32 = self.repeated.values().sum();
        write!(
            text,
            "\n{repeated} rounds repeated because another pair was disturbed, {} measurements made \
             again because they failed\n",
            self.failures
        )
        .expect("a String takes everything");
        for (case, reason) in &self.skipped {
            writeln!(text, "SKIPPED {case}: {reason}").expect("a String takes everything");
        }
        text.push_str(if self.holds() { "every bound held\n" } else { "a bound was MISSED\n" });
        text
    }
}

impl Row {
    fn new(measured: &Measured, figure: &Figure) -> Self {
        let values = |candidate| {
            let each = measured.rounds.iter().filter_map(|round| round.get(&candidate));
            each.filter_map(|figures| figures.get(figure.name)).copied().collect::<Vec<f64>>()
        };
        let pairs = Candidate::ALL
            .into_iter()
            .map(|candidate| (candidate.as_str(), Spread::of(values(candidate))));
        let ours = median(&values(Candidate::Portolan));
        let judge = |is_goal| {
            move |bound: &Bound| Verdict::of(*bound, ours, |other| median(&values(other)), is_goal)
        };
        let bounds = figure.bounds.iter().map(judge(false));
        let verdicts = bounds.chain(figure.goals.iter().map(judge(true))).collect();
        Self { case: measured.case.name, figure: figure.name, pairs: pairs.collect(), verdicts }
    }

    fn write(&self, text: &mut String) {
        write!(text, "{:<10}{:<16}", self.case, self.figure).expect("a String takes everything");
        for candidate in Candidate::ALL {
            let Spread { median, min, max, .. } = &self.pairs[candidate.as_str()];
            let shown = match median.is_nan() {
                true => "-".to_owned(),
                false => format!("{} [{}-{}]", short(*median), short(*min), short(*max)),
            };
            write!(text, "{shown:>26}").expect("a String takes everything");
        }
        for Verdict { bound, value, held, is_goal } in &self.verdicts {
            let said = match (held, is_goal) {
                (true, _) => "ok",
                (false, true) => "goal missed",
                (false, false) => "MISSED",
            };
            write!(text, "  {} ({bound}) {said};", short(*value))
                .expect("a String takes everything");
        }
        text.push('\n');
    }
}

impl Spread {
    fn of(rounds: Vec<f64>) -> Self {
        let min = rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let max = rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self { median: median(&rounds), min, max, rounds }
    }
}

impl Verdict {
    fn of(bound: Bound, ours: f64, other: impl Fn(Candidate) -> f64, is_goal: bool) -> Self {
        let (value, held, bound) = match bound {
            Bound::AtMost(most) => (ours, ours <= most, format!("<= {most}")),
            Bound::AtLeast(least) => (ours, ours >= least, format!(">= {least}")),
            Bound::Times(most, whose) => {
                let times = ours / other(whose);
                (times, times <= most, format!("<= {most} x {}", whose.as_str()))
            }
            Bound::LeastTimes(least, whose) => {
                let times = ours / other(whose);
                (times, times >= least, format!(">= {least} x {}", whose.as_str()))
            }
        };
        Self { bound, value, held, is_goal }
    }
}

impl Machine {
    fn here(options: &Options) -> Self {
        Self {
            cpu: processor(),
            cores: cores(),
            kernel: kernel(),
            portolan: version(&options.portolan, "--version"),
            haproxy: version(&options.haproxy, "-v"),
        }
    }
}
