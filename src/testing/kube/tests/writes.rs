use kube::api::{ApiResource, DeleteParams, Patch, PatchParams, Preconditions};

use super::*;

fn exports(server: &ApiServer) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: "multicluster.x-k8s.io".into(),
        version: "v1beta1".into(),
        api_version: "multicluster.x-k8s.io/v1beta1".into(),
        kind: "ServiceExport".into(),
        plural: "serviceexports".into(),
    };
    let _namespace: Api<ConfigMap> = api(server);
    Api::namespaced_with(client(server), "shop", &resource)
}

#[tokio::test]
async fn nobody_overwrites_what_they_have_not_seen() {
    let server = ApiServer::start().await;
    let maps = api::<ConfigMap>(&server);
    let post = PostParams::default();
    let first = maps.create(&post, &config_map("a", "1")).await.expect("created");
    let (code, reason, _) = refused(maps.create(&post, &config_map("a", "1")).await);
    assert_eq!((code, reason.as_str()), (409, "AlreadyExists"));
    let mut changed = first.clone();
    changed.data = Some([("text".to_owned(), "2".to_owned())].into());
    let second = maps.replace("a", &post, &changed).await.expect("replaced");
    assert!(second.resource_version() > first.resource_version());
    let (code, reason, message) = refused(maps.replace("a", &post, &changed).await);
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert!(message.contains("the object has been modified"), "{message}");
    for stranger in [
        json!({ "metadata": { "resourceVersion": first.resource_version() } }),
        json!({ "metadata": { "uid": "other" } }),
    ] {
        let patch = maps.patch("a", &PatchParams::default(), &Patch::Merge(&stranger)).await;
        assert_eq!(refused(patch).0, 409, "{stranger}");
    }
    // Without a version the last one wins; a change that changes nothing is none.
    let third = maps.replace("a", &post, &config_map("a", "3")).await.expect("replaced");
    let again = maps.replace("a", &post, &config_map("a", "3")).await.expect("replaced");
    assert_eq!(third.resource_version(), again.resource_version());
    assert_eq!(refused(maps.replace("b", &post, &config_map("b", "")).await).0, 404);
}

#[tokio::test]
async fn status_and_the_rest_do_not_touch_each_other() {
    let server = ApiServer::start().await;
    let (exports, post) = (exports(&server), PostParams::default());
    let made: DynamicObject = object(json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": { "name": "web" }, "status": { "conditions": ["dropped"] },
    }));
    let made = exports.create(&post, &made).await.expect("created");
    assert_eq!((made.metadata.generation, made.data.get("status")), (Some(1), None));

    let mut both = made.clone();
    both.data = json!({ "spec": { "a": 1 }, "status": { "b": 2 } });
    let status = exports.replace_status("web", &post, &both).await.expect("replaced");
    assert_eq!(status.data, json!({ "status": { "b": 2 } }));
    assert_eq!(status.metadata.generation, Some(1));
    both.metadata.resource_version = status.resource_version();
    both.data["status"]["b"] = json!(3);
    let spec = exports.replace("web", &post, &both).await.expect("replaced");
    assert_eq!(spec.data, json!({ "spec": { "a": 1 }, "status": { "b": 2 } }));
    assert_eq!(spec.metadata.generation, Some(2));
    let patch = Patch::Merge(json!({ "status": { "c": 4 }, "spec": null }));
    let params = PatchParams::default();
    let patched = exports.patch_status("web", &params, &patch).await.expect("patched");
    assert_eq!(patched.data["status"], json!({ "b": 2, "c": 4 }));
    assert_eq!(patched.data["spec"], json!({ "a": 1 }));
    let labelled = Patch::Merge(json!({ "metadata": { "labels": { "a": "b" } } }));
    let labelled = exports.patch("web", &params, &labelled).await.expect("patched");
    assert_eq!(labelled.metadata.generation, Some(2), "metadata is not counted");
    // Custom resources are never overwritten blindly.
    both.metadata.resource_version = None;
    assert_eq!(refused(exports.replace("web", &post, &both).await).0, 422);
}

#[tokio::test]
async fn deletions_have_preconditions_and_take_dependents_along() {
    let server = ApiServer::start().await;
    let maps = api::<ConfigMap>(&server);
    let owner = maps.create(&PostParams::default(), &config_map("owner", "")).await.expect("made");
    let uid = owner.uid();
    let owned = |name: &str, owners: Value| {
        server.put(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": {
            "namespace": "shop", "name": name, "ownerReferences": owners } }));
    };
    let reference = |uid: &Option<String>| json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid });
    let other = server.put(json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "namespace": "shop", "name": "other" } }));
    let other = other["metadata"]["uid"].as_str().map(str::to_owned);
    owned("one", json!([reference(&uid)]));
    owned("two", json!([reference(&uid), reference(&other)]));

    let with = |uid: &str, version: Option<String>| DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: version }),
        ..DeleteParams::default()
    };
    let uid = uid.expect("a uid");
    let (code, reason, _) = refused(maps.delete("owner", &with("other", None)).await);
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert_eq!(refused(maps.delete("owner", &with(&uid, Some("1".into()))).await).0, 409);
    let right = with(&uid, owner.resource_version());
    maps.delete("owner", &right).await.expect("deleted");
    assert_eq!(server.get("secrets", "shop/one"), None);
    assert!(server.get("secrets", "shop/two").is_some(), "another owner lives");
    assert_eq!(refused(maps.delete("owner", &right).await).0, 404);
    server.delete("configmaps", "shop/other");
    assert_eq!(server.get("secrets", "shop/two"), None);
}

#[tokio::test]
async fn a_finalizer_holds_an_object() {
    let server = ApiServer::start().await;
    let maps = api::<ConfigMap>(&server);
    let mut held = config_map("held", "");
    held.metadata.finalizers = Some(vec!["portolan.dev/test".into()]);
    maps.create(&PostParams::default(), &held).await.expect("created");
    let left = maps.delete("held", &DeleteParams::default()).await.expect("marked");
    assert!(left.left().is_some_and(|object| object.metadata.deletion_timestamp.is_some()));
    let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    maps.patch("held", &PatchParams::default(), &free).await.expect("patched");
    assert_eq!(server.get("configmaps", "shop/held"), None);
}

#[tokio::test]
async fn namespaces_must_be_there_and_take_everything_along() {
    let server = ApiServer::start().await;
    let (post, gone) = (PostParams::default(), DeleteParams::default());
    let nowhere: Api<ConfigMap> = Api::namespaced(client(&server), "nowhere");
    let (code, reason, message) = refused(nowhere.create(&post, &config_map("a", "")).await);
    assert_eq!((code, reason.as_str()), (404, "NotFound"));
    assert_eq!(message, "namespaces \"nowhere\" not found");

    let maps = api::<ConfigMap>(&server);
    maps.create(&post, &config_map("a", "")).await.expect("created");
    server.terminate("shop");
    let Err(kube::Error::Api(status)) = maps.create(&post, &config_map("b", "")).await else {
        panic!("not refused")
    };
    assert_eq!(status.code, 403);
    let details = status.details.expect("details");
    assert_eq!(details.causes[0].reason, "NamespaceTerminating");
    assert!(server.get("configmaps", "shop/a").is_some());
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client(&server));
    namespaces.delete("shop", &gone).await.expect("deleted");
    assert_eq!(server.get("configmaps", "shop/a"), None);
    assert_eq!(server.get("namespaces", "shop"), None);
}

#[tokio::test]
async fn slices_hold_addresses_of_one_type() {
    let server = ApiServer::start().await;
    let slices = api::<EndpointSlice>(&server);
    let slice = |kind: &str, address: &str| -> EndpointSlice {
        object(json!({
            "metadata": { "name": "web-1" }, "addressType": kind,
            "endpoints": [{ "addresses": [address] }], "ports": [{ "port": 80 }],
        }))
    };
    let post = PostParams::default();
    for (kind, address) in [("IPv4", "fd00::1"), ("IPv6", "10.0.0.1"), ("IPv5", "10.0.0.1")] {
        let (code, _, why) = refused(slices.create(&post, &slice(kind, address)).await);
        assert_eq!(code, 422, "{kind} {address}: {why}");
    }
    let made = slices.create(&post, &slice("IPv4", "10.0.0.1")).await.expect("created");
    assert_eq!(made.metadata.generation, Some(1));
    let ports = serde_json::to_value(made.ports).expect("ports");
    assert_eq!(ports, json!([{ "name": "", "port": 80, "protocol": "TCP" }]));
    let changed = slices.replace("web-1", &post, &slice("IPv4", "10.0.0.2")).await.expect("done");
    assert_eq!(changed.metadata.generation, Some(2));
    let other = slices.replace("web-1", &post, &slice("IPv6", "fd00::1")).await;
    assert!(refused(other).2.contains("immutable"));
}

#[tokio::test]
async fn json_patches_test_before_they_change() {
    let patch = |text: &str| {
        super::super::patch::apply(
            &mut json!({ "list": [1, 2], "a/b": { "c": null } }),
            &serde_json::from_str(text).expect("JSON"),
        )
    };
    for good in [
        r#"[{"op":"test","path":"/list/1","value":2},{"op":"remove","path":"/list/1"}]"#,
        r#"[{"op":"add","path":"/a~1b/d","value":1},{"op":"test","path":"/a~1b/d","value":1}]"#,
        r#"[{"op":"add","path":"/list/-","value":3},{"op":"test","path":"/list/2","value":3}]"#,
        r#"[{"op":"replace","path":"/list","value":[]}]"#,
    ] {
        assert_eq!(patch(good), Ok(()), "{good}");
    }
    for bad in [
        r#"[{"op":"test","path":"/list/1","value":3}]"#,
        r#"[{"op":"replace","path":"/none","value":3}]"#,
        r#"[{"op":"remove","path":"/list/2"}]"#,
        r#"[{"op":"add","path":"/none/x","value":1}]"#,
        r"{}",
    ] {
        assert!(patch(bad).is_err(), "{bad}");
    }
}
