use proptest::prelude::*;
use serde_json::json;

use super::*;

fn decoder() -> Decoder {
    Decoder {
        cluster: ClusterId::parse("a").unwrap(),
        namespace: Namespace::parse("portolan-system").unwrap(),
        gateway_service: "portolan".into(),
        secret: "portolan-ca".into(),
    }
}

fn item(resource: Resource, object: &Value) -> Result<Item, String> {
    let raw = RawValue::from_string(object.to_string()).unwrap();
    decoder().item(resource, &raw)
}

fn refusal(resource: Resource, object: &Value) -> String {
    item(resource, object).unwrap().state.unwrap_err()
}

fn decoded(resource: Resource, object: &Value) -> Decoded {
    item(resource, object).unwrap().state.unwrap()
}

fn slice(endpoints: usize) -> Value {
    let endpoints: Vec<_> = (0..endpoints).map(|_| json!({ "addresses": ["10.0.0.1"] })).collect();
    json!({
        "metadata": {
            "namespace": "n", "name": "s", "resourceVersion": "7", "uid": "u",
            "labels": { "kubernetes.io/service-name": "web" },
        },
        "addressType": "IPv4", "endpoints": endpoints, "ports": null,
    })
}

#[test]
fn a_slice_is_read_up_to_its_cap_and_refused_beyond() {
    let Some(SourceEvent::Slice(_, Some(object))) = decoded(Resource::Slice, &slice(1_000)).source
    else {
        panic!("a slice");
    };
    assert_eq!(object.endpoints.len(), 1_000);
    assert!(object.endpoints[0].ready && object.endpoints[0].serving);
    let why = refusal(Resource::Slice, &slice(1_001));
    assert!(why.contains("more than 1000 entries"), "{why}");
}

#[test]
fn annotations_count_whoever_they_belong_to() {
    let export = |note: usize| {
        json!({
            "metadata": {
                "namespace": "n", "name": "web",
                "annotations": { "portolan.dev/weight": "5", "note": "x".repeat(note) },
            },
        })
    };
    let Some(SourceEvent::Export(_, Some(object))) =
        decoded(Resource::Export, &export(250 << 10)).source
    else {
        panic!("an export");
    };
    assert_eq!(object.settings.len(), 1, "of the others nothing is kept");
    let why = refusal(Resource::Export, &export(256 << 10));
    assert!(why.contains("annotations have more than 256 KiB"), "{why}");
}

#[test]
fn an_object_that_is_too_large_is_refused_by_name() {
    let object = json!({
        "data": "x".repeat(MAX_OBJECT_OCTETS),
        "metadata": { "namespace": "n", "name": "web", "uid": "u" },
    });
    let item = item(Resource::Service, &object).unwrap();
    assert_eq!((&*item.name.name, &*item.uid), ("web", "u"));
    assert!(item.state.unwrap_err().contains("larger than 4 MiB"));
}

#[test]
fn a_refusal_names_the_field_and_quotes_little() {
    let peer = |spec: Value| json!({ "metadata": { "name": "b" }, "spec": spec });
    for (spec, field) in [
        (json!({ "cluster": "B" }), "spec.cluster"),
        (json!({ "cluster": "a" }), "is this cluster"),
        (json!({ "addresses": ["gw:99999"] }), "spec.addresses: 'gw:99999'"),
        (json!({ "networks": ["10.0.0.0"] }), "spec.networks: '10.0.0.0'"),
        (json!({ "import": { "namespaces": ["A b"] } }), "spec.import.namespaces: 'A b'"),
        (json!({ "addresses": ["\u{1b}[2J".repeat(10_000)] }), "spec.addresses"),
        (json!({ "x".repeat(10_000): 1, "dialOut": "x".repeat(10_000) }), "cannot be read"),
    ] {
        let why = refusal(Resource::Peer, &peer(spec));
        assert!(why.contains(field), "{why}");
        assert!(why.len() < 1_000 && !why.contains('\u{1b}'), "{why}");
    }
}

#[test]
fn a_peer_has_defaults() {
    let Some(Seen::Peer(peer)) =
        decoded(Resource::Peer, &json!({ "metadata": { "name": "b" }, "spec": null })).seen
    else {
        panic!("a peer");
    };
    assert_eq!(peer.cluster.as_str(), "b");
    assert!(peer.trust_policy && peer.dial_out && peer.bundle.is_none());
    assert!(peer.namespaces.allows(&Namespace::parse("any").unwrap()));
}

#[test]
fn other_secrets_and_properties_are_nothing_to_us() {
    let named = |namespace: &str, name: &str| {
        json!({
            "metadata": { "namespace": namespace, "name": name },
            "data": { "tls.key": "a2V5" }, "spec": { "value": "v" },
        })
    };
    for (namespace, name) in [("portolan-system", "other"), ("other", "portolan-ca")] {
        assert_eq!(decoded(Resource::Secret, &named(namespace, name)).seen, None);
    }
    assert!(decoded(Resource::Secret, &named("portolan-system", "portolan-ca")).seen.is_some());
    assert_eq!(decoded(Resource::Property, &named("", "country")).seen, None);
}

#[test]
fn an_object_without_a_readable_name_is_no_object() {
    for object in [json!({}), json!(7), json!({ "metadata": { "name": 7 } }), json!(null)] {
        for resource in Resource::ALL {
            assert!(item(resource, &object).is_err(), "{resource:?} {object}");
        }
    }
}

/// JSON that looks a little like objects of the API.
fn anything() -> impl Strategy<Value = Value> {
    let words = [
        "metadata",
        "name",
        "namespace",
        "labels",
        "annotations",
        "spec",
        "status",
        "ports",
        "port",
        "endpoints",
        "addresses",
        "addressType",
        "IPv4",
        "conditions",
        "protocol",
        "data",
        "items",
        "portolan.dev/service",
        "kubernetes.io/service-name",
        "app.kubernetes.io/managed-by",
        "portolan.dev",
        "creationTimestamp",
        "clusterIPs",
        "ipFamilies",
        "10.0.0.1",
        "web",
    ];
    let word = proptest::sample::select(words.to_vec());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, move |inner| {
        let object = proptest::collection::vec((word.clone(), inner.clone()), 0..8);
        prop_oneof![
            proptest::collection::vec(inner, 0..6).prop_map(Value::from),
            object.prop_map(|pairs| {
                pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_object_panics(mut object in anything(), labels in anything(), named in any::<bool>()) {
        if named && object.is_object() {
            object["metadata"] =
                json!({ "name": "web", "namespace": "n", "labels": labels });
        }
        for resource in Resource::ALL {
            let _outcome = item(resource, &object);
        }
    }
}
