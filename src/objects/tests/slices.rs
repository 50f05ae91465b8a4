use std::sync::Arc;

use super::super::*;
use super::scene::*;
use crate::catalog::{
    DnsMode, Export, IpFamily, LocalCatalog, LocalExport, ObjectKind, Policy, ServiceObject,
    ServiceType, Settings, Share, SliceEndpoint,
};
use crate::health::PeerState;
use crate::model::{HostLabel, ServiceKey};

const HTTP: &str = "http:TCP:80";

fn own(pods: &[SliceEndpoint]) -> Scene {
    Scene::new().own(service(&[HTTP]), &[(&[("http", 8080)], pods)])
}

fn remote() -> Scene {
    Scene::new().peer("oregon", export(&[HTTP])).allot()
}

#[test]
fn local_pods_stand_behind_the_address_while_the_own_cluster_comes_first() {
    let pod = SliceEndpoint {
        node: Some("node-1".into()),
        zone: Some("eu-1".into()),
        ..endpoint("10.0.0.1")
    };
    let down = SliceEndpoint { ready: false, serving: false, ..endpoint("10.0.0.2") };
    let scene = own(&[down, pod]).peer("oregon", export(&[HTTP])).allot().settle();
    assert_eq!(scene.behind(), ["tcp-80->8080: 10.0.0.1 (10.0.0.2)"]);
    let slices = scene.slices(LABEL_SLICE_SERVICE, Some(&derived_name(&web())));
    assert_eq!(slices[0].endpoints[0].node.as_deref(), Some("node-1"));
    assert_eq!(slices[0].endpoints[0].zone.as_deref(), Some("eu-1"));
    assert_eq!(slices[0].meta.owner.as_ref().unwrap().kind, "Service".into());
    assert!(slices[0].meta.labels.keys().all(|key| !key.starts_with("multicluster")));
}

#[test]
fn the_gateway_takes_over_in_the_same_slice_when_no_local_pod_is_ready() {
    let scene = |ready| {
        let pod = SliceEndpoint { ready, ..endpoint("10.0.0.1") };
        own(&[pod]).peer("oregon", export(&[HTTP])).allot().settle()
    };
    assert_eq!(scene(false).behind(), ["tcp-80->20001: 10.1.0.1 10.1.0.2"]);
    let name = |scene: &Scene| scene.slices(LABEL_SLICE_SERVICE, None)[0].meta.name.clone();
    assert_eq!(name(&scene(true)), name(&scene(false)), "the switch is one write");
}

#[test]
fn local_gateway_leads_local_traffic_through_the_gateway() {
    let pods = [endpoint("10.0.0.1")];
    let slices: &[SliceOf<'_>] = &[(&[("http", 8080)], &pods)];
    let scene = Scene::new().own_with(service(&[HTTP]), slices, &[("local", "gateway")]);
    let scene = scene.allot().settle();
    assert_eq!(scene.behind(), ["tcp-80->20001: 10.1.0.1 10.1.0.2"]);
    assert_eq!(scene.of("paris"), ["http->8080: 10.0.0.1"], "its own endpoints stay what they are");
}

#[test]
fn weights_are_drawn_by_the_gateway_unless_nobody_else_is_in_the_draw() {
    let pods = [endpoint("10.0.0.1")];
    let slices: &[SliceOf<'_>] = &[(&[("http", 8080)], &pods)];
    let own = || Scene::new().own_with(service(&[HTTP]), slices, &[("policy", "weighted")]);
    assert_eq!(own().allot().settle().behind(), ["tcp-80->8080: 10.0.0.1"]);
    let scene = own().peer("oregon", export(&[HTTP])).allot().settle();
    assert_eq!(scene.behind(), ["tcp-80->20001: 10.1.0.1 10.1.0.2"]);
}

#[test]
fn a_share_is_divided_by_the_gateway_and_missed_rather_than_a_connection() {
    let pods = [endpoint("10.0.0.1")];
    let slices: &[SliceOf<'_>] = &[(&[("http", 8080)], &pods)];
    let takes = |percent: u32| {
        let mut scene = Scene::new().own(service(&[HTTP]), slices);
        let mut catalog = LocalCatalog::clone(&scene.inputs.local);
        let mut local = LocalExport::clone(&catalog.exports[&web()]);
        let mut export = Export::clone(&local.export);
        export.settings.share = Share::new(percent).unwrap();
        local.direct_share = export.settings.share;
        local.export = Arc::new(export);
        catalog.exports.insert(web(), Arc::new(local));
        scene.inputs.local = Arc::new(catalog);
        scene
    };
    let shared = |percent| takes(percent).peer("oregon", export(&[HTTP])).allot().settle();
    assert_eq!(shared(100).behind(), ["tcp-80->8080: 10.0.0.1"]);
    for percent in [99, 50, 1, 0] {
        assert_eq!(shared(percent).behind(), ["tcp-80->20001: 10.1.0.1 10.1.0.2"], "{percent}");
    }
    assert_eq!(takes(50).allot().settle().behind(), ["tcp-80->8080: 10.0.0.1"], "nobody else");
    let mut closed = shared(50);
    for gateway in &mut closed.world.gateways {
        gateway.open = Arc::default();
    }
    assert_eq!(closed.behind(), ["tcp-80->8080: 10.0.0.1"], "no gateway is open");
}

#[test]
fn a_pinned_peer_is_reached_through_the_gateway() {
    let pods = [endpoint("10.0.0.1")];
    let slices: &[SliceOf<'_>] = &[(&[("http", 8080)], &pods)];
    let scene = Scene::new().own_with(service(&[HTTP]), slices, &[("policy", "pinned: oregon")]);
    let scene = scene.peer("oregon", export(&[HTTP])).allot().settle();
    assert_eq!(scene.behind(), ["tcp-80->20001: 10.1.0.1 10.1.0.2"]);
}

#[test]
fn ports_are_decided_one_by_one() {
    let scene = Scene::new()
        .own(service(&[HTTP]), &[(&[("http", 8080)], &[endpoint("10.0.0.1")])])
        .peer("oregon", export(&[HTTP, "admin:TCP:9000", "dns:UDP:53"]))
        .allot()
        .settle();
    assert_eq!(
        scene.behind(),
        [
            "tcp-80->8080: 10.0.0.1",
            "tcp-9000->20002: 10.1.0.1 10.1.0.2",
            "udp-53->20003: 10.1.0.1 10.1.0.2",
        ]
    );
    assert_eq!(scene.of("paris"), ["http->8080: 10.0.0.1"]);
    assert_eq!(scene.of("oregon"), ["admin->20002 dns->20003 http->20001: 10.1.0.1 10.1.0.2"]);
}

#[test]
fn nobody_serves_no_slice() {
    let scene = Scene::new().peer_in("oregon", PeerState::Down, export(&[HTTP]));
    let mut idle = export(&[HTTP]);
    idle.ports[0].ready = 0;
    for scene in [Scene::new().peer("oregon", idle), own(&[])] {
        let scene = scene.allot().settle();
        assert!(scene.behind().is_empty());
        assert_eq!(scene.import().unwrap().status.endpoint_slices, Some(false));
    }
    // Down less than a day, and nobody else: the last resort serves.
    assert_eq!(scene.allot().settle().behind().len(), 1);
}

#[test]
fn the_dead_leave_where_another_serves() {
    let scene = remote().peer_in("tokyo", PeerState::Down, export(&[HTTP])).allot().settle();
    assert_eq!(scene.of("oregon").len(), 1);
    assert!(scene.of("tokyo").is_empty());
    let clusters = scene.import().unwrap().status.clusters;
    assert!(clusters.contains(&cluster("tokyo")), "its export lives");
}

#[test]
fn a_port_of_the_gateway_enters_only_once_it_is_recorded_and_open() {
    let mut scene = remote();
    scene.write();
    scene.write();
    assert_eq!(scene.observed.service.as_ref().unwrap().ports, scene.allotted);
    let mut moved = scene.clone();
    moved.allotted.insert(key(HTTP), number(20_007));
    assert!(moved.behind().is_empty(), "not recorded yet");
    assert_eq!(moved.clone().settle().behind(), ["tcp-80->20007: 10.1.0.1 10.1.0.2"]);

    scene.world.gateways[0].open = Arc::default();
    assert_eq!(scene.behind(), ["tcp-80->20001: 10.1.0.2"]);
    scene.world.gateways[1].ready = false;
    assert_eq!(scene.behind(), ["tcp-80->20001: 10.1.0.2"], "open serves better than none");
    scene.world.gateways[1].open = Arc::default();
    assert!(scene.behind().is_empty());
}

#[test]
fn a_replica_that_is_not_ready_leaves_where_another_is() {
    let mut scene = remote().settle();
    scene.world.gateways[0].ready = false;
    assert_eq!(scene.behind(), ["tcp-80->20001: 10.1.0.2"]);
}

#[test]
fn as_long_as_nobody_looked_the_recorded_ports_hold() {
    let scene = remote().settle();
    assert_eq!(scene.desired_by_records(), scene.desired());
}

#[test]
fn no_slice_has_more_than_a_hundred_endpoints_and_names_stay() {
    let pods: Vec<_> =
        (0..250).map(|n| endpoint(&format!("10.0.{}.{}", n / 200, n % 200 + 1))).collect();
    let scene = own(&pods).settle();
    let slices = scene.slices(LABEL_SLICE_SERVICE, None);
    assert_eq!(slices.iter().map(|slice| slice.endpoints.len()).sum::<usize>(), 250);
    assert_eq!(slices.len(), 3);
    let fewer = own(&pods[7..]).settle().slices(LABEL_SLICE_SERVICE, None);
    let names = |slices: &[EndpointSlice]| -> Vec<_> {
        slices.iter().map(|slice| slice.meta.name.clone()).collect()
    };
    assert_eq!(names(&fewer), names(&slices));
}

#[test]
fn pods_with_other_target_ports_stand_in_other_slices() {
    let slices: &[SliceOf<'_>] = &[
        (&[("http", 8080)], &[endpoint("10.0.0.1"), endpoint("10.0.0.3")]),
        (&[("http", 8081)], &[endpoint("10.0.0.2")]),
    ];
    let scene = Scene::new().own(service(&[HTTP]), slices).settle();
    assert_eq!(scene.behind(), ["tcp-80->8080: 10.0.0.1 10.0.0.3", "tcp-80->8081: 10.0.0.2"]);
}

#[test]
fn a_pod_in_two_slices_counts_once_and_a_port_name_is_unique_in_each() {
    let leaving = SliceEndpoint { ready: false, terminating: true, ..endpoint("10.0.0.1") };
    let slices: &[SliceOf<'_>] = &[
        (&[("http", 8080)], &[leaving, endpoint("10.0.0.2")]),
        (&[("http", 8080)], &[endpoint("10.0.0.1")]),
        (&[("http", 8081)], &[endpoint("10.0.0.2")]),
    ];
    let scene = Scene::new().own(service(&[HTTP]), slices).settle();
    assert_eq!(scene.behind(), ["tcp-80->8080: 10.0.0.1 10.0.0.2"]);
}

#[test]
fn ports_are_renamed_by_number_between_clusters() {
    // The oldest export names the port; ours has the same number under another name.
    let mut older = export(&["web:TCP:80"]);
    older.created_ms = 1;
    let scene = own(&[endpoint("10.0.0.1")]).peer("oregon", older).allot().settle();
    assert_eq!(scene.import().unwrap().spec.ports, [spec("web:TCP:80")]);
    assert_eq!(scene.of("paris"), ["web->8080: 10.0.0.1"]);
    assert_eq!(scene.behind(), ["tcp-80->8080: 10.0.0.1"]);
}

#[test]
fn each_family_of_the_address_has_its_slices() {
    let dual = |families: &[IpFamily], pods: &[SliceEndpoint]| {
        let service = ServiceObject { ip_families: families.to_vec(), ..service(&[HTTP]) };
        Scene::new().dual_stack().own(service, &[(&[("http", 8080)], pods)]).allot().settle()
    };
    let both = [endpoint("10.0.0.1"), endpoint("fd00::1")];
    let scene = dual(&[IpFamily::V4, IpFamily::V6], &both);
    assert_eq!(scene.behind(), ["tcp-80->8080: 10.0.0.1", "tcp-80->8080: fd00::1"]);
    assert_eq!(scene.import().unwrap().spec.ips, [ip("10.96.0.7"), ip("fd96::7")]);
    assert_eq!(scene.of("paris").len(), 2);
    // The own pods speak one family only: for the other the gateway translates.
    let scene = dual(&[IpFamily::V4, IpFamily::V6], &both[..1]);
    assert_eq!(scene.behind(), ["tcp-80->20001: fd01::1 fd01::2", "tcp-80->8080: 10.0.0.1"]);
    // What is exported in one family has one address.
    let scene = dual(&[IpFamily::V4], &both[..1]);
    assert_eq!(scene.behind(), ["tcp-80->8080: 10.0.0.1"]);
    assert_eq!(scene.import().unwrap().spec.ips, [ip("10.96.0.7")]);
}

#[test]
fn sctp_has_local_pods_only_and_delays_no_other_port() {
    let ports = [HTTP, "sig:SCTP:3868"];
    let scene = Scene::new()
        .own(service(&ports), &[(&[("http", 8080), ("sig", 3868)], &[endpoint("10.0.0.1")])])
        .peer("oregon", export(&ports))
        .allot()
        .settle();
    assert_eq!(scene.behind(), ["sctp-3868->3868: 10.0.0.1", "tcp-80->8080: 10.0.0.1"]);
    let away = Scene::new().peer("oregon", export(&ports)).allot().settle();
    assert_eq!(away.behind(), ["tcp-80->20001: 10.1.0.1 10.1.0.2"]);
    assert_eq!(away.of("oregon"), ["http->20001: 10.1.0.1 10.1.0.2"]);
    assert_eq!(away.derived().unwrap().ports.len(), 2);
    assert_eq!(away.import().unwrap().spec.ports.len(), 2);
}

#[test]
fn sctp_reaches_pods_of_an_equal_network() {
    let ports = ["sig:SCTP:3868"];
    let mut there = export(&ports);
    there.settings = Settings { dns: DnsMode::Endpoints, ..Settings::default() };
    there.endpoints = vec![exported_endpoint("10.7.0.1", &ports)];
    let scene = Scene::new().peer("oregon", there).allot().settle();
    assert_eq!(scene.behind(), ["sctp-3868->3868: 10.7.0.1"]);
}

#[test]
fn an_equal_network_shows_the_pods_themselves() {
    let mut there = export(&[HTTP]);
    there.settings = Settings { dns: DnsMode::Endpoints, ..Settings::default() };
    there.endpoints =
        ["10.7.0.1", "127.0.0.1", "169.254.0.9"].map(|a| exported_endpoint(a, &[HTTP])).to_vec();
    let scene = Scene::new().peer("oregon", there).allot().settle();
    assert_eq!(scene.of("oregon"), ["http->80: 10.7.0.1"], "no slice may hold the others");
    assert_eq!(scene.behind(), ["tcp-80->20001: 10.1.0.1 10.1.0.2"]);
}

#[test]
fn equal_pod_ranges_do_not_mix() {
    // The peer's pods have the very addresses of ours; no route leads there but the gateway.
    let mut there = export(&[HTTP]);
    there.endpoints = vec![exported_endpoint("10.0.0.1", &[HTTP])];
    let mut scene = own(&[endpoint("10.0.0.1")]).peer("oregon", there);
    scene.inputs.network = "".into();
    let scene = scene.allot().settle();
    assert_eq!(scene.of("paris"), ["http->8080: 10.0.0.1"]);
    assert_eq!(scene.of("oregon"), ["http->20001: 10.1.0.1 10.1.0.2"]);
}

#[test]
fn slices_of_the_import_carry_its_labels_and_owner() {
    let scene = own(&[endpoint("10.0.0.1")]).settle();
    let slices = scene.slices(LABEL_SOURCE_CLUSTER, Some("paris"));
    let meta = &slices[0].meta;
    assert_eq!(&*meta.labels[LABEL_MCS_SERVICE], "web");
    assert_eq!(&*meta.labels[LABEL_SLICE_MANAGED_BY], MANAGER);
    assert!(!meta.labels.contains_key(LABEL_SLICE_SERVICE));
    let owner = meta.owner.as_ref().unwrap();
    assert_eq!(&*owner.kind, "ServiceImport");
    assert_eq!(&*owner.api_version, "multicluster.x-k8s.io/v1beta1");
    let mut older = scene;
    older.world.mcs = McsVersion::V1alpha1;
    let slices = older.slices(LABEL_SOURCE_CLUSTER, None);
    let owner = slices[0].meta.owner.as_ref().unwrap();
    assert_eq!(&*owner.api_version, "multicluster.x-k8s.io/v1alpha1");
}

#[test]
fn a_headless_import_keeps_hostnames_and_has_no_service() {
    let pod =
        SliceEndpoint { hostname: Some(HostLabel::parse("db-0").unwrap()), ..endpoint("10.0.0.1") };
    let headless = ServiceObject { kind: ObjectKind::Headless, ..service(&[HTTP]) };
    let scene = Scene::new().own(headless, &[(&[("http", 8080)], &[pod])]).settle();
    assert_eq!(scene.derived(), None);
    assert!(scene.behind().is_empty());
    let slices = scene.slices(LABEL_SOURCE_CLUSTER, Some("paris"));
    assert_eq!(slices[0].endpoints[0].hostname.as_ref().unwrap().as_str(), "db-0");
    let import = scene.import().unwrap();
    assert_eq!(import.spec.service_type, ServiceType::Headless);
    assert!(import.spec.ips.is_empty());
    assert_eq!(import.spec.families, [IpFamily::V4]);
}

#[test]
fn a_headless_service_without_ports_has_its_endpoints() {
    let headless = ServiceObject { kind: ObjectKind::Headless, ..service(&[]) };
    let scene = Scene::new().own(headless, &[(&[], &[endpoint("10.0.0.1")])]).settle();
    assert_eq!(scene.of("paris"), [": 10.0.0.1"]);
}

#[test]
fn policy_local_shows_the_peers_only_when_home_is_empty() {
    let pods = [endpoint("10.0.0.1")];
    let slices: &[SliceOf<'_>] = &[(&[("http", 8080)], &pods)];
    let scene = Scene::new().own_with(service(&[HTTP]), slices, &[("policy", "local")]);
    let scene = scene.peer("oregon", export(&[HTTP])).allot().settle();
    assert_eq!(scene.route().unwrap().policy, Policy::Local);
    assert!(scene.of("oregon").is_empty());
}

#[test]
fn names_of_slices_are_subdomains_however_long_the_service_is() {
    // The API looks at the whole (RFC 1123 subdomain, 253 octets), not at its labels.
    let scene = own(&[endpoint("10.0.0.1")]).peer("oregon", export(&[HTTP])).allot().settle();
    let longest = ServiceKey::parse(&format!("shop/{}", "a".repeat(63))).unwrap();
    let more = derived_name(&longest).len() - derived_name(&web()).len();
    for slice in scene.slices(LABEL_SERVICE, None) {
        let name = &slice.meta.name;
        assert!(name.len() + more <= 253, "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        assert!(name.starts_with(&derived_name(&web())));
    }
}
