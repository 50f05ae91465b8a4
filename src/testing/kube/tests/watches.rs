use super::*;

fn names(objects: &[ConfigMap]) -> Vec<String> {
    objects.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test]
async fn a_watcher_lists_in_pages_and_follows() {
    let server = ApiServer::start().await;
    for number in 0..25 {
        server.put(json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "namespace": "shop", "name": format!("c{number:02}") } }));
    }
    let config = watcher::Config::default().page_size(10).timeout(60);
    let mut events = Box::pin(watcher(api::<ConfigMap>(&server), config));
    assert!(matches!(next(&mut events).await, Ok(watcher::Event::Init)));
    for number in 0..25 {
        let Ok(watcher::Event::InitApply(found)) = next(&mut events).await else { panic!() };
        assert_eq!(found.name_any(), format!("c{number:02}"));
    }
    assert!(matches!(next(&mut events).await, Ok(watcher::Event::InitDone)));
    let pages = server.requests().iter().filter(|r| r.resource == "configmaps").count();
    assert_eq!(pages, 3);
    let maps = api::<ConfigMap>(&server);
    maps.create(&PostParams::default(), &config_map("new", "a")).await.expect("created");
    let Ok(watcher::Event::Apply(found)) = next(&mut events).await else { panic!() };
    assert_eq!(found.name_any(), "new");
    server.delete("configmaps", "shop/new");
    let Ok(watcher::Event::Delete(gone)) = next(&mut events).await else { panic!() };
    assert!(gone.resource_version() > found.resource_version());
}

#[tokio::test]
async fn pages_are_of_one_state() {
    let server = ApiServer::start().await;
    let maps = api::<ConfigMap>(&server);
    for name in ["a", "b", "c"] {
        maps.create(&PostParams::default(), &config_map(name, "")).await.expect("created");
    }
    let first = maps.list(&ListParams::default().limit(2)).await.expect("a page");
    assert_eq!(first.metadata.remaining_item_count, Some(1));
    server.delete("configmaps", "shop/c");
    let token = first.metadata.continue_.expect("more");
    let rest = maps.list(&ListParams::default().limit(2).continue_token(&token)).await;
    let rest = rest.expect("the rest");
    assert_eq!(names(&rest.items), ["c"]);
    assert_eq!(rest.metadata.resource_version, first.metadata.resource_version);
    assert_eq!(rest.metadata.continue_, None);
}

#[tokio::test]
async fn selectors_choose_and_objects_come_into_view_and_leave_it() {
    let server = ApiServer::start().await;
    let labelled = |name: &str, label: &str| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "namespace": "shop", "name": name, "labels": { "app": label } } })
    };
    server.put(labelled("one", "web"));
    server.put(labelled("two", "db"));
    let maps = api::<ConfigMap>(&server);
    for (selector, expected) in [
        ("app=web", &["one"][..]),
        ("app!=web", &["two"]),
        ("app in (web,db)", &["one", "two"]),
        ("app notin (web),app", &["two"]),
        ("!app", &[]),
    ] {
        let list = maps.list(&ListParams::default().labels(selector)).await.expect("a list");
        assert_eq!(names(&list.items), expected, "{selector}");
    }
    let list = maps.list(&ListParams::default().fields("metadata.name=two")).await.expect("a list");
    assert_eq!(names(&list.items), ["two"]);

    let config = watcher::Config::default().labels("app=web");
    let mut events = Box::pin(watcher(maps, config));
    for _ in 0..3 {
        next(&mut events).await.expect("the list");
    }
    server.put(labelled("two", "web"));
    let Ok(watcher::Event::Apply(two)) = next(&mut events).await else { panic!() };
    assert_eq!(two.name_any(), "two");
    server.put(labelled("one", "db"));
    let Ok(watcher::Event::Delete(one)) = next(&mut events).await else { panic!() };
    assert_eq!(one.labels()["app"], "web", "the last state that was in view");
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let server = ApiServer::start().await;
    server.put(service("web"));
    let config = watcher::Config::default().streaming_lists();
    let mut events = Box::pin(watcher(api::<Service>(&server), config));
    assert!(matches!(next(&mut events).await, Ok(watcher::Event::Init)));
    assert!(matches!(next(&mut events).await, Ok(watcher::Event::InitApply(_))));
    assert!(matches!(next(&mut events).await, Ok(watcher::Event::InitDone)));
}

#[tokio::test]
async fn a_watch_ends_in_time_and_a_bookmark_carries_it_over_a_compaction() {
    let server = ApiServer::start().await;
    let config = watcher::Config::default().timeout(1);
    let mut events = Box::pin(watcher(api::<ConfigMap>(&server), config));
    assert!(matches!(next(&mut events).await, Ok(watcher::Event::Init)));
    assert!(matches!(next(&mut events).await, Ok(watcher::Event::InitDone)));
    let follow = async {
        server.await_watches("configmaps", 1).await;
        // Something else moves on, and the past is forgotten; the watch's own bookmark is newer.
        server.put(service("web"));
        server.compact();
        let first = server.mark();
        server.await_request_since(first, |r| r.resource == "configmaps").await;
        server.put(json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "namespace": "shop", "name": "late" } }));
    };
    let (event, ()) = tokio::join!(next(&mut events), follow);
    assert!(matches!(event, Ok(watcher::Event::Apply(_))), "{event:?}");
}

#[tokio::test]
async fn metadata_alone_and_both_versions_of_a_kind() {
    let server = ApiServer::start().await;
    server.put(json!({ "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": { "namespace": "shop", "name": "web" } }));
    let list = api::<Service>(&server).list_metadata(&ListParams::default()).await;
    assert!(list.expect("a list").items.is_empty());
    for version in ["v1beta1", "v1alpha1"] {
        let resource = kube::core::ApiResource {
            group: "multicluster.x-k8s.io".into(),
            version: version.into(),
            api_version: format!("multicluster.x-k8s.io/{version}"),
            kind: "ServiceExport".into(),
            plural: "serviceexports".into(),
        };
        let exports: Api<DynamicObject> = Api::all_with(client(&server), &resource);
        let list = exports.list(&ListParams::default()).await.expect("a list");
        let types = list.items[0].types.clone().expect("items of custom resources name it");
        assert_eq!(types.api_version, resource.api_version);
    }
    let meta = api::<EndpointSlice>(&server).list_metadata(&ListParams::default()).await;
    assert!(meta.expect("a list").items.is_empty());
}
