use std::time::Duration;

use super::super::{End, Kind, Rule, Scope, Verb};
use super::*;
use crate::clock;

type Events = std::pin::Pin<Box<dyn Stream<Item = Result<Event, watcher::Error>> + Send>>;
type Event = watcher::Event<ConfigMap>;

/// Follows the ConfigMaps, of which there are none yet.
async fn following(server: &ApiServer) -> Events {
    let config = watcher::Config::default().timeout(30);
    let mut events: Events = Box::pin(watcher(api::<ConfigMap>(server), config));
    assert!(matches!(next(&mut events).await, Ok(Event::Init)));
    assert!(matches!(next(&mut events).await, Ok(Event::InitDone)));
    events
}

fn put(server: &ApiServer, name: &str) {
    server.put(json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "namespace": "shop", "name": name } }));
}

/// Drives a watcher until its watch is open; it has nothing to say meanwhile.
async fn opened(server: &ApiServer, events: &mut Events) {
    tokio::select! {
        event = next(events) => panic!("{event:?}"),
        () = server.await_watches("configmaps", 1) => {}
    }
}

async fn applied(events: &mut Events) -> String {
    match next(events).await {
        Ok(Event::Apply(object)) => object.name_any(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn rules_refuse_what_they_name_as_often_as_they_say() {
    let server = ApiServer::start().await;
    let (maps, post) = (api::<ConfigMap>(&server), PostParams::default());
    let full = Rule::refuse(403).message("exceeded quota").verb(Verb::Create).key("shop/a");
    server.fail(full.times(1));
    let busy = server.fail(Rule::refuse(429).retry_after(3).reads().resource("configmaps"));
    let (code, reason, message) = refused(maps.create(&post, &config_map("a", "")).await);
    assert_eq!((code, reason.as_str(), message.as_str()), (403, "Forbidden", "exceeded quota"));
    maps.create(&post, &config_map("b", "")).await.expect("another name");
    maps.create(&post, &config_map("a", "")).await.expect("the second time");
    let Err(kube::Error::Api(status)) = maps.get("a").await else { panic!("not refused") };
    assert_eq!(status.details.map(|details| details.retry_after_seconds), Some(3));
    server.take_back(busy);
    maps.get("a").await.expect("served again");
    let log: Vec<_> = server.requests().iter().map(|r| (r.verb, r.key(), r.code)).collect();
    let a = || "shop/a".to_owned();
    assert_eq!(
        log,
        [
            (Verb::Create, a(), 403),
            (Verb::Create, "shop/b".to_owned(), 201),
            (Verb::Create, a(), 201),
            (Verb::Get, a(), 429),
            (Verb::Get, a(), 200),
        ]
    );
}

#[tokio::test]
async fn a_lost_answer_leaves_the_object_and_a_reset_does_not() {
    let server = ApiServer::start().await;
    let (maps, post) = (api::<ConfigMap>(&server), PostParams::default());
    server.fail(Rule::lose().writes().times(1));
    let lost = maps.create(&post, &config_map("a", "")).await;
    assert!(!matches!(lost, Ok(_) | Err(kube::Error::Api(_))), "{lost:?}");
    assert!(server.get("configmaps", "shop/a").is_some());
    server.fail(Rule::reset().writes().times(1));
    maps.create(&post, &config_map("b", "")).await.expect_err("reset");
    assert_eq!(server.get("configmaps", "shop/b"), None);
}

#[tokio::test]
async fn a_stalled_request_is_served_when_the_rule_goes() {
    let server = ApiServer::start().await;
    let maps = api::<ConfigMap>(&server);
    let stall = server.fail(Rule::stall().resource("configmaps").times(1));
    let list = async { maps.list(&ListParams::default()).await.expect("a list").items.len() };
    let release = async {
        server.await_request(|request| request.verb == Verb::List).await;
        assert_eq!(server.requests()[0].code, 0);
        put(&server, "late");
        server.take_back(stall);
    };
    assert_eq!(tokio::join!(list, release), (1, ()));
    let brief = Duration::from_millis(20);
    server.fail(Rule::stall().lasting(brief));
    server.slow_writes(brief);
    let before = clock::now();
    maps.create(&PostParams::default(), &config_map("a", "")).await.expect("created");
    assert!(clock::now() - before >= brief);
}

#[tokio::test]
async fn a_black_hole_is_silent_and_catches_up() {
    let server = ApiServer::start().await;
    let mut events = following(&server).await;
    opened(&server, &mut events).await;
    server.black_hole("configmaps");
    put(&server, "a");
    // Whatever is open besides hears of its kind.
    server.put(service("web"));
    let mut services = Box::pin(watcher(api::<Service>(&server), watcher::Config::default()));
    for _ in 0..3 {
        tokio::select! {
            event = next(&mut events) => panic!("{event:?}"),
            event = next(&mut services) => { event.expect("the list"); }
        }
    }
    put(&server, "b");
    server.heal();
    assert_eq!(applied(&mut events).await, "a");
    assert_eq!(applied(&mut events).await, "b");
}

#[tokio::test]
async fn stopped_and_started_it_is_the_same_server() {
    let server = ApiServer::start().await;
    let mut events = following(&server).await;
    opened(&server, &mut events).await;
    server.stop().await;
    let maps = api::<ConfigMap>(&server);
    maps.list(&ListParams::default()).await.expect_err("nobody listens");
    put(&server, "meanwhile");
    server.resume().await;
    loop {
        match next(&mut events).await {
            Ok(Event::Apply(object)) => break assert_eq!(object.name_any(), "meanwhile"),
            Err(_) => {}
            Ok(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn after_a_compaction_watches_and_lists_begin_again() {
    let server = ApiServer::start().await;
    let maps = api::<ConfigMap>(&server);
    put(&server, "a");
    put(&server, "b");
    let page = maps.list(&ListParams::default().limit(1)).await.expect("a page");
    let token = page.metadata.continue_.expect("more");
    let mut events: Events = Box::pin(watcher(maps.clone(), watcher::Config::default()));
    for _ in 0..4 {
        next(&mut events).await.expect("the list");
    }
    opened(&server, &mut events).await;
    server.compact();
    let rest = maps.list(&ListParams::default().continue_token(&token)).await;
    assert_eq!(refused(rest).0, 410);
    // An open watch does not notice.
    put(&server, "c");
    assert_eq!(applied(&mut events).await, "c");
    server.compact();
    server.end_watches("configmaps", End::Clean);
    let Err(watcher::Error::WatchError(status)) = next(&mut events).await else { panic!() };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    assert!(matches!(next(&mut events).await, Ok(Event::Init)));
}

#[tokio::test]
async fn open_watches_end_as_told() {
    let server = ApiServer::start().await;
    let mut events = following(&server).await;
    opened(&server, &mut events).await;
    server.garble("configmaps", "{\"type\":\"MODIFIED\",\"object\":17}");
    assert!(matches!(next(&mut events).await, Err(watcher::Error::WatchFailed(_))));
    server.end_watches("configmaps", End::Torn);
    put(&server, "a");
    let mut event = next(&mut events).await;
    if event.is_err() {
        event = next(&mut events).await;
    }
    assert!(matches!(event, Ok(Event::Apply(_))), "{event:?}");
    server.end_watches("configmaps", End::Expired);
    let Err(watcher::Error::WatchError(status)) = next(&mut events).await else { panic!() };
    assert_eq!(status.code, 410);
}

#[tokio::test]
async fn a_bookmark_comes_when_asked_for() {
    let server = ApiServer::start().await;
    let mut events = following(&server).await;
    opened(&server, &mut events).await;
    server.compact();
    let version = server.version().to_string();
    server.bookmark();
    server.end_watches("configmaps", End::Clean);
    let resumed = server.await_request(|request| {
        request.verb == Verb::Watch && request.query["resourceVersion"] == version
    });
    tokio::select! {
        event = next(&mut events) => panic!("{event:?}"),
        _ = resumed => {}
    }
}

#[tokio::test]
async fn kinds_come_and_go() {
    let server = ApiServer::start().await;
    let maps = api::<ConfigMap>(&server);
    server.uninstall("configmaps");
    let (code, _, message) = refused(maps.list(&ListParams::default()).await);
    assert_eq!((code, message.trim()), (404, "404 page not found"));
    server.restore("configmaps");
    maps.list(&ListParams::default()).await.expect("a list");
    let groups = client(&server).list_api_groups().await.expect("groups");
    assert!(groups.groups.iter().any(|group| group.name == "discovery.k8s.io"));
    server.install(Kind::custom(
        "multicluster.x-k8s.io",
        &["v1alpha1"],
        "serviceimports",
        "ServiceImport",
        Scope::Namespaced,
    ));
    let resources = client(&server).list_api_group_resources("multicluster.x-k8s.io/v1beta1").await;
    let resources = resources.expect("exports are still there").resources;
    assert!(resources.iter().all(|resource| !resource.name.starts_with("serviceimports")));
}

#[tokio::test]
async fn raw_objects_are_sent_as_they_are() {
    let server = ApiServer::start().await;
    server.raw(json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "shop", "name": "odd" }, "spec": { "ports": 17 } }));
    let list = api::<Service>(&server).list(&ListParams::default()).await;
    assert!(matches!(list, Err(kube::Error::SerdeError(_))), "{list:?}");
    server.delete("services", "shop/odd");
    api::<Service>(&server).list(&ListParams::default()).await.expect("readable again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_reaches_every_watch_in_order() {
    const CHANGES: usize = 3_000;
    const WATCHES: usize = 5;
    let server = ApiServer::start().await;
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        watches.push(following(&server).await);
    }
    let all = watches.into_iter().map(|mut events| async move {
        for number in 0..CHANGES {
            assert_eq!(applied(&mut events).await, format!("c{}", number % 10));
        }
    });
    let burst = async {
        for number in 0..CHANGES {
            server.put(json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "n": number.to_string() },
                "metadata": { "namespace": "shop", "name": format!("c{}", number % 10) } }));
        }
    };
    tokio::join!(futures_util::future::join_all(all), burst);
    assert_eq!(server.list("configmaps").len(), 10);
}
