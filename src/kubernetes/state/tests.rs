use prometheus::Registry;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;
use crate::kubernetes::kinds::Decoder;
use crate::model::ClusterId;
use crate::objects::McsVersion;

fn state() -> State {
    let metrics = Metrics::register(&Registry::new()).unwrap();
    State::new(Arc::default(), metrics)
}

fn item(resource: Resource, object: &Value) -> Item {
    let decoder = Decoder {
        cluster: ClusterId::parse("a").unwrap(),
        namespace: Namespace::parse("portolan-system").unwrap(),
        gateway_service: "portolan".into(),
        secret: "portolan-ca".into(),
    };
    let raw = RawValue::from_string(object.to_string()).unwrap();
    decoder.item(resource, &raw).unwrap()
}

fn service(name: &str, version: u64, port: u32) -> Value {
    json!({
        "metadata": { "namespace": "shop", "name": name, "resourceVersion": version.to_string() },
        "spec": { "ports": [{ "port": port }] },
    })
}

fn listed(resource: Resource, version: u64, objects: &[Value]) -> Heard {
    let items = objects.iter().map(|object| item(resource, object)).collect();
    Heard::Listed { resource, version: version.to_string().into(), items }
}

fn put(resource: Resource, object: &Value) -> Heard {
    let change = Change::Put(item(resource, object).into());
    Heard::Changed { resource, changes: vec![change] }
}

fn gone(resource: Resource, name: &str, version: u64) -> Heard {
    let name = Name { namespace: "shop".into(), name: name.into() };
    let change = Change::Gone { name, version: version.to_string().into() };
    Heard::Changed { resource, changes: vec![change] }
}

/// All three kinds of the catalog listed, with these Services.
fn synced(version: u64, services: &[Value]) -> State {
    let mut state = state();
    state.hear(listed(Resource::Service, version, services));
    state.hear(listed(Resource::Slice, version, &[]));
    state.hear(listed(Resource::Export, version, &[]));
    while state.update(true).is_some() {}
    state
}

/// The Services that are told: their port, or none where they are gone.
fn told(state: &mut State) -> Vec<(String, Option<u16>)> {
    let Some(SourceUpdate::Changed(events)) = state.update(true) else { return Vec::new() };
    let shown = |event| match event {
        SourceEvent::Service(key, object) => {
            (key.to_string(), object.map(|object| object.ports[0].port.get()))
        }
        other => panic!("{other:?}"),
    };
    events.into_iter().map(shown).collect()
}

#[test]
fn nothing_is_told_before_everything_was_listed() {
    let mut state = state();
    state.hear(listed(Resource::Service, 5, &[service("web", 3, 80)]));
    state.hear(listed(Resource::Slice, 5, &[]));
    assert_eq!(state.update(true), None);
    state.hear(Heard::Absent { resource: Resource::Export });
    assert_eq!(told(&mut state), [("shop/web".into(), Some(80))]);
    assert_eq!(state.update(true), Some(SourceUpdate::Synced));
    assert!(matches!(state.update(true), Some(SourceUpdate::Failed { .. })), "what is missing");
    assert_eq!(state.update(true), None);
}

#[test]
fn changes_that_nobody_took_replace_one_another() {
    let mut state = synced(10, &[]);
    for version in 11..100_u32 {
        let object = service("web", version.into(), 1_000 + version);
        state.hear(put(Resource::Service, &object));
    }
    state.hear(put(Resource::Service, &service("db", 100, 5)));
    state.hear(gone(Resource::Service, "db", 101));
    let expected = [("shop/db".into(), None), ("shop/web".into(), Some(1_099))];
    assert_eq!(told(&mut state), expected);
}

#[test]
fn an_older_version_never_overwrites_a_newer_one() {
    let mut state = synced(10, &[service("web", 9, 80)]);
    state.hear(put(Resource::Service, &service("web", 12, 81)));
    state.hear(put(Resource::Service, &service("web", 11, 82)));
    state.hear(gone(Resource::Service, "web", 11));
    assert_eq!(told(&mut state), [("shop/web".into(), Some(81))]);
    // As a string "9" is greater than "100".
    state.hear(put(Resource::Service, &service("web", 100, 83)));
    assert_eq!(told(&mut state), [("shop/web".into(), Some(83))]);
}

#[test]
fn a_new_list_tells_the_difference_only() {
    let mut state = synced(10, &[service("web", 1, 80), service("db", 2, 81), service("x", 3, 82)]);
    let list = [service("web", 1, 80), service("db", 15, 91), service("y", 16, 92)];
    state.hear(listed(Resource::Service, 20, &list));
    let expected =
        [("shop/db".into(), Some(91)), ("shop/x".into(), None), ("shop/y".into(), Some(92))];
    assert_eq!(told(&mut state), expected);
}

#[test]
fn a_store_that_was_set_back_is_believed_and_counted() {
    let mut state = synced(10, &[service("web", 9, 80), service("db", 8, 80)]);
    state.hear(put(Resource::Service, &service("web", 50, 81)));
    assert_eq!(told(&mut state).len(), 1);
    state.hear(listed(Resource::Service, 20, &[service("web", 15, 82)]));
    assert_eq!(told(&mut state), [("shop/db".into(), None), ("shop/web".into(), Some(82))]);
    assert_eq!(state.metrics.errors.with_label_values(&["set_back"]).get(), 1);
    state.hear(put(Resource::Service, &service("web", 21, 83)));
    assert_eq!(told(&mut state), [("shop/web".into(), Some(83))]);
}

#[test]
fn what_a_refused_object_was_stays_until_it_goes() {
    let mut state = synced(10, &[service("web", 9, 80)]);
    state.hear(put(Resource::Service, &service("web", 11, 70_000)));
    let Some(SourceUpdate::Failed { error, away }) = state.update(true) else { panic!("told") };
    assert!(error.contains("Service shop/web: ports"), "{error}");
    assert!(!away, "the API server answers");
    assert_eq!(state.view(McsVersion::V1beta1).refused.len(), 1);
    state.hear(listed(Resource::Service, 12, &[service("web", 11, 70_000)]));
    assert_eq!(told(&mut state), [], "still there");
    state.hear(gone(Resource::Service, "web", 13));
    assert_eq!(told(&mut state), [("shop/web".into(), None)]);
    assert_eq!(state.update(true), Some(SourceUpdate::Recovered));
}

/// What is known grows old while the API server does not answer for what is exported.
#[test]
fn away_is_what_is_not_answered_for() {
    let mut state = synced(10, &[service("web", 9, 80)]);
    let away = |state: &mut State| match state.update(true) {
        Some(SourceUpdate::Failed { away, .. }) => Some(away),
        Some(SourceUpdate::Recovered) => None,
        other => panic!("{other:?}"),
    };
    let down = |resource| Heard::Down { resource, what: "no answer".to_owned() };
    state.hear(down(Resource::Peer));
    assert_eq!(away(&mut state), Some(false));
    state.hear(down(Resource::Service));
    state.hear(down(Resource::Export));
    assert_eq!(away(&mut state), Some(true));
    state.hear(Heard::Up { resource: Resource::Service });
    assert_eq!(away(&mut state), Some(true));
    state.hear(Heard::Absent { resource: Resource::Export });
    assert_eq!(away(&mut state), Some(false), "it answers that there is none");
    state.hear(Heard::Up { resource: Resource::Export });
    state.hear(Heard::Up { resource: Resource::Peer });
    assert_eq!(away(&mut state), None);
}

#[test]
fn of_two_peers_of_one_cluster_the_first_by_name_counts() {
    let mut state = state();
    let peer = |name: &str, address: &str| {
        json!({
            "metadata": { "name": name, "resourceVersion": "1" },
            "spec": { "cluster": "b", "addresses": [address] },
        })
    };
    let peers = [peer("z", "192.0.2.9"), peer("b", "192.0.2.1")];
    state.hear(listed(Resource::Peer, 5, &peers));
    let view = state.view(McsVersion::V1beta1);
    assert_eq!(view.peers.values().map(|peer| &*peer.name).collect::<Vec<_>>(), ["b"]);
    assert!(view.refused[0].to_string().contains("Peer z: names the cluster 'b'"));
    state.hear(listed(Resource::Peer, 6, &[peer("z", "192.0.2.9")]));
    let view = state.view(McsVersion::V1beta1);
    assert_eq!(view.peers.values().map(|peer| &*peer.name).collect::<Vec<_>>(), ["z"]);
    assert!(view.refused.is_empty());
}

#[test]
fn the_default_family_is_that_of_the_api_server() {
    let mut state = state();
    let service = |namespace: &str, name: &str, families: &[&str]| {
        json!({
            "metadata": { "namespace": namespace, "name": name, "resourceVersion": "1" },
            "spec": { "ipFamilies": families },
        })
    };
    let both = service("shop", "web", &["IPv4", "IPv6"]);
    let own = service("default", "kubernetes", &["IPv6"]);
    state.hear(listed(Resource::Service, 5, &[both, own.clone()]));
    let families = state.view(McsVersion::V1beta1).families;
    assert_eq!(families, [IpFamily::V6, IpFamily::V4]);
    state.hear(listed(Resource::Service, 6, &[own]));
    assert_eq!(state.view(McsVersion::V1beta1).families, [IpFamily::V6]);
}

#[test]
fn the_end_of_a_foreign_object_is_told_to_who_waits_for_its_name() {
    let mut state = synced(10, &[service("web", 9, 80), service("other", 9, 80)]);
    let id = |name: &str| {
        object_id(Resource::Service, &Name { namespace: "shop".into(), name: name.into() })
    };
    let mirror = Arc::clone(&state.mirror);
    let told = mirror.changed();
    for (name, news) in
        [("web", gone(Resource::Service, "web", 11)), ("other", listed(Resource::Service, 12, &[]))]
    {
        let id = id(name).unwrap();
        mirror.wait_for(id.clone());
        state.hear(put(Resource::Service, &service("third", 11, 80)));
        assert!(mirror.waits_for(&id), "{name} is there");
        let before = *told.borrow();
        state.hear(news);
        assert!(!mirror.waits_for(&id), "{name} is gone");
        assert!(*told.borrow() > before);
    }
}

#[test]
fn k07_exports_of_a_namespace_made_anew_count_whenever_they_were_heard_of() {
    let namespace = |version: u64, phase: &str| {
        json!({
            "metadata": { "name": "shop", "resourceVersion": version.to_string() },
            "status": { "phase": phase },
        })
    };
    let export = |version: u64| {
        json!({
            "metadata": { "namespace": "shop", "name": "web", "resourceVersion": version.to_string() },
        })
    };
    let exported = |state: &mut State| {
        match state.update(true) {
        Some(SourceUpdate::Changed(events)) => events.into_iter().any(
            |event| matches!(event, SourceEvent::Export(key, Some(_)) if key.to_string() == "shop/web"),
        ),
        other => panic!("{other:?}"),
    }
    };
    // Before, and while the namespace is on its way out.
    for heard in [11, 13] {
        let mut state = synced(10, &[]);
        state.hear(listed(Resource::Namespace, 10, &[namespace(9, "Active")]));
        if heard == 11 {
            state.hear(put(Resource::Export, &export(11)));
            assert!(exported(&mut state));
        }
        state.hear(put(Resource::Namespace, &namespace(12, "Terminating")));
        if heard == 11 {
            assert!(!exported(&mut state));
        } else {
            state.hear(put(Resource::Export, &export(13)));
        }
        // An older end than what is known takes nothing away.
        state.hear(gone(Resource::Export, "web", 7));
        assert!(!matches!(state.update(true), Some(SourceUpdate::Changed(_))));
        // Its end was missed: the list shows another one.
        state.hear(listed(Resource::Namespace, 20, &[namespace(19, "Active")]));
        assert!(exported(&mut state), "heard at {heard}");
        state.hear(gone(Resource::Export, "web", 21));
        assert!(!exported(&mut state));
    }
}
