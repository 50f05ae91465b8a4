//! What is written settles, stays, and goes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::*;
use super::scene::*;
use crate::catalog::{
    IpFamily, ObjectKind, ServiceObject, ServiceType, SessionAffinity, SliceEndpoint,
};
use crate::health::PeerState;
use crate::model::ClusterId;

const HTTP: &str = "http:TCP:80";

fn both() -> Scene {
    Scene::new()
        .own(service(&[HTTP]), &[(&[("http", 8080)], &[endpoint("10.0.0.1")])])
        .peer("oregon", export(&[HTTP]))
        .allot()
}

#[test]
fn service_then_import_then_slices() {
    let mut scene = both();
    let kinds =
        |scene: &Scene| -> Vec<Kind> { scene.desired().objects.iter().map(Object::kind).collect() };
    assert_eq!(kinds(&scene), [Kind::Service]);
    scene.write();
    assert_eq!(kinds(&scene), [Kind::Service, Kind::Import, Kind::Slice]);
    scene.write();
    assert_eq!(kinds(&scene)[..2], [Kind::Service, Kind::Import]);
    assert_eq!(scene.of("oregon").len(), 1);
    assert_eq!(scene.import().unwrap().status.endpoint_slices, Some(true));
}

#[test]
fn without_its_namespace_nothing_exists() {
    let mut scene = both().settle();
    scene.observed.namespace_exists = false;
    let desired = scene.desired();
    assert_eq!((desired.objects.len(), desired.export), (0, None));
}

#[test]
fn without_an_export_nothing_exists() {
    let scene = both().settle().gone();
    assert!(scene.desired().objects.is_empty());
}

#[test]
fn a_lost_service_is_asked_for_with_the_imports_addresses() {
    let scene = both().settle().lose(Kind::Service);
    let service = scene.derived().unwrap();
    assert_eq!((service.ips, service.families), (vec![ip("10.96.0.7")], vec![IpFamily::V4]));
    let json = Object::Service(scene.derived().unwrap()).to_json();
    assert_eq!(json["spec"]["clusterIPs"], serde_json::json!(["10.96.0.7"]));
    let import = scene.import().unwrap();
    assert_eq!(import.spec.ips, [ip("10.96.0.7")], "it keeps its address");
    assert_eq!(&*import.status.conditions[0].reason, "Pending");
    assert!(!scene.settle().behind().is_empty());
}

#[test]
fn a_lost_import_is_made_again_with_the_services_addresses() {
    let scene = both().settle().lose(Kind::Import);
    assert_eq!(scene.import().unwrap().spec.ips, [ip("10.96.0.7")]);
}

#[test]
fn an_address_of_an_import_that_leads_nowhere_is_put_right() {
    let mut scene = both().settle();
    scene.tamper(Kind::Import, |value| value["spec"]["ips"] = serde_json::json!(["10.96.0.99"]));
    assert_eq!(scene.settle().import().unwrap().spec.ips, [ip("10.96.0.7")]);
}

#[test]
fn an_address_stays_when_the_service_gets_a_second_one() {
    let mut scene = both().settle();
    scene.observed.service.as_mut().unwrap().ips.push(ip("fd96::7"));
    assert_eq!(scene.import().unwrap().spec.ips, [ip("10.96.0.7")]);
}

#[test]
fn becoming_headless_gives_up_the_address() {
    let headless = ServiceObject { kind: ObjectKind::Headless, ..service(&[HTTP]) };
    let scene = Scene::new()
        .own(service(&[HTTP]), &[(&[("http", 8080)], &[endpoint("10.0.0.1")])])
        .settle();
    let scene = scene.own(headless, &[(&[("http", 8080)], &[endpoint("10.0.0.1")])]);
    assert_eq!(scene.derived(), None);
    assert!(scene.import().unwrap().spec.ips.is_empty());
    assert_eq!(scene.of("paris").len(), 1);
    assert_eq!(scene.behind().len(), 0);
}

#[derive(Debug, Clone)]
struct AnyPeer {
    state: PeerState,
    ports: BTreeSet<usize>,
    families: Vec<IpFamily>,
    headless: bool,
    affinity: Option<u32>,
    labels: BTreeMap<String, String>,
}

const PORTS: [&str; 5] = [HTTP, "admin:TCP:9000", "dns:UDP:53", "sig:SCTP:3868", ":TCP:7"];

fn any_families() -> impl Strategy<Value = Vec<IpFamily>> {
    prop::sample::subsequence(vec![IpFamily::V4, IpFamily::V6], 0..=2)
}

fn any_peer() -> impl Strategy<Value = AnyPeer> {
    let states = prop::sample::select(vec![
        PeerState::Up,
        PeerState::Suspect,
        PeerState::Down,
        PeerState::Draining,
        PeerState::Unknown,
    ]);
    (
        states,
        prop::collection::btree_set(0..PORTS.len(), 0..4),
        any_families(),
        prop::bool::weighted(0.1),
        prop::option::of(1_u32..86_400),
        prop::collection::btree_map("[a-z/ .]{1,6}", "[a-z ]{0,4}", 0..3),
    )
        .prop_map(|(state, ports, families, headless, affinity, labels)| AnyPeer {
            state,
            ports,
            families,
            headless,
            affinity,
            labels,
        })
}

fn any_pod() -> impl Strategy<Value = SliceEndpoint> {
    (any::<u8>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(n, six, ready, leaving)| {
            let address = if six { format!("fd00::{n}") } else { format!("10.0.0.{n}") };
            SliceEndpoint { ready, terminating: leaving, ..endpoint(&address) }
        },
    )
}

/// Two slices of the own Service, with target ports of their own.
fn any_own() -> impl Strategy<Value = Option<(Vec<SliceEndpoint>, Vec<SliceEndpoint>)>> {
    let pods = || prop::collection::vec(any_pod(), 0..130);
    prop::option::of((pods(), pods()))
}

fn scene(
    own: Option<&(Vec<SliceEndpoint>, Vec<SliceEndpoint>)>,
    peers: &[AnyPeer],
    dual: bool,
) -> Scene {
    let mut scene = if dual { Scene::new().dual_stack() } else { Scene::new() };
    if let Some((one, other)) = own {
        let service = service(&[HTTP, "dns:UDP:53"]);
        let slices: &[SliceOf<'_>] =
            &[(&[("http", 8080), ("dns", 53)], one), (&[("http", 8081)], other)];
        scene = scene.own(service, slices);
    }
    for (n, peer) in peers.iter().enumerate() {
        let ports: Vec<_> = peer.ports.iter().map(|n| PORTS[*n]).collect();
        let mut export = export(&ports);
        export.ip_families.clone_from(&peer.families);
        if peer.headless {
            export.service_type = ServiceType::Headless;
        }
        if let Some(timeout_seconds) = peer.affinity {
            export.session_affinity = SessionAffinity::ClientIp { timeout_seconds };
        }
        let texts = peer.labels.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into()));
        export.labels = texts.collect();
        export.annotations = export.labels.clone();
        scene = scene.peer_in(&format!("c{n}"), peer.state, export);
    }
    scene.allot()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// After a few rounds nothing is written any more, though the server filled in what it likes,
    /// and every slice is one that the API takes.
    #[test]
    fn it_settles_and_then_nothing_is_written(
        own in any_own(),
        peers in prop::collection::vec(any_peer(), 0..4),
        dual in any::<bool>(),
    ) {
        let mut scene = scene(own.as_ref(), &peers, dual).settle();
        scene.now_ms += 3_600_000;
        prop_assert!(!scene.write());
        for slice in scene.slices(LABEL_SERVICE, None) {
            prop_assert!((1..=100).contains(&slice.endpoints.len()));
            let names: BTreeSet<_> = slice.ports.iter().map(|port| &port.name).collect();
            prop_assert_eq!(names.len(), slice.ports.len());
            let mut addresses = BTreeSet::new();
            for endpoint in &slice.endpoints {
                prop_assert_eq!(endpoint.addresses.len(), 1);
                prop_assert_eq!(IpFamily::of(endpoint.addresses[0]), slice.family);
                prop_assert!(addresses.insert(endpoint.addresses[0]));
            }
            let labels = &slice.meta.labels;
            prop_assert_ne!(
                labels.contains_key(LABEL_SLICE_SERVICE),
                labels.contains_key(LABEL_MCS_SERVICE)
            );
        }
        let clusters: BTreeSet<ClusterId> =
            scene.route().map(|route| route.import.clusters.iter().cloned().collect()).unwrap_or_default();
        let import = scene.import();
        prop_assert_eq!(import.is_some(), !clusters.is_empty());
        if let Some(import) = import {
            prop_assert_eq!(import.status.clusters, clusters);
            let present = !scene.slices(LABEL_MCS_SERVICE, None).is_empty();
            prop_assert_eq!(import.status.endpoint_slices, Some(present));
        }
    }

    /// The same sets in another order are the same decision.
    #[test]
    fn it_depends_on_sets_not_on_their_order(
        own in any_own(),
        peers in prop::collection::vec(any_peer(), 0..4),
        dual in any::<bool>(),
    ) {
        let one = scene(own.as_ref(), &peers, dual).settle();
        let mut other = one.clone();
        let turned = own.map(|(mut first, mut second)| {
            first.reverse();
            second.reverse();
            (first, second)
        });
        other.inputs.local = scene(turned.as_ref(), &peers, dual).inputs.local;
        let mut local = (*other.inputs.local).clone();
        for export in local.exports.values_mut() {
            std::sync::Arc::make_mut(export).slices.reverse();
        }
        other.inputs.local = std::sync::Arc::new(local);
        other.world.gateways.reverse();
        prop_assert_eq!(other.desired(), one.desired());
    }

    /// A slice names a port of the gateway only at pods that have it open.
    #[test]
    fn only_open_ports_are_named(
        peers in prop::collection::vec(any_peer(), 1..4),
        open in prop::collection::vec(prop::collection::btree_set(20_000_u32..20_006, 0..6), 2),
        ready in prop::collection::vec(any::<bool>(), 2),
    ) {
        let mut scene = scene(None, &peers, false).settle();
        for (n, pod) in scene.world.gateways.iter_mut().enumerate() {
            let tcp = |port: &u32| (crate::model::Protocol::Tcp, number(*port));
            pod.open = std::sync::Arc::new(open[n].iter().map(tcp).collect());
            pod.ready = ready[n];
        }
        for slice in scene.slices(LABEL_SERVICE, None) {
            for (port, endpoint) in
                slice.ports.iter().flat_map(|port| slice.endpoints.iter().map(move |e| (port, e)))
            {
                let mut pods = scene.world.gateways.iter();
                let pod = pods.find(|pod| pod.addresses[0] == endpoint.addresses[0]).unwrap();
                prop_assert!(pod.open.contains(&(port.protocol, port.port)));
            }
        }
    }
}
