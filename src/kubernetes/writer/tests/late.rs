//! K16: a writer that was frozen between the decision and the request.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::super::job::Outcome;
use super::bench::Bench;
use super::fixtures::{desired, import, imported, key, proxied, service, whole};
use crate::clock;
use crate::kubernetes::calls::Fault;
use crate::objects::{Kind, Object};

/// What the successor has made of an object while the writer was frozen.
fn touch(bench: &Bench, object: &Object) {
    let id = object.id();
    let plural = match id.kind {
        Kind::Service => "services",
        Kind::Import => "serviceimports",
        Kind::Slice => "endpointslices",
    };
    let name = format!("{}/{}", id.namespace, id.name);
    bench.server.change(plural, &name, |object| {
        object["metadata"]["annotations"]["successor"] = json!("was here");
    });
}

#[tokio::test]
async fn k16_a_late_write_is_refused() {
    let web = key("shop/web");
    let changes = [
        service(&web, "tcp-80=20001"),
        proxied(&web, &["10.1.0.7"]),
        import(&web, &["paris"]),
        imported(&web, &["10.1.0.7"]),
    ];
    for change in changes {
        let id = change.id();
        let mut bench = Bench::start().await;
        // Twice, since the status of a new import is written after it.
        bench.desk.accept(desired(&web, whole(&web)), bench.now);
        bench.work().await;

        let mut other = whole(&web);
        for object in &mut other {
            if object.id() == id {
                *object = change.clone();
            }
        }
        if id.kind == Kind::Service {
            bench.server.change("services", &format!("shop/{}", id.name), |service| {
                service["spec"]["selector"] = json!({ "app": "hijack" });
            });
            bench.feed();
        }
        bench.desk.accept(desired(&web, other), bench.now);
        let late = bench.next().unwrap_or_else(|| panic!("a change of {id}"));
        touch(&bench, &change);
        let before = bench.there(&id).unwrap();
        let ended = bench.send(late).await;
        assert!(matches!(ended.outcome, Outcome::Stale(_)), "{id}: {:?}", ended.outcome);
        assert_eq!(bench.there(&id).unwrap(), before, "{id} is as the successor left it");

        // The same with a deletion: of the object that changed, and of one made anew.
        bench.desk.finish(ended, bench.now);
        bench.desk.accept(desired(&web, Vec::new()), bench.now);
        bench.pass(Duration::from_secs(31));
        loop {
            let late = bench.next().unwrap_or_else(|| panic!("a deletion of {id}"));
            let ours = late.0 == super::super::target::Target::Object(id.clone());
            if !ours {
                let ended = bench.send(late).await;
                bench.desk.finish(ended, bench.now);
                continue;
            }
            touch(&bench, &change);
            bench.server.change(
                match id.kind {
                    Kind::Service => "services",
                    Kind::Import => "serviceimports",
                    Kind::Slice => "endpointslices",
                },
                &format!("shop/{}", id.name),
                |object| object["metadata"]["annotations"]["successor"] = json!("again"),
            );
            let ended = bench.send(late).await;
            assert!(matches!(ended.outcome, Outcome::Stale(_)), "{id}: {:?}", ended.outcome);
            assert!(bench.there(&id).is_some(), "{id} stays");
            break;
        }
    }
}

#[tokio::test]
async fn k16_a_late_creation_meets_what_the_successor_made() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    let ours = proxied(&web, &["10.1.0.1"]);
    bench.desk.accept(desired(&web, vec![ours.clone()]), bench.now);
    let late = bench.next().unwrap();
    let theirs = proxied(&web, &["10.1.0.2"]);
    bench.server.put(theirs.to_json());
    let ended = bench.send(late).await;
    let Outcome::Stale(found) = &ended.outcome else { panic!("{:?}", ended.outcome) };
    assert_eq!(found.object, Arc::new(theirs));
    assert_eq!(bench.there(&ours.id()).unwrap()["endpoints"][0]["addresses"][0], "10.1.0.2");
}

#[tokio::test]
async fn k16_a_thawed_leader_sends_nothing() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    bench.desk.accept(desired(&web, whole(&web)), bench.now);
    bench.desk.withdraw(&[], bench.now);
    // No renewal meanwhile: the process did not run.
    bench.now += Duration::from_secs(60);
    assert!(bench.work().await.is_empty());
    // Holding it again, and told so, it goes on.
    bench.lead(true);
    assert!(!bench.work().await.is_empty());
}

#[tokio::test]
async fn a_request_is_given_up_before_another_may_write() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    let begun = bench.now;
    bench.desk.accept(desired(&web, whole(&web)), bench.now);
    bench.now += Duration::from_secs(3);
    let (_, _, deadline) = bench.next().unwrap();
    assert_eq!(deadline, begun + Duration::from_secs(6));
}

#[tokio::test]
async fn what_should_have_been_over_is_not_sent_at_all() {
    let web = key("shop/web");
    let mut bench = Bench::start().await;
    bench.desk.accept(desired(&web, whole(&web)), bench.now);
    let (target, job, _) = bench.next().unwrap();
    let mark = bench.server.mark();
    let ended = job.run(target, bench.clients.write.clone(), clock::now()).await;
    assert!(matches!(ended.outcome, Outcome::Failed(Fault::Away(_))), "{:?}", ended.outcome);
    assert!(bench.server.requests_since(mark).is_empty());
}
