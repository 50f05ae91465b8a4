use std::collections::BTreeMap;

use super::super::*;
use super::scene::*;
use crate::catalog::{IpFamily, ObjectKind, ServiceObject, ServiceType};
use crate::health::{PeerState, PeerView};
use crate::routes;

use ConditionStatus::{False, True, Unknown};

const HTTP: &str = "http:TCP:80";

fn own(service: ServiceObject) -> Scene {
    Scene::new().own(service, &[(&[("http", 8080)], &[endpoint("10.0.0.1")])])
}

fn of<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| *condition.kind == *kind)
}

/// (status, reason, message) of a condition of the export.
fn exported(scene: &Scene, kind: &str) -> Option<(ConditionStatus, String, String)> {
    let status = scene.desired().export.unwrap();
    of(&status.conditions, kind).map(|c| (c.status, c.reason.to_string(), c.message.to_string()))
}

fn told(scene: &Scene, kind: &str) -> Option<(ConditionStatus, String)> {
    exported(scene, kind).map(|(status, reason, _)| (status, reason))
}

fn says(status: ConditionStatus, reason: &str) -> Option<(ConditionStatus, String)> {
    Some((status, reason.to_owned()))
}

fn ready(scene: &Scene) -> (ConditionStatus, String, String) {
    let import = scene.import().unwrap();
    let ready = of(&import.status.conditions, "Ready").unwrap();
    (ready.status, ready.reason.to_string(), ready.message.to_string())
}

#[test]
fn an_export_that_is_in_order_says_so() {
    let scene = own(service(&[HTTP]));
    assert_eq!(told(&scene, "Valid"), says(True, "Valid"));
    assert_eq!(told(&scene, "Ready"), says(True, "Exported"));
    assert_eq!(told(&scene, "Conflict"), says(False, "NoConflicts"));
    let status = scene.desired().export.unwrap();
    assert!(status.conditions.iter().all(|c| c.observed_generation == Some(3)));
    assert_eq!(&*status.uid, "export");
}

#[test]
fn an_export_without_a_service_waits() {
    let mut scene = own(service(&[HTTP])).gone();
    scene.observed.export =
        Some(ObservedExport { uid: "export".into(), generation: None, conditions: Vec::new() });
    assert_eq!(told(&scene, "Valid"), None);
    assert_eq!(told(&scene, "Ready"), says(Unknown, "Pending"));
    scene.refused = Some(crate::catalog::NotExported::NoService);
    assert_eq!(told(&scene, "Valid"), says(False, "NoService"));
    assert_eq!(told(&scene, "Ready"), says(False, "Pending"));
    assert_eq!(told(&scene, "Conflict"), None);
    assert!(scene.desired().objects.is_empty());
}

#[test]
fn an_external_name_is_invalid() {
    let scene = own(ServiceObject { kind: ObjectKind::ExternalName, ..service(&[HTTP]) });
    assert_eq!(told(&scene, "Valid"), says(False, "InvalidServiceType"));
    assert_eq!(told(&scene, "Ready"), says(False, "Failed"));
    // What others export is imported all the same.
    let scene = scene.peer("oregon", export(&[HTTP])).allot().settle();
    assert_eq!(ready(&scene).0, True);
    assert_eq!(told(&scene, "Conflict"), None);
}

#[test]
fn a_bad_annotation_is_told_in_a_valid_export() {
    let slices: &[SliceOf<'_>] = &[];
    let scene = Scene::new().own_with(service(&[HTTP]), slices, &[("policy", "nonsense")]);
    let (status, reason, message) = exported(&scene, "Valid").unwrap();
    assert_eq!((status, &*reason), (True, "Valid"));
    assert!(message.contains("policy"), "{message}");
}

#[test]
fn conflicts_name_field_winner_why_and_how_many() {
    let mut other = export(&[HTTP, "admin:TCP:9000"]);
    other.service_type = ServiceType::Headless;
    let mut third = export(&[HTTP]);
    third.ip_families = vec![IpFamily::V6];
    let scene = own(service(&[HTTP])).peer("oregon", other).peer("tokyo", third);
    let (status, reason, message) = exported(&scene, "Conflict").unwrap();
    assert_eq!((status, &*reason), (True, "PortConflict,TypeConflict,IPFamilyConflict"));
    assert_eq!(
        message,
        "ports: all are joined, those of paris first, whose export is the oldest; 1 of 3 exporting clusters disagree; \
         type: the value of paris is used, whose export is the oldest; 1 of 3 exporting clusters disagree; \
         ipFamilies: the value of paris is used, whose export is the oldest; 1 of 3 exporting clusters disagree"
    );
}

#[test]
fn the_time_of_a_condition_moves_only_with_its_status() {
    let mut scene = own(service(&[HTTP])).settle();
    let at = |scene: &Scene, kind: &str| {
        of(&scene.desired().export.unwrap().conditions, kind).unwrap().last_transition
    };
    let first = NOW_MS / 1000;
    assert_eq!(at(&scene, "Conflict"), first);
    scene.now_ms += 60_000;
    assert_eq!(at(&scene, "Conflict"), first);
    let mut scene = scene.peer("oregon", export(&[HTTP, "admin:TCP:9000"])).allot();
    assert_eq!(at(&scene, "Conflict"), first + 60);
    assert_eq!(at(&scene, "Valid"), first);
    scene = scene.settle();
    scene.now_ms += 60_000;
    // Another reason is no other status.
    let mut other = export(&[HTTP, "admin:TCP:9000"]);
    other.service_type = ServiceType::Headless;
    let scene = scene.peer("oregon", other);
    assert_eq!(at(&scene, "Conflict"), first + 60);
}

#[test]
fn an_import_that_told_what_was_in_its_way_stays_when_that_is_gone() {
    let mut scene = Scene::new().peer("oregon", export(&[HTTP])).allot();
    scene.observed.refusal = Some("exceeded quota: services".into());
    scene.write();
    let mut scene = scene.lose(Kind::Service);
    scene.observed.refusal = None;
    let (_, reason, message) = ready(&scene);
    assert_eq!(reason, "Pending");
    assert!(message.starts_with("waits for the addresses"), "{message}");
    assert_eq!(ready(&scene.settle()).0, True);
}

#[test]
fn conditions_of_others_stay() {
    let mut scene = own(service(&[HTTP])).settle();
    let theirs = Condition {
        kind: "example.org/Audited".into(),
        status: True,
        reason: "Audited".into(),
        message: "".into(),
        observed_generation: None,
        last_transition: 1,
    };
    scene.observed.export.as_mut().unwrap().conditions.insert(0, theirs.clone());
    scene.observed.import.as_mut().unwrap().conditions.insert(0, theirs.clone());
    assert_eq!(scene.desired().export.unwrap().conditions[3], theirs);
    assert_eq!(scene.import().unwrap().status.conditions[1], theirs);
}

#[test]
fn an_import_is_ready_once_it_has_addresses_and_somewhere_to_go() {
    let mut scene = Scene::new().peer("oregon", export(&[HTTP])).allot();
    assert!(scene.import().is_none(), "no import before its addresses");
    scene.write();
    assert_eq!(ready(&scene).0, True);
    assert_eq!(scene.import().unwrap().spec.ips, [ip("10.96.0.7")]);
    let shut = |scene: &mut Scene| {
        for pod in &mut scene.world.gateways {
            pod.open = std::sync::Arc::default();
        }
    };
    shut(&mut scene);
    let (status, reason, message) = ready(&scene);
    assert_eq!((status, &*reason), (False, "Pending"));
    assert!(message.contains("TCP/80"), "{message}");
}

#[test]
fn an_exhausted_range_is_told_on_that_import() {
    let mut scene = own(service(&[HTTP, "admin:TCP:9000"])).settle();
    let mut book = PortBook::new(number(20_001)..=number(20_001));
    let ports = [key(HTTP), key("admin:TCP:9000")].into();
    scene.exhausted = Some(book.assign(&web().into(), &ports, crate::clock::now()).unwrap_err());
    let (status, reason, message) = ready(&scene);
    assert_eq!((status, &*reason), (False, "Pending"));
    assert!(message.contains("no TCP port of the gateway is left for shop/web"), "{message}");
    assert_eq!(scene.behind(), ["tcp-80->8080: 10.0.0.1"], "what needs no gateway goes on");
}

#[test]
fn a_refused_write_is_told_in_the_servers_words() {
    let mut scene = Scene::new().peer("oregon", export(&[HTTP])).allot();
    scene.observed.refusal = Some("exceeded quota: services".into());
    let (status, reason, message) = ready(&scene);
    assert_eq!((status, &*reason), (False, "Pending"));
    assert!(message.ends_with("exceeded quota: services"), "{message}");
    assert!(scene.import().unwrap().spec.ips.is_empty());
    scene.observed.refusal = Some("é".repeat(40_000).into());
    assert_eq!(ready(&scene).2.chars().count(), 32_768);
}

#[test]
fn a_foreign_service_in_the_way_is_told_and_gets_no_slices() {
    let mut scene = Scene::new().peer("oregon", export(&[HTTP])).allot();
    scene.observed.service = Some(ObservedService {
        uid: "theirs".into(),
        ips: vec![ip("10.96.0.99")],
        ports: scene.allotted.clone(),
        foreign: true,
    });
    let (_, reason, message) = ready(&scene);
    assert_eq!(reason, "Pending");
    assert!(message.contains(&derived_name(&web())), "{message}");
    assert!(scene.import().unwrap().spec.ips.is_empty());
    assert!(scene.slices(LABEL_SERVICE, None).is_empty());
}

#[test]
fn a_foreign_import_owns_no_slices_and_lends_no_addresses() {
    let mut scene = Scene::new().peer("oregon", export(&[HTTP])).allot().settle();
    scene.observed.import = Some(ObservedImport {
        uid: "theirs".into(),
        ips: vec![ip("10.96.0.99")],
        conditions: Vec::new(),
        foreign: true,
    });
    assert!(scene.of("oregon").is_empty());
    assert_eq!(scene.import().unwrap().spec.ips, [ip("10.96.0.7")]);
    assert_eq!(scene.behind().len(), 1);
}

#[test]
fn families_are_those_that_exporters_and_cluster_share() {
    let table: [(&[IpFamily], &[IpFamily], &[IpFamily]); 6] = [
        (&[IpFamily::V4], &[IpFamily::V4], &[IpFamily::V4]),
        (&[IpFamily::V4, IpFamily::V6], &[IpFamily::V4], &[IpFamily::V4]),
        (&[IpFamily::V4], &[IpFamily::V6, IpFamily::V4], &[IpFamily::V4]),
        (
            &[IpFamily::V4, IpFamily::V6],
            &[IpFamily::V6, IpFamily::V4],
            &[IpFamily::V6, IpFamily::V4],
        ),
        // Nothing in common: the gateway translates.
        (&[IpFamily::V6], &[IpFamily::V4], &[IpFamily::V4]),
        (&[], &[IpFamily::V6, IpFamily::V4], &[IpFamily::V6, IpFamily::V4]),
    ];
    for (exported, cluster, expected) in table {
        let mut there = export(&[HTTP]);
        there.ip_families = exported.to_vec();
        let mut scene = Scene::new().peer("oregon", there).allot();
        scene.world.families = cluster.to_vec();
        assert_eq!(scene.derived().unwrap().families, expected, "{exported:?} in {cluster:?}");
        let scene = scene.settle();
        assert_eq!(ready(&scene).0, True);
    }
    // The union counts: one exporter of each family.
    let mut other = export(&[HTTP]);
    other.ip_families = vec![IpFamily::V6];
    let scene = Scene::new().dual_stack().peer("a", export(&[HTTP])).peer("b", other);
    assert_eq!(scene.derived().unwrap().families, [IpFamily::V4, IpFamily::V6]);
}

#[test]
fn what_no_gateway_can_translate_is_not_supported() {
    let six = |ports: &[&str], service_type| {
        let mut there = export(ports);
        there.ip_families = vec![IpFamily::V6];
        there.service_type = service_type;
        Scene::new().peer("oregon", there).allot().settle()
    };
    let sctp = six(&["sig:SCTP:3868"], ServiceType::ClusterSetIp);
    let (status, reason, message) = ready(&sctp);
    assert_eq!((status, &*reason), (False, "IPFamilyNotSupported"));
    assert!(message.contains("IPv4"), "{message}");
    assert_eq!(ready(&six(&[HTTP], ServiceType::Headless)).1, "IPFamilyNotSupported");
    assert_eq!(ready(&six(&[HTTP, "sig:SCTP:3868"], ServiceType::ClusterSetIp)).0, True);
}

#[test]
fn an_export_without_ports_is_told_and_has_no_service() {
    let scene = Scene::new().peer("oregon", export(&[])).settle();
    assert_eq!(scene.derived(), None);
    assert_eq!(ready(&scene).1, "Pending");
}

#[test]
fn labels_that_no_object_may_have_are_left_out_and_told() {
    let mut there = export(&[HTTP]);
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<Box<str>, Box<str>> {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    };
    there.labels =
        map(&[("team", "shop"), ("example.org/tier", "1"), ("bad key", "x"), ("a", "b c")]);
    there.annotations = map(&[("note", "any text: é"), ("Example.org/x", "1"), ("/", "1")]);
    let scene = Scene::new().peer("oregon", there.clone()).allot().settle();
    let import = scene.import().unwrap();
    assert_eq!(&*import.meta.labels["team"], "shop");
    assert_eq!(&*import.meta.labels["example.org/tier"], "1");
    assert_eq!(&*import.meta.annotations["note"], "any text: é");
    assert_eq!((import.meta.labels.len(), import.meta.annotations.len()), (4, 2));
    let (status, _, message) = ready(&scene);
    assert_eq!(status, True);
    for key in ["bad key", "a,", "Example.org/x", "/"] {
        assert!(message.contains(key), "{key}: {message}");
    }
    there.annotations = map(&[("a", &"x".repeat(60_000)), ("b", &"x".repeat(60_000))]);
    let scene = Scene::new().peer("oregon", there).allot().settle();
    assert!(!scene.import().unwrap().meta.annotations.contains_key("b"));
}

#[test]
fn a_peer_shows_state_round_trip_and_what_went_wrong() {
    let peer = |state| routes::PeerStatus {
        health: PeerView {
            state,
            since: crate::clock::now(),
            rtt: Some(std::time::Duration::from_millis(31)),
            ranking_rtt: Some(std::time::Duration::from_micros(20_449)),
            loss_percent: 0.0,
            replicas: Vec::new(),
        },
        sessions: 2,
        revision: 9,
        last_error: Some("it hung up".into()),
        addresses: Vec::new(),
    };
    let of = |state, before: &[Condition], now_ms| {
        PeerStatus::of(&peer(state), 7, before, Some(4), now_ms)
    };
    let up = of(PeerState::Up, &[], NOW_MS);
    assert_eq!(
        up.to_json(),
        serde_json::json!({
            "state": "up", "rtt": "20.4", "sessions": 2, "services": 7, "observedGeneration": 4,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Up", "message": "it hung up",
                "observedGeneration": 4, "lastTransitionTime": "2027-01-15T08:00:00Z",
            }],
        })
    );
    let later = of(PeerState::Suspect, &up.conditions, NOW_MS + 5_000);
    assert_eq!(later.conditions[0].last_transition, up.conditions[0].last_transition);
    let down = of(PeerState::Down, &up.conditions, NOW_MS + 5_000);
    assert_eq!(down.conditions[0].last_transition, NOW_MS / 1000 + 5);
    assert_eq!(
        (down.conditions[0].status, of(PeerState::Unknown, &[], 0).conditions[0].status),
        (False, Unknown)
    );
}
