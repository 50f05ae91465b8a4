use std::time::Duration;

use super::{BURST, Event, SILENCE, Said, Severity, Subject, post};
use crate::clock;

fn event(name: &str, namespace: &str) -> Event {
    Event {
        subject: Subject {
            api_version: "v1".into(),
            kind: "Service".into(),
            namespace: namespace.into(),
            name: name.into(),
            uid: None,
        },
        severity: Severity::Warning,
        reason: "NameTaken",
        message: "ü".repeat(1_000).into(),
    }
}

#[test]
fn the_same_thing_is_said_once_for_a_while() {
    let now = clock::now();
    let mut said = Said::default();
    assert!(said.admits(&event("web", "shop"), now));
    assert!(!said.admits(&event("web", "shop"), now + SILENCE - Duration::from_secs(1)));
    assert!(said.admits(&event("web", "other"), now));
    assert!(said.admits(&event("web", "shop"), now + SILENCE));
}

#[test]
fn a_flood_is_cut_to_the_budget() {
    let now = clock::now();
    let mut said = Said::default();
    let mut admitted =
        |at| (0..1_000).filter(|n| said.admits(&event(&format!("{n}-{at:?}"), "shop"), at)).count();
    assert_eq!(admitted(now), BURST);
    assert_eq!(admitted(now + Duration::from_secs(3)), 3);
}

#[test]
fn an_event_is_in_the_namespace_of_what_it_is_about() {
    let call = post(&event("web", "shop"), "portolan-0", "then");
    assert_eq!(call.path, "/api/v1/namespaces/shop/events");
    assert_eq!(call.body["involvedObject"]["name"], "web");
    assert!(call.body["message"].as_str().unwrap().len() <= 1_024);
    let call = post(&event("oregon", ""), "portolan-0", "then");
    assert_eq!(call.path, "/api/v1/namespaces/default/events");
    assert!(call.body["involvedObject"].get("namespace").is_none());
}
