//! The conditions of ServiceExports and ServiceImports, with the reasons of the MCS API.

use super::condition::{Condition, ConditionStatus, Says};
use super::desired::Case;
use super::observed::{ExportStatus, ObservedExport};
use crate::catalog::{ExportProblem, NotExported};

use ConditionStatus::{False, True, Unknown};

pub(super) fn says(status: ConditionStatus, reason: &str, message: impl Into<String>) -> Says {
    (status, reason.to_owned(), message.into())
}

/// Why an import is not ready.
pub(super) fn pending(message: impl Into<String>) -> Says {
    says(False, "Pending", message)
}

/// The status of a ServiceExport. Conditions of others stay as they are.
pub(super) fn export_status(case: &Case<'_>, export: &ObservedExport, now_ms: i64) -> ExportStatus {
    let before = &export.conditions;
    let ours = [("Valid", valid(case)), ("Ready", exported(case)), ("Conflict", conflict(case))];
    let next = |(kind, says): (&str, Option<Says>)| {
        Some(Condition::next(kind, says?, before, export.generation, now_ms))
    };
    let others =
        before.iter().filter(|old| !["Valid", "Ready", "Conflict"].contains(&&*old.kind)).cloned();
    ExportStatus {
        key: case.key.clone(),
        uid: export.uid.clone(),
        conditions: ours.into_iter().filter_map(next).chain(others).collect(),
    }
}

fn valid(case: &Case<'_>) -> Option<Says> {
    if let Some(why) = case.refused {
        return Some(says(False, why.as_str(), why.to_string()));
    }
    let tell = |problem: &ExportProblem| format!("{}: {}", problem.field, problem.message);
    case.local.map(|local| {
        let problems: Vec<_> = local.problems.iter().map(tell).collect();
        says(True, "Valid", problems.join("; "))
    })
}

fn exported(case: &Case<'_>) -> Option<Says> {
    Some(match (case.refused, case.local) {
        (Some(NotExported::NoService), _) => pending("waits for a Service of this name"),
        (Some(NotExported::InvalidServiceType), _) => {
            says(False, "Failed", "a Service of this type cannot be exported")
        }
        (None, Some(_)) => says(True, "Exported", "offered to every peer that may import it"),
        (None, None) => says(Unknown, "Pending", "its Service has not been looked at yet"),
    })
}

/// Stands on every constituent export; one that exports nothing conflicts with nobody.
fn conflict(case: &Case<'_>) -> Option<Says> {
    let (Some(route), Some(_)) = (case.route, case.local) else { return None };
    let conflicts = &route.import.conflicts;
    if conflicts.is_empty() {
        return Some(says(False, "NoConflicts", ""));
    }
    let reasons: Vec<_> = conflicts.iter().map(|conflict| conflict.reason.as_str()).collect();
    let messages: Vec<_> = conflicts.iter().map(ToString::to_string).collect();
    Some((True, reasons.join(","), messages.join("; ")))
}
