use std::time::{Duration, Instant};

use serde_json::json;

use super::{Observed, Record, Step, Tenure, evaluate};
use crate::clock;

fn record(holder: &str, renewed: &str, seconds: u64) -> Record {
    Record::read(json!({
        "metadata": { "name": "portolan", "resourceVersion": "7", "labels": { "kept": "yes" } },
        "spec": {
            "holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": seconds,
            "leaseTransitions": 3, "acquireTime": "then",
        },
    }))
}

fn seen(holder: &str, seconds: u64, since: Instant) -> Observed {
    Observed::after(None, record(holder, "a", seconds), since)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_rules_as_a_table() {
    let t = clock::now();
    for (what, observed, after, expected) in [
        ("absent", None, 0, Step::Create),
        ("ours", Some(seen("me", 6, t)), 0, Step::Renew),
        ("ours, long ago", Some(seen("me", 6, t)), 600, Step::Renew),
        ("released", Some(seen("", 1, t)), 0, Step::Take),
        ("another's, fresh", Some(seen("you", 6, t)), 5, Step::Wait(t + secs(6))),
        ("another's, lapsed", Some(seen("you", 6, t)), 6, Step::Take),
        ("another's, which asks for less", Some(seen("you", 1, t)), 5, Step::Wait(t + secs(6))),
        ("another's, which asks for more", Some(seen("you", 15, t)), 14, Step::Wait(t + secs(15))),
        ("another's, which asks for ever", Some(seen("you", u64::MAX, t)), 60, Step::Take),
        ("no field at all", Some(Observed::after(None, Record::read(json!({})), t)), 0, Step::Take),
    ] {
        assert_eq!(evaluate(observed.as_ref(), "me", t + secs(after)), expected, "{what}");
    }
}

#[test]
fn only_the_holder_prolongs_its_protection() {
    let t = clock::now();
    let first = seen("you", 6, t);
    let mut touched = record("you", "a", 6);
    touched.whole["metadata"]["resourceVersion"] = json!("8");
    let touched = Observed::after(Some(&first), touched, t + secs(5));
    assert_eq!(evaluate(Some(&touched), "me", t + secs(6)), Step::Take);

    let renewed = Observed::after(Some(&first), record("you", "b", 6), t + secs(5));
    assert_eq!(evaluate(Some(&renewed), "me", t + secs(6)), Step::Wait(t + secs(11)));
}

#[test]
fn a_record_keeps_what_is_not_ours_and_the_version_it_came_with() {
    let taken = record("you", "a", 6).held_by("me", "now");
    assert_eq!(taken["metadata"]["resourceVersion"], "7");
    assert_eq!(taken["metadata"]["labels"]["kept"], "yes");
    assert_eq!(taken["spec"]["holderIdentity"], "me");
    assert_eq!(taken["spec"]["leaseTransitions"], 4);
    assert_eq!(taken["spec"]["acquireTime"], "now");

    let renewed = Record::read(taken).held_by("me", "later");
    assert_eq!(renewed["spec"]["leaseTransitions"], 4);
    assert_eq!(renewed["spec"]["acquireTime"], "now");
    assert_eq!(renewed["spec"]["renewTime"], "later");

    let released = Record::read(renewed).released("end");
    assert_eq!(released["spec"]["holderIdentity"], "");
    let t = clock::now();
    let free = Observed::after(None, Record::read(released), t);
    assert_eq!(evaluate(Some(&free), "you", t), Step::Take);
}

#[test]
fn k16_a_thawed_holder_may_not_write_and_writes_end_before_another_begins() {
    let t = clock::now();
    let tenure = Tenure::default();
    assert_eq!(tenure.permit(t), None);
    tenure.renewed(t);
    assert_eq!(tenure.permit(t + secs(3)), Some(t + secs(6)));
    assert_eq!(tenure.permit(t + secs(4)), None);
    assert_eq!(tenure.permit(t + secs(60)), None);
    // Another that saw this renewal at the earliest possible moment takes no earlier than the
    // last moment at which a write may be under way.
    let other = seen("me", 6, t);
    assert_eq!(
        evaluate(Some(&other), "you", t + secs(6) - Duration::from_millis(1)),
        Step::Wait(t + secs(6))
    );
    tenure.ended();
    assert_eq!(tenure.permit(t + secs(1)), None);
}
