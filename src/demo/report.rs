//! What was checked, with its figure and its bound, for people and as JSON.

use std::fmt;
use std::io::{self, Write};

use serde::{Serialize, Serializer};

/// What a figure must keep to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// This.
    Exactly(f64),
    /// No less than the first, no more than the second.
    Between(f64, f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::Exactly(wanted) => (value - wanted).abs() < f64::EPSILON,
            Self::Between(least, most) => (least..=most).contains(&value),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::Exactly(wanted) => write!(f, "= {wanted}"),
            Self::Between(least, most) => write!(f, "{least} to {most}"),
        }
    }
}

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One figure held against its bound.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Check {
    /// Stable name.
    pub(super) name: &'static str,
    /// Whether the bound held.
    pub(super) ok: bool,
    /// The figure; `null` when what was measured never happened.
    pub(super) value: Option<f64>,
    /// Its unit.
    pub(super) unit: &'static str,
    /// What it had to keep to.
    pub(super) bound: Bound,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.ok { "ok  " } else { "FAIL" };
        let name = self.name.replace('_', " ");
        match self.value {
            Some(value) => write!(f, "{verdict} {name}: {value} {}", self.unit)?,
            None => write!(f, "{verdict} {name}: never")?,
        }
        write!(f, "  ({})", self.bound)
    }
}

/// All checks of a run, in their order.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Report {
    checks: Vec<Check>,
}

impl Report {
    /// Holds a figure against its bound; a figure that is missing breaks it.
    pub(super) fn add(
        &mut self,
        name: &'static str,
        value: Option<f64>,
        unit: &'static str,
        bound: Bound,
    ) -> &Check {
        let ok = value.is_some_and(|value| bound.holds(value));
        // Three decimals are what the clocks here are good for.
        let value = value.map(|value| (value * 1000.0).round() / 1000.0);
        self.checks.push(Check { name, ok, value, unit, bound });
        &self.checks[self.checks.len() - 1]
    }

    /// Whether every bound held; not of an empty report.
    pub(super) fn held(&self) -> bool {
        !self.checks.is_empty() && self.failed() == 0
    }

    /// How many bounds did not hold.
    pub(super) fn failed(&self) -> usize {
        self.checks.iter().filter(|check| !check.ok).count()
    }

    /// How many were checked.
    pub(super) fn len(&self) -> usize {
        self.checks.len()
    }

    /// Writes the JSON.
    pub(super) fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut out, self)?;
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_at_their_edges_and_not_beyond() {
        let cases = [
            (Bound::AtMost(0.7), 0.7, 0.701),
            (Bound::AtLeast(1.0), 1.0, 0.999),
            (Bound::Exactly(0.0), 0.0, 1.0),
            (Bound::Between(5.0, 10.0), 10.0, 4.999),
        ];
        for (bound, good, bad) in cases {
            assert!(bound.holds(good), "{bound} {good}");
            assert!(!bound.holds(bad), "{bound} {bad}");
        }
    }

    #[test]
    fn the_report_is_the_json_that_others_read() {
        let mut report = Report::default();
        assert!(!report.held(), "nothing checked is nothing held");
        report.add("cut_failed", Some(0.0), "connections", Bound::Exactly(0.0));
        assert!(report.held());
        let check = report.add("cut_first_byte_p99", Some(0.699_6), "s", Bound::AtMost(0.7));
        assert_eq!(check.to_string(), "ok   cut first byte p99: 0.7 s  (<= 0.7)");
        let check = report.add("back", None, "s", Bound::Between(5.0, 10.0));
        assert_eq!(check.to_string(), "FAIL back: never  (5 to 10)");
        assert!(!report.held());
        assert_eq!((report.failed(), report.len()), (1, 3));

        let mut json = Vec::new();
        report.write_json(&mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            json["checks"][1],
            serde_json::json!({
                "name": "cut_first_byte_p99", "ok": true, "value": 0.7, "unit": "s",
                "bound": "<= 0.7"
            })
        );
        assert_eq!(json["checks"][2]["value"], serde_json::Value::Null);
    }
}
