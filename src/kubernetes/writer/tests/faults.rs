//! What stands in the way of one object, and of that one alone.

use std::time::Duration;

use serde_json::json;

use super::super::job::{Ended, Outcome};
use super::bench::{Bench, short};
use super::fixtures::{desired, import, key, proxied, service, whole};
use crate::clock;
use crate::kubernetes::calls::Fault;
use crate::objects::{Kind, Object};
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
