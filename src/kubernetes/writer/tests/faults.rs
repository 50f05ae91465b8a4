//! What stands in the way of one object, and of that one alone.

use std::time::Duration;

use serde_json::json;

use super::super::job::{Ended, Outcome};
use super::bench::{Bench, short};
use super::fixtures::{desired, import, key, proxied, service, whole};
use crate::catalog::IpFamily;
use crate::clock;
use crate::kubernetes::calls::Fault;
use crate::model::PortNumber;
use crate::objects::{Condition, ConditionStatus, Kind, Object};
use crate::testing::kube::{Rule, Verb};

const SECOND: Duration = Duration::from_secs(1);

/// The next request is not answered in time.
fn late(bench: &mut Bench) {
    let (target, job, _) = bench.next().unwrap();
    let outcome = Outcome::Failed(Fault::Late("no answer in time".into()));
    bench.desk.finish(Ended { target, aim: job.aim, uid: job.uid, outcome }, bench.now);
}

#[tokio::test]
async fn a_webhook_that_hangs_holds_up_its_object_alone() {
    let (web, api) = (key("shop/web"), key("shop/api"));
    let mut bench = Bench::start().await;
    bench.server.fail(Rule::stall().verb(Verb::Create).resource("services"));
    bench.desk.accept(desired(&web, vec![service(&web, "")]), bench.now);
    let (target, job, _) = bench.next().unwrap();
    let soon = clock::now() + SECOND / 10;
    let ended = job.run(target.clone(), bench.clients.write.clone(), soon).await;
    assert!(matches!(ended.outcome, Outcome::Failed(Fault::Late(_))), "{:?}", ended.outcome);
    bench.desk.finish(ended, bench.now);

    bench.desk.accept(desired(&api, vec![import(&api, &[])]), bench.now);
    assert_eq!(short(&bench.work().await)[0], "Create services", "nobody else waits");
    assert!(bench.there(&import(&api, &[]).id()).is_some());
    assert!(bench.refusals.borrow()[&web].contains("webhook"), "{:?}", bench.refusals);
    // It is tried again, less and less often.
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let from = bench.now;
        let next = bench.wake().unwrap();
        bench.pass(next - from);
        pauses.push((next - from).as_secs());
        late(&mut bench);
    }
    assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
}

#[tokio::test]
async fn k01_where_the_lease_is_not_renewed_either_the_server_is_away_and_nothing_is_refused() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    bench.desk.accept(desired(&web, vec![service(&web, "")]), bench.now);
    let (target, job, _) = bench.next().unwrap();
    bench.now += 5 * SECOND;
    let outcome = Outcome::Failed(Fault::Late("no answer in time".into()));
    bench.desk.finish(Ended { target, aim: job.aim, uid: job.uid, outcome }, bench.now);
    bench.lead(true);
    bench.work().await;
    assert!(bench.refusals.borrow().is_empty());
}

#[tokio::test]
async fn a_slice_that_was_late_once_is_written_soon_after() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    bench.desk.accept(desired(&web, vec![proxied(&web, &["10.1.0.1"])]), bench.now);
    late(&mut bench);
    bench.pass(2 * SECOND);
    assert_eq!(short(&bench.work().await), ["Create endpointslices"]);
    assert!(bench.refusals.borrow().is_empty());
}

/// The derived Service as it is made again with the import's address.
fn again(address: &str) -> Object {
    let Object::Service(mut again) = service(&key("shop/web"), "") else { panic!("a Service") };
    again.ips = vec![address.parse().unwrap()];
    Object::Service(again)
}

#[tokio::test]
async fn an_address_that_another_service_got_meanwhile_is_given_up_for_another() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    let other = bench.server.put(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "shop", "name": "other" },
        "spec": { "ports": [{ "port": 80 }] },
    }));
    let address = other["spec"]["clusterIP"].as_str().unwrap().to_owned();
    bench.desk.accept(desired(&web, vec![again(&address)]), bench.now);
    let id = again(&address).id();
    // For a while it may be the lost one's own.
    for _ in 0..25 {
        bench.work().await;
        assert!(bench.there(&id).is_none());
        bench.pass(SECOND / 5);
    }
    bench.work().await;
    let there = bench.there(&id).expect("it has another address");
    assert_ne!(there["spec"]["clusterIP"], json!(address));
    assert!(bench.refusals.borrow().is_empty());
    bench.pass(60 * SECOND);
    bench.desk.accept(desired(&web, vec![again(&address)]), bench.now);
    assert_eq!(short(&bench.work().await), [""; 0]);
}

#[tokio::test]
async fn an_address_out_of_the_cluster_s_ranges_is_given_up_at_once() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    let message = "spec.clusterIPs: Invalid value: [\"10.7.0.1\"]: failed to allocate IP 10.7.0.1: \
                   the provided IP (10.7.0.1) is not in the valid range";
    let rule = Rule::refuse(422).message(message).verb(Verb::Create).resource("services");
    bench.server.fail(rule.times(1));
    bench.desk.accept(desired(&web, vec![again("10.7.0.1")]), bench.now);
    assert_eq!(short(&bench.work().await), ["Create services", "Create services"]);
    let there = bench.there(&again("10.7.0.1").id()).unwrap();
    assert_ne!(there["spec"]["clusterIP"], "10.7.0.1");
}

#[tokio::test]
async fn ours_comes_as_soon_as_the_foreign_object_of_its_name_is_gone() {
    let web = key("shop/web");
    for ours in whole(&web) {
        let id = ours.id();
        let (plural, name) = match id.kind {
            Kind::Service => ("services", format!("shop/{}", id.name)),
            Kind::Import => ("serviceimports", format!("shop/{}", id.name)),
            Kind::Slice => ("endpointslices", format!("shop/{}", id.name)),
        };
        let mut bench = Bench::start().await;
        let mut theirs = ours.to_json();
        theirs["metadata"]["labels"] = json!({});
        bench.server.put(theirs);
        bench.feed();
        bench.desk.accept(desired(&web, vec![ours.clone()]), bench.now);
        bench.work().await;
        assert!(bench.refusals.borrow()[&web].contains("did not make"));
        bench.feed();
        bench.desk.notice(1_000, bench.now);
        bench.pass(SECOND);
        assert_eq!(short(&bench.work().await), [""; 0], "as long as it is there");

        bench.server.delete(plural, &name);
        bench.feed();
        bench.desk.notice(1_001, bench.now);
        bench.pass(SECOND);
        bench.work().await;
        let there = bench.there(&id).unwrap_or_else(|| panic!("{id}"));
        assert!(Object::parse(id.kind, &there).unwrap().is_ours());
        assert!(bench.refusals.borrow().is_empty());
    }
}

const OLD_SCHEMA: [&str; 5] = [
    "/spec/ipFamilies",
    "/spec/internalTrafficPolicy",
    "/spec/trafficDistribution",
    "/status/conditions",
    "/status/endpointSliceObjects",
];

fn rich(name: &str, port: u32) -> Object {
    let Object::Import(mut import) = import(&key(name), &["oregon"]) else { panic!("an import") };
    import.spec.ips = vec!["10.96.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    import.spec.families = vec![IpFamily::V4, IpFamily::V6];
    import.spec.ports[0].port = PortNumber::new(port).unwrap();
    import.spec.traffic_distribution = Some("PreferClose".into());
    import.status.conditions = vec![Condition {
        kind: "Ready".into(),
        status: ConditionStatus::True,
        reason: "Ready".into(),
        message: "".into(),
        observed_generation: None,
        last_transition: 1_000,
    }];
    Object::Import(import)
}

#[tokio::test]
async fn k12_what_an_older_schema_does_not_keep_is_left_out_and_said_once() {
    let mut bench = Bench::start().await;
    bench.server.prune("serviceimports", &OLD_SCHEMA);
    let too_many = "spec.ips: Too many: 2: must have at most 1 items";
    let rule = Rule::refuse(422).message(too_many).verb(Verb::Create).resource("serviceimports");
    bench.server.fail(rule.times(1));
    let names = ["shop/web", "shop/api"];
    for name in names {
        bench.desk.accept(desired(&key(name), vec![rich(name, 80)]), bench.now);
    }
    let requests = short(&bench.work().await);
    let count = |what: &str| requests.iter().filter(|request| *request == what).count();
    assert_eq!(count("Create serviceimports"), 3, "one of them is refused: {requests:?}");
    for name in names {
        let there = bench.there(&import(&key(name), &[]).id()).unwrap();
        assert_eq!(there["spec"]["ips"], json!(["10.96.0.7"]));
        assert_eq!(there["status"]["clusters"], json!([{ "cluster": "oregon" }]));
    }
    assert!(bench.refusals.borrow().is_empty());

    // Whoever asks, nothing is written again; what changes is.
    for round in 0..3 {
        bench.pass(61 * SECOND);
        bench.feed();
        bench.desk.tidy(bench.now);
        for name in names {
            bench.desk.accept(desired(&key(name), vec![rich(name, 80)]), bench.now);
        }
        assert_eq!(short(&bench.work().await), [""; 0], "round {round}");
    }
    bench.desk.accept(desired(&key("shop/web"), vec![rich("shop/web", 81)]), bench.now);
    assert_eq!(short(&bench.work().await), ["Patch serviceimports"]);
}

#[tokio::test]
async fn k12_what_was_not_kept_once_is_tried_again_after_a_time() {
    let mut bench = Bench::start().await;
    bench.server.prune("serviceimports", &OLD_SCHEMA);
    let names = ["shop/web", "shop/api"];
    for name in names {
        bench.desk.accept(desired(&key(name), vec![rich(name, 80)]), bench.now);
    }
    bench.work().await;
    let kept = |bench: &Bench, name: &str| {
        let there = bench.there(&import(&key(name), &[]).id()).unwrap();
        OLD_SCHEMA.iter().filter(|field| there.pointer(field).is_some()).count()
    };
    assert_eq!(names.map(|name| kept(&bench, name)), [0, 0]);

    // The schema is still the old one: each field is tried once more and no more than that.
    bench.pass(600 * SECOND);
    bench.feed();
    bench.desk.tidy(bench.now);
    let tried = short(&bench.work().await).len();
    assert!((1..=4).contains(&tried), "{tried}");

    // It was replaced, or only one answer had been altered.
    bench.server.prune("serviceimports", &[]);
    bench.pass(600 * SECOND);
    bench.feed();
    bench.desk.tidy(bench.now);
    bench.work().await;
    assert_eq!(
        names.map(|name| kept(&bench, name)),
        [OLD_SCHEMA.len() - 1; 2],
        "one was never set"
    );
}

#[tokio::test]
async fn k12_an_import_without_a_status_of_its_own_is_not_written_again_and_again() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    bench.server.fail(Rule::refuse(404).verb(Verb::Patch).resource("serviceimports"));
    bench.desk.accept(desired(&web, vec![import(&web, &["oregon"])]), bench.now);
    bench.work().await;
    assert!(bench.refusals.borrow()[&web].contains("status subresource"));
    bench.pass(59 * SECOND);
    bench.desk.tidy(bench.now);
    assert_eq!(short(&bench.work().await), [""; 0]);
}

#[tokio::test]
async fn what_others_put_on_an_import_stays() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    let mut exported = rich("shop/web", 80);
    let Object::Import(of) = &mut exported else { panic!("an import") };
    of.meta.labels.insert("team".into(), "one".into());
    let keys = json!({ "annotations": [], "labels": ["team"] }).to_string();
    of.meta.annotations.insert("portolan.dev/exported-keys".into(), keys.into());
    bench.desk.accept(desired(&web, vec![exported]), bench.now);
    bench.work().await;
    bench.server.change("serviceimports", "shop/web", |import| {
        import["metadata"]["labels"]["theirs"] = json!("kept");
        import["metadata"]["annotations"]["theirs"] = json!("kept");
        import["metadata"]["ownerReferences"] =
            json!([{ "apiVersion": "v1", "kind": "Service", "name": "x", "uid": "x" }]);
    });
    bench.feed();
    // Fewer ports, addresses and labels of ours.
    let less = import(&web, &["oregon"]);
    bench.desk.accept(desired(&web, vec![less.clone()]), bench.now);
    let requests = short(&bench.work().await);
    assert_eq!(requests, ["Patch serviceimports", "Patch serviceimports status"]);
    let there = bench.there(&less.id()).unwrap();
    assert_eq!(Object::parse(Kind::Import, &there).unwrap(), less);
    let meta = &there["metadata"];
    assert_eq!(
        (&meta["labels"]["theirs"], &meta["annotations"]["theirs"]),
        (&json!("kept"), &json!("kept"))
    );
    assert!(meta["labels"]["team"].is_null() && meta["ownerReferences"].is_array());
    assert!(there["spec"]["trafficDistribution"].is_null());
}
