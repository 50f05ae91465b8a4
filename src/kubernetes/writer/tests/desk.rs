use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use super::bench::{Bench, short};
use super::fixtures::{desired, import, imported, key, proxied, service, whole};
use crate::drain;
use crate::health::PeerState;
use crate::objects::{Condition, ConditionStatus, Desired, ExportStatus, Kept, Object, PeerStatus};
use crate::testing::kube::{Rule, Verb};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_name_is_written_once_and_then_nothing_is() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    bench.desk.accept(desired(&web, whole(&web)), bench.now);
    let requests = bench.work().await;
    assert_eq!(
        short(&requests),
        [
            "Create services",
            // The slice that connections take, as soon as its port is recorded.
            "Create endpointslices",
            "Create serviceimports",
            "Create endpointslices",
            "Patch serviceimports status",
        ]
    );
    assert!(requests.iter().all(|request| request.code < 300));
    for object in whole(&web) {
        let there = bench.there(&object.id()).unwrap();
        assert_eq!(Object::parse(object.kind(), &there).unwrap(), object);
    }
    // Neither the watches, nor the same said again, nor a regular look write anything.
    bench.feed();
    bench.desk.notice(1_000, bench.now);
    bench.pass(SECOND);
    bench.desk.accept(desired(&web, whole(&web)), bench.now);
    bench.desk.tidy(bench.now);
    assert_eq!(short(&bench.work().await), [""; 0]);
    // Nor does the next leader.
    bench.lead(false);
    bench.lead(true);
    assert_eq!(short(&bench.work().await), [""; 0]);
}

#[tokio::test]
async fn a_switch_is_one_write_and_comes_before_additions() {
    let (web, new) = (key("shop/web"), key("shop/new"));
    let mut bench = Bench::start().await;
    bench.desk.accept(desired(&web, whole(&web)), bench.now);
    bench.work().await;
    bench.desk.accept(desired(&new, whole(&new)), bench.now);
    let mut switched = whole(&web);
    switched[1] = proxied(&web, &["10.9.0.1"]);
    bench.desk.accept(desired(&web, switched), bench.now);
    let requests = short(&bench.work().await);
    assert_eq!(requests[..2], ["Update endpointslices", "Create services"]);
}

#[tokio::test]
async fn what_others_change_is_put_right() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    bench.desk.accept(desired(&web, whole(&web)), bench.now);
    bench.work().await;
    let derived = service(&web, "tcp-80=20001").id();
    let address = bench.there(&derived).unwrap()["spec"]["clusterIP"].clone();
    bench.server.change("services", &format!("shop/{}", derived.name), |service| {
        service["spec"]["selector"] = json!({ "app": "hijack" });
        service["metadata"]["labels"]["theirs"] = json!("kept");
    });
    bench.server.delete("endpointslices", &format!("shop/{}", proxied(&web, &[]).id().name));
    bench.feed();
    bench.desk.notice(1_000, bench.now);
    bench.pass(SECOND);
    assert_eq!(short(&bench.work().await), ["Create endpointslices", "Patch services"]);
    let there = bench.there(&derived).unwrap();
    assert!(there["spec"]["selector"].is_null());
    assert_eq!(there["spec"]["clusterIP"], address);
    assert_eq!(there["metadata"]["labels"]["theirs"], "kept");
}

#[tokio::test]
async fn on_unexport_the_derived_service_stays_empty_for_30_s() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    bench.desk.accept(desired(&web, whole(&web)), bench.now);
    bench.work().await;
    bench.desk.accept(desired(&web, Vec::new()), bench.now);
    let mut requests = short(&bench.work().await);
    requests.sort();
    assert_eq!(
        requests,
        ["Delete endpointslices", "Delete endpointslices", "Delete serviceimports"]
    );
    let derived = service(&web, "").id();
    assert!(bench.there(&derived).is_some());
    assert_eq!(bench.wake(), Some(bench.now + 30 * SECOND));

    // Exported again within that time, it keeps its Service and with it its address.
    bench.pass(29 * SECOND);
    bench.desk.accept(desired(&web, whole(&web)), bench.now);
    assert!(bench.work().await.iter().all(|request| request.resource != "services"));
    bench.pass(60 * SECOND);
    assert_eq!(short(&bench.work().await), [""; 0]);

    bench.desk.accept(desired(&web, Vec::new()), bench.now);
    bench.work().await;
    bench.pass(30 * SECOND);
    assert_eq!(short(&bench.work().await), ["Delete services"]);
    assert!(bench.there(&derived).is_none());
}

#[tokio::test]
async fn a_refused_object_rests_for_a_minute_and_the_others_go_on() {
    for (code, message) in [(403, "exceeded quota: services"), (422, "spec.ports: Invalid value")] {
        let (web, api) = (key("shop/web"), key("shop/api"));
        let mut bench = Bench::start().await;
        let derived = service(&web, "").id();
        let name = format!("shop/{}", derived.name);
        let rule = Rule::refuse(code).message(message).verb(Verb::Create).resource("services");
        bench.server.fail(rule.times(1));
        bench.desk.accept(desired(&web, whole(&web)), bench.now);
        bench.desk.accept(desired(&api, whole(&api)), bench.now);
        let requests = bench.work().await;
        assert_eq!(requests.iter().filter(|request| request.code == code).count(), 1);
        assert!(bench.there(&derived).is_none());
        // The import of the same name, and everything of the other.
        assert!(bench.there(&import(&web, &[]).id()).is_some());
        for object in whole(&api) {
            assert!(bench.there(&object.id()).is_some(), "{}", object.id());
        }
        let told = Arc::clone(&bench.refusals.borrow());
        assert_eq!(told.len(), 1);
        assert!(told[&web].contains(message), "{}", told[&web]);

        // Whatever happens, it is not tried sooner.
        bench.pass(59 * SECOND);
        bench.desk.accept(desired(&web, whole(&web)), bench.now);
        bench.desk.tidy(bench.now);
        assert_eq!(short(&bench.work().await), [""; 0]);
        bench.pass(SECOND);
        let requests = bench.work().await;
        assert_eq!(short(&requests)[0], "Create services");
        assert!(bench.server.get("services", &name).is_some());
        assert!(bench.refusals.borrow().is_empty());
    }
}

#[tokio::test]
async fn a_name_in_a_namespace_that_is_not_there_is_refused_alone() {
    let (lost, web) = (key("nowhere/web"), key("shop/web"));
    let mut bench = Bench::start().await;
    bench.desk.accept(desired(&lost, vec![import(&lost, &[])]), bench.now);
    bench.desk.accept(desired(&web, whole(&web)), bench.now);
    bench.work().await;
    assert!(bench.refusals.borrow()[&lost].contains("not found"), "{:?}", bench.refusals);
    assert!(bench.there(&import(&web, &[]).id()).is_some());
}

#[tokio::test]
async fn a_foreign_object_is_never_touched_and_said() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    let derived = service(&web, "").id();
    let theirs = bench.server.put(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "shop", "name": derived.name },
        "spec": { "ports": [{ "port": 8080 }] },
    }));
    bench.desk.accept(desired(&web, whole(&web)), bench.now);
    let requests = bench.work().await;
    let of_service: Vec<_> =
        requests.into_iter().filter(|request| request.resource == "services").collect();
    assert_eq!(short(&of_service), ["Create services", "Get services"]);
    assert_eq!(bench.there(&derived).unwrap(), theirs);
    assert!(bench.refusals.borrow()[&web].contains("did not make"));

    // Unexported, it is still not ours.
    bench.desk.accept(desired(&web, Vec::new()), bench.now);
    bench.work().await;
    bench.pass(61 * SECOND);
    bench.work().await;
    assert_eq!(bench.there(&derived).unwrap(), theirs);

    let (_leader, leads) = watch::channel(true);
    let (trigger, drained) = drain::channel();
    let speaker = bench.speaker.take().unwrap();
    let speaking = speaker.run(bench.clients.write.clone(), leads, drained);
    let name = &derived.name;
    tokio::select! {
        () = speaking => panic!("it speaks until the drain"),
        events = bench.server.await_list("events", |events| !events.is_empty()) => {
            assert_eq!(events[0]["reason"], "NameTaken");
            assert_eq!(events[0]["involvedObject"]["name"], json!(name));
        }
    }
    drop(trigger);
}

#[tokio::test]
async fn what_the_server_alters_is_not_written_over_and_over() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    bench.desk.accept(desired(&web, vec![proxied(&web, &["10.1.0.1"])]), bench.now);
    bench.work().await;
    // As an admission webhook would: what is written is not what is kept.
    let (target, job, _) = {
        bench.desk.accept(desired(&web, vec![proxied(&web, &["10.1.0.2"])]), bench.now);
        bench.next().unwrap()
    };
    let mut kept = super::fixtures::existing(&proxied(&web, &["10.1.0.3"]));
    kept.version = "1000000".into();
    let ended = super::super::job::Ended {
        target,
        aim: job.aim,
        uid: job.uid,
        outcome: super::super::job::Outcome::Altered(kept),
    };
    bench.desk.finish(ended, bench.now);
    assert_eq!(short(&bench.work().await), [""; 0]);
    assert!(bench.refusals.borrow()[&web].contains("admission webhook"));
}

#[tokio::test]
async fn while_the_server_is_away_writes_wait_and_nothing_is_refused() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    bench.server.stop().await;
    bench.desk.accept(desired(&web, whole(&web)), bench.now);
    let mut attempts = 0;
    for _ in 0..600 {
        while let Some(next) = bench.next() {
            attempts += 1;
            let ended = bench.send(next).await;
            bench.desk.finish(ended, bench.now);
        }
        bench.pass(SECOND / 10);
    }
    assert!(attempts < 20, "{attempts} attempts in a minute");
    bench.work().await;
    assert!(bench.refusals.borrow().is_empty());
    bench.server.resume().await;
    bench.pass(10 * SECOND);
    bench.work().await;
    for object in whole(&web) {
        assert!(bench.there(&object.id()).is_some(), "{}", object.id());
    }
}

#[tokio::test]
async fn nothing_is_written_before_the_mirror_is_synced_or_for_names_never_heard_of() {
    let (web, old) = (key("shop/web"), key("shop/old"));
    let mut bench = Bench::start().await;
    for object in whole(&old) {
        bench.server.put(object.to_json());
    }
    bench.feed();
    bench.desk.notice(1_000, bench.now);
    bench.pass(SECOND);
    assert_eq!(short(&bench.work().await), [""; 0]);

    bench.mirror = Arc::default();
    let (events, _speaker) = crate::kubernetes::events::channel("portolan-0".into());
    let tenure = Arc::new(crate::kubernetes::lease::Tenure::default());
    tenure.renewed(bench.now);
    let metrics = super::super::WriterMetrics::register(&prometheus::Registry::new()).unwrap();
    bench.desk = super::super::desk::Desk::new(
        Arc::clone(&bench.clients),
        Arc::clone(&bench.mirror),
        tenure,
        events,
        metrics,
    );
    bench.desk.lead(true, bench.now);
    bench.desk.accept(desired(&web, whole(&web)), bench.now);
    assert_eq!(short(&bench.work().await), [""; 0]);
    bench.feed();
    bench.desk.notice(1, bench.now);
    bench.now += SECOND;
    assert!(!bench.work().await.is_empty());
}

#[tokio::test]
async fn a_silent_sibling_leaves_the_slices_without_a_leader() {
    let (web, api, alone) = (key("shop/web"), key("shop/api"), key("shop/alone"));
    let mut bench = Bench::start().await;
    for slice in [
        proxied(&web, &["10.1.0.1", "10.1.0.2"]),
        imported(&web, &["10.1.0.1", "10.1.0.2"]),
        proxied(&api, &["10.1.0.1", "10.1.0.3"]),
        proxied(&alone, &["10.1.0.1"]),
    ] {
        bench.server.put(slice.to_json());
    }
    bench.feed();
    bench.lead(false);
    // Another sibling was faster with one of them, unseen so far.
    let quick = proxied(&api, &["10.1.0.3"]);
    bench.server.change("endpointslices", &format!("shop/{}", quick.id().name), |slice| {
        slice["endpoints"].as_array_mut().unwrap().remove(0);
    });
    bench.desk.withdraw(&["10.1.0.1".parse().unwrap()], bench.now);
    let requests = bench.work().await;
    assert_eq!(requests.iter().filter(|request| request.code == 200).count(), 2, "{requests:#?}");
    let left = |object: &Object| bench.there(&object.id()).unwrap()["endpoints"].clone();
    assert_eq!(left(&proxied(&web, &[]))[0]["addresses"], json!(["10.1.0.2"]));
    assert_eq!(left(&quick)[0]["addresses"], json!(["10.1.0.3"]));
    assert_eq!(left(&proxied(&alone, &[]))[0]["addresses"], json!(["10.1.0.1"]));
    assert_eq!(left(&imported(&web, &[])).as_array().unwrap().len(), 2);
}

fn export(uid: &str) -> ExportStatus {
    let condition = Condition {
        kind: "Valid".into(),
        status: ConditionStatus::True,
        reason: "Valid".into(),
        message: "".into(),
        observed_generation: Some(1),
        last_transition: 1_000,
    };
    ExportStatus { key: key("shop/web"), uid: uid.into(), conditions: vec![condition] }
}

#[tokio::test]
async fn the_status_of_an_export_is_written_once_and_recomputed_after_a_conflict() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    let made = bench.server.put(json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": { "namespace": "shop", "name": "web" },
    }));
    let uid = made["metadata"]["uid"].as_str().unwrap();
    bench.server.fail(Rule::refuse(409).verb(Verb::Patch).resource("serviceexports").times(1));
    let wanted = || Desired {
        key: web.clone(),
        objects: Vec::new(),
        export: Some(export(uid)),
        kept: Kept::default(),
    };
    bench.desk.accept(wanted(), bench.now);
    assert_eq!(
        short(&bench.work().await),
        [
            "Get serviceexports",
            "Patch serviceexports status",
            "Get serviceexports",
            "Patch serviceexports status",
        ]
    );
    let there = bench.server.get("serviceexports", "shop/web").unwrap();
    assert_eq!(there["status"]["conditions"][0]["type"], "Valid");
    bench.desk.accept(wanted(), bench.now);
    assert_eq!(short(&bench.work().await), [""; 0]);
    // The next leader looks and finds it as it should be.
    bench.lead(true);
    assert_eq!(short(&bench.work().await), ["Get serviceexports"]);
    // One that was made anew is not the one it was decided for.
    let gone = Desired {
        key: web.clone(),
        objects: Vec::new(),
        export: Some(export("uid-0")),
        kept: Kept::default(),
    };
    bench.desk.accept(gone, bench.now);
    assert_eq!(short(&bench.work().await), ["Get serviceexports"]);
}

#[tokio::test]
async fn the_status_of_a_peer_is_written_at_most_every_5_s() {
    let mut bench = Bench::start().await;
    bench.server.put(json!({
        "apiVersion": "portolan.dev/v1alpha1", "kind": "Peer", "metadata": { "name": "oregon" },
        "spec": { "addresses": ["oregon.example:8443"] },
    }));
    let status = |sessions| {
        let status = PeerStatus {
            state: PeerState::Up,
            rtt: Some(Duration::from_millis(20)),
            sessions,
            services: 1,
            conditions: Vec::new(),
            observed_generation: Some(1),
        };
        Arc::new(BTreeMap::from([("oregon".into(), status)]))
    };
    bench.desk.take_peers(status(1), bench.now);
    assert_eq!(short(&bench.work().await), ["Get peers", "Patch peers status"]);
    bench.desk.take_peers(status(2), bench.now);
    assert_eq!(short(&bench.work().await), [""; 0]);
    bench.pass(5 * SECOND);
    assert_eq!(short(&bench.work().await), ["Get peers", "Patch peers status"]);
    assert_eq!(bench.server.get("peers", "oregon").unwrap()["status"]["sessions"], 2);
    bench.pass(60 * SECOND);
    bench.desk.tidy(bench.now);
    assert_eq!(short(&bench.work().await), [""; 0]);
}
