//! What the user reads while the demo runs.

use std::io::{self, Write};
use std::time::Instant;

use crate::admin::json::ServiceJson;
use crate::clock;

use super::Output;
use super::load::Tally;
use super::report::Check;

/// Writes the story: to standard output, or beside the JSON report to standard error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Narrator {
    output: Output,
    begun: Instant,
}

impl Narrator {
    /// Time in the story counts from now.
    pub(super) fn new(output: Output) -> Self {
        Self { output, begun: clock::now() }
    }

    /// When the story began.
    pub(super) fn begun(self) -> Instant {
        self.begun
    }

    /// A step begins.
    pub(super) fn step(self, text: &str) -> io::Result<()> {
        let at = (clock::now() - self.begun).as_secs_f64();
        self.write(&format!("\n[{at:5.1} s] {text}"))
    }

    /// A line within a step.
    pub(super) fn line(self, text: &str) -> io::Result<()> {
        self.write(&format!("          {text}"))
    }

    /// A figure held against its bound.
    pub(super) fn check(self, check: &Check) -> io::Result<()> {
        self.line(&check.to_string())
    }

    /// Who answered the connections of a stretch of time.
    pub(super) fn tally(self, what: &str, tally: &Tally) -> io::Result<()> {
        let mut parts: Vec<String> =
            tally.answered.iter().map(|(cluster, count)| format!("{cluster} {count}")).collect();
        if tally.open > 0 {
            parts.push(format!("still open {}", tally.open));
        }
        parts.extend(tally.failures.iter().map(|(why, count)| format!("FAILED {count} ({why})")));
        let first_byte = tally
            .first_byte(99.0)
            .map_or_else(String::new, |p99| format!("; first byte p99 {:.0} ms", p99 * 1000.0));
        self.line(&format!("{what}: {} connections: {}{first_byte}", tally.total, parts.join(", ")))
    }

    /// The candidates of a name with the evidence and the reason, as `portolan explain` has it.
    pub(super) fn explain(self, service: &ServiceJson) -> io::Result<()> {
        for candidate in &service.candidates {
            let rtt = candidate.rtt_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
            let reason = serde_json::to_value(candidate.reason).ok();
            let reason = reason.as_ref().and_then(|reason| reason.as_str()).unwrap_or("-");
            self.line(&format!(
                "  {} {:<8}{:<8}{rtt:>9}  {reason}",
                candidate.rank,
                candidate.cluster.as_str(),
                candidate.state.as_str(),
            ))?;
        }
        Ok(())
    }

    fn write(self, text: &str) -> io::Result<()> {
        match self.output {
            Output::Text => {
                let mut out = io::stdout().lock();
                writeln!(out, "{text}")?;
                out.flush()
            }
            Output::Json => writeln!(io::stderr().lock(), "{text}"),
        }
    }
}
