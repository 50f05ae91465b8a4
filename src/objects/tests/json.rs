use std::collections::BTreeMap;

use serde_json::json;

use super::super::*;
use super::scene::*;
use crate::catalog::{ServiceObject, SessionAffinity};
use crate::model::ServiceKey;

const HTTP: &str = "http:TCP:80";

#[test]
fn the_derived_name_of_a_pod_is_a_label_of_which_no_two_are_to_be_found() {
    let host = |name: &str| crate::model::PodName {
        cluster: crate::model::ClusterId::parse("oregon").unwrap(),
        hostname: crate::model::HostLabel::parse(name).unwrap(),
    };
    let name = |of: &str| derived_name_of(&crate::model::Callee::pod(web(), host(of)));
    let (digest, long) = (|name: &str| name.rsplit_once('-').unwrap().1.len(), "a".repeat(63));
    for of in ["db-0", long.as_str()] {
        let name = name(of);
        assert_eq!(digest(&name), 30, "120 bits: {name}");
        assert!(name.len() <= 63 && crate::model::ServiceName::parse(&name).is_ok(), "{name}");
    }
    assert!(name("db-0").starts_with("portolan-db-0-"));
}

#[test]
fn the_derived_name_is_a_label_however_long_the_service_is() {
    let name = derived_name(&web());
    assert_eq!(name, "portolan-web-97375646b1");
    let long = ServiceKey::parse(&format!("shop/9{}", "a-".repeat(30) + "b")).unwrap();
    let name = derived_name(&long);
    assert!(name.len() <= 63 && crate::model::ServiceName::parse(&name).is_ok(), "{name}");
    assert_ne!(derived_name(&ServiceKey::parse("other/web").unwrap()), derived_name(&web()));
}

#[test]
fn recorded_ports_read_back_and_nonsense_is_left_out() {
    let ports = BTreeMap::from([(key(HTTP), number(20_001)), (key("d:UDP:53"), number(20_002))]);
    assert_eq!(write_ports(&ports), "tcp-80=20001,udp-53=20002");
    assert_eq!(parse_ports(&write_ports(&ports)), ports);
    let text = "tcp-80=20001,, sctp-1=2,tcp-0=5,tcp-9=70000,x,tcp-80=3, udp-53=20002";
    assert_eq!(parse_ports(text), ports);
    assert!(parse_ports("").is_empty());
}

#[test]
fn a_derived_service_is_written_as_the_api_wants_it() {
    let mut there = export(&[HTTP, "dns:UDP:53"]);
    there.session_affinity = SessionAffinity::ClientIp { timeout_seconds: 60 };
    let scene = Scene::new().peer("oregon", there).allot();
    let service = Object::Service(scene.derived().unwrap());
    assert_eq!(
        service.to_json(),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "namespace": "shop",
                "name": derived_name(&web()),
                "labels": {
                    "app.kubernetes.io/managed-by": "portolan.dev", "portolan.dev/service": "web",
                },
                "annotations": { "portolan.dev/ports": "tcp-80=20001,udp-53=20002" },
            },
            "spec": {
                "type": "ClusterIP",
                "ipFamilyPolicy": "SingleStack",
                "ipFamilies": ["IPv4"],
                "internalTrafficPolicy": "Cluster",
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 60 } },
                "ports": [
                    { "name": "tcp-80", "protocol": "TCP", "port": 80 },
                    { "name": "udp-53", "protocol": "UDP", "port": 53 },
                ],
            },
        })
    );
    let patch = service.patch_json(&service).unwrap();
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert!(patch["spec"].get(field).is_none(), "{field} is never changed");
    }
}

#[test]
fn an_import_is_written_as_the_crd_has_it() {
    let mut there = export(&[HTTP, ":UDP:53"]);
    there.ports[0].spec.app_protocol = Some("kubernetes.io/h2c".into());
    there.traffic_distribution = Some("PreferClose".into());
    let scene = Scene::new().peer("oregon", there).allot().settle();
    let import = Object::Import(scene.import().unwrap());
    let value = import.to_json();
    assert_eq!(value["apiVersion"], "multicluster.x-k8s.io/v1beta1");
    assert_eq!(value["metadata"]["name"], "web");
    assert_eq!(
        value["spec"],
        json!({
            "type": "ClusterSetIP",
            "ips": ["10.96.0.7"],
            "ipFamilies": ["IPv4"],
            "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
            "trafficDistribution": "PreferClose",
            "ports": [
                {
                    "name": "http", "protocol": "TCP", "port": 80,
                    "appProtocol": "kubernetes.io/h2c",
                },
                { "protocol": "UDP", "port": 53 },
            ],
        })
    );
    assert_eq!(value.get("status"), None);
    assert_eq!(
        import.status_json().unwrap(),
        json!({
            "clusters": [{ "cluster": "oregon" }],
            "endpointSliceObjects": "Present",
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Ready", "message": "",
                "lastTransitionTime": "2027-01-15T08:00:00Z",
            }],
        })
    );
}

#[test]
fn ports_of_an_import_are_never_omitted() {
    let scene = Scene::new().peer("oregon", export(&[])).settle();
    assert_eq!(Object::Import(scene.import().unwrap()).to_json()["spec"]["ports"], json!([]));
}

#[test]
fn a_slice_is_written_as_the_api_wants_it() {
    let scene = Scene::new().peer("oregon", export(&[HTTP])).allot().settle();
    let slices = scene.slices(LABEL_SLICE_SERVICE, None);
    let value = Object::Slice(slices[0].clone()).to_json();
    assert_eq!(value["apiVersion"], "discovery.k8s.io/v1");
    assert_eq!(value["addressType"], "IPv4");
    assert_eq!(value["ports"], json!([{ "name": "tcp-80", "protocol": "TCP", "port": 20001 }]));
    assert_eq!(
        value["endpoints"][0],
        json!({
            "addresses": ["10.1.0.1"],
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": "node-1",
        })
    );
}

#[test]
fn absent_fields_read_as_what_the_server_means_by_them() {
    let service = Object::parse(
        Kind::Service,
        &json!({
            "metadata": { "namespace": "shop", "name": "portolan-web" },
            "spec": {
                "ports": [{ "name": "tcp-80", "port": 80 }],
                "sessionAffinity": "ClientIP",
            },
        }),
    );
    let Ok(Object::Service(service)) = service else { panic!("{service:?}") };
    assert_eq!(service.session_affinity, SessionAffinity::ClientIp { timeout_seconds: 10_800 });
    assert_eq!(service.ports, [spec("tcp-80:TCP:80")]);
    assert!(!service.tampered);
    assert!(!Object::Service(service.clone()).is_ours());
    assert_eq!(Object::Service(service).key(), None);

    let slice = Object::parse(
        Kind::Slice,
        &json!({
            "metadata": { "namespace": "shop", "name": "x", "ownerReferences": null },
            "addressType": "IPv6",
            "ports": null,
            "endpoints": [
                { "addresses": ["fd00::1"], "conditions": { "ready": false } },
                { "addresses": ["fd00::2"] },
            ],
        }),
    );
    let Ok(Object::Slice(slice)) = slice else { panic!("{slice:?}") };
    let conditions: Vec<_> =
        slice.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
    assert_eq!(conditions, [(false, false, false), (true, true, false)]);
}

#[test]
fn what_cannot_be_read_says_where() {
    for (kind, value) in [
        (Kind::Service, json!({})),
        (Kind::Service, json!({ "metadata": { "namespace": "A", "name": "x" }, "spec": {} })),
        (
            Kind::Import,
            json!({ "metadata": { "namespace": "a", "name": "x" }, "spec": { "type": "Other" } }),
        ),
        (
            Kind::Slice,
            json!({ "metadata": { "namespace": "a", "name": "x" }, "addressType": "FQDN" }),
        ),
    ] {
        let error = Object::parse(kind, &value).unwrap_err();
        assert!(error.starts_with(kind.as_str()), "{error}");
    }
}

#[test]
fn a_condition_that_is_none_costs_no_other() {
    let good = json!({ "type": "Ready", "status": "True", "lastTransitionTime": null });
    let list = Condition::list(&[json!(7), json!({ "type": "X", "status": "Maybe" }), good]);
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].last_transition, 0);
}

#[test]
fn what_others_changed_in_a_service_differs_and_is_put_right() {
    let web_service = ServiceObject { session_affinity: SessionAffinity::None, ..service(&[HTTP]) };
    let slices: &[SliceOf<'_>] = &[(&[("http", 8080)], &[endpoint("10.0.0.1")])];
    let mut scene = Scene::new().own(web_service, slices).settle();
    for change in [
        ("selector", json!({ "app": "x" })),
        ("type", json!("NodePort")),
        ("internalTrafficPolicy", json!("Local")),
        ("trafficDistribution", json!("PreferClose")),
        ("sessionAffinity", json!("ClientIP")),
        ("ports", json!([{ "name": "tcp-81", "port": 81 }])),
    ] {
        scene.tamper(Kind::Service, |value| value["spec"][change.0] = change.1.clone());
        assert!(scene.write(), "{}", change.0);
        assert!(!scene.write(), "{}", change.0);
        let spec = &scene.raw(Kind::Service)["spec"];
        assert_eq!((&spec["type"], &spec["selector"]), (&json!("ClusterIP"), &json!(null)));
        assert_eq!(spec["clusterIP"], "10.96.0.7");
    }
}

#[test]
fn labels_of_others_are_neither_read_nor_compared() {
    let scene = Scene::new().peer("oregon", export(&[HTTP])).allot().settle();
    let value = scene.raw(Kind::Import);
    assert!(value["metadata"]["labels"].get("example.org/team").is_some());
    let import = Object::parse(Kind::Import, value).unwrap();
    assert!(!import.meta().labels.contains_key("example.org/team"));
}
