use std::time::Duration;

use serde_json::{Value, json};

use super::super::status::StatusJob;
use super::fixtures::key;
use crate::health::PeerState;
use crate::objects::{Condition, ConditionStatus, ExportStatus, McsVersion, PeerStatus};

fn condition(kind: &str, status: ConditionStatus, reason: &str) -> Condition {
    Condition {
        kind: kind.into(),
        status,
        reason: reason.into(),
        message: "".into(),
        observed_generation: Some(1),
        last_transition: 1_000,
    }
}

fn job() -> StatusJob {
    let conditions = vec![
        condition("Valid", ConditionStatus::True, "Valid"),
        condition("Conflict", ConditionStatus::False, "NoConflicts"),
        // Of others, as found earlier: the present ones count.
        condition("Theirs", ConditionStatus::False, "Old"),
    ];
    let status = ExportStatus { key: key("shop/web"), uid: "uid-1".into(), conditions };
    StatusJob::export(&status, McsVersion::V1beta1)
}

fn export(uid: &str, conditions: Value) -> Value {
    json!({
        "metadata": { "uid": uid, "resourceVersion": "9" },
        "status": { "conditions": conditions },
    })
}

#[test]
fn conditions_of_others_stay_and_ours_keep_their_time() {
    let theirs = json!({ "type": "Theirs", "status": "True", "reason": "New" });
    let valid = json!({
        "type": "Valid", "status": "True", "reason": "Valid", "message": "",
        "lastTransitionTime": "1970-01-01T00:00:07Z", "observedGeneration": 1,
    });
    let patch = job().patch(&export("uid-1", json!([theirs, valid]))).unwrap();
    assert_eq!(patch["metadata"], json!({ "uid": "uid-1", "resourceVersion": "9" }));
    let conditions = patch["status"]["conditions"].as_array().unwrap();
    assert_eq!(conditions.len(), 3);
    assert_eq!(conditions[0], theirs);
    assert_eq!(conditions[1], valid);
    assert_eq!(conditions[2]["type"], "Conflict");
    assert_eq!(conditions[2]["lastTransitionTime"], "1970-01-01T00:16:40Z");

    // What was written needs no write.
    assert_eq!(job().patch(&export("uid-1", json!(conditions))), None);
    // Another object of the name is not the one it was decided for.
    assert_eq!(job().patch(&export("uid-2", json!([]))), None);
}

#[test]
fn a_status_that_moves_has_a_new_time() {
    let invalid = json!({
        "type": "Valid", "status": "False", "reason": "NoService",
        "lastTransitionTime": "1970-01-01T00:00:07Z",
    });
    let patch = job().patch(&export("uid-1", json!([invalid]))).unwrap();
    assert_eq!(patch["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:16:40Z");
}

#[test]
fn a_peer_shows_what_it_is_and_nothing_that_it_was() {
    let mut status = PeerStatus {
        state: PeerState::Up,
        rtt: Some(Duration::from_micros(20_400)),
        sessions: 2,
        services: 5,
        conditions: Vec::new(),
        observed_generation: Some(3),
    };
    let bare = json!({ "metadata": { "uid": "uid-1", "resourceVersion": "9" } });
    let patch = StatusJob::peer("oregon", &status).patch(&bare).unwrap();
    assert_eq!(patch["status"]["rtt"], "20.4");
    let mut peer = bare;
    peer["status"] = patch["status"].clone();
    assert_eq!(StatusJob::peer("oregon", &status).patch(&peer), None);

    status.state = PeerState::Down;
    status.rtt = None;
    let patch = StatusJob::peer("oregon", &status).patch(&peer).unwrap();
    assert_eq!(patch["status"]["state"], "down");
    assert_eq!(patch["status"].get("rtt"), Some(&Value::Null), "a merge patch takes it away");
}
