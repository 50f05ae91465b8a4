//! Remote pods of a headless import: Services, slices and names of their own.

use super::super::*;
use super::scene::*;
use crate::catalog::{IpFamily, ObjectKind, ServiceObject};
use crate::routes::MAX_REMOTE_PODS;

const HTTP: &str = "http:TCP:80";

fn two() -> Scene {
    Scene::new().peer_apart("oregon", headless(&[("db-0", 8080), ("db-1", 8080)]))
}

fn name(cluster: &str, hostname: &str) -> String {
    derived_name_of(&crate::model::Callee::pod(web(), pod(cluster, hostname)))
}

fn ready(scene: &Scene) -> Condition {
    scene.import().unwrap().status.conditions.into_iter().find(|of| &*of.kind == "Ready").unwrap()
}

#[test]
fn every_remote_pod_has_a_service_behind_which_the_gateway_leads_to_it() {
    let scene = two().allot().settle();
    let import = scene.import().unwrap();
    assert!(import.spec.ips.is_empty());
    assert_eq!(import.spec.families, [IpFamily::V4]);
    assert_eq!(import.status.endpoint_slices, Some(true));
    assert_eq!(scene.derived(), None, "the name itself has no address");
    for (host, behind) in [("db-0", 20_010), ("db-1", 20_011)] {
        let services = scene.services();
        let name = name("oregon", host);
        let service = services.iter().find(|service| *service.meta.name == *name).unwrap();
        assert_eq!(&*service.meta.labels[LABEL_POD], host);
        assert_eq!(&*service.meta.labels[LABEL_POD_CLUSTER], "oregon");
        assert_eq!(&*service.meta.annotations[ANNOTATION_PORTS], format!("tcp-80={behind}"));
        let ports: Vec<_> = service.ports.iter().map(|port| port.port.get()).collect();
        assert_eq!(ports, [80, 8080], "its own port, and the Service's");
        let slices = scene.slices(LABEL_SLICE_SERVICE, Some(&name));
        assert_eq!(
            lines(&slices),
            [format!("tcp-80->{behind} tcp-8080->{behind}: 10.1.0.1 10.1.0.2")]
        );
        assert!(
            slices.iter().all(|slice| slice.meta.owner.as_ref().unwrap().kind == "Service".into())
        );
    }
}

#[test]
fn the_slices_of_the_import_name_each_pod_at_the_address_of_its_service() {
    let scene = two().allot().settle();
    let slices = scene.slices(LABEL_SOURCE_CLUSTER, Some("oregon"));
    assert_eq!(lines(&slices).len(), 1);
    assert_eq!(slices[0].ports[0].port, number(8080), "where a client of a headless name dials");
    let found: Vec<_> = slices[0]
        .endpoints
        .iter()
        .map(|e| (e.hostname.as_ref().unwrap().to_string(), e.addresses[0]))
        .collect();
    let at = |host: &str| scene.observed.pods[&pod("oregon", host)].ips[0];
    assert_eq!(found.len(), 2);
    for (host, address) in found {
        assert_eq!(address, at(&host));
    }
}

#[test]
fn a_port_of_the_gateway_is_recorded_one_write_before_a_slice_names_it() {
    let mut scene = two().allot();
    scene.write();
    assert_eq!(scene.observed.pods.len(), 2);
    scene.pods.insert(pod("oregon", "db-0"), [(key(HTTP), number(20_015))].into());
    let behind = |scene: &Scene| scene.slices(LABEL_SLICE_SERVICE, Some(&name("oregon", "db-0")));
    assert_eq!(behind(&scene), [], "20010 is recorded, 20015 is allotted");
    let settled = behind(&scene.settle());
    assert_eq!(lines(&settled), ["tcp-80->20015 tcp-8080->20015: 10.1.0.1 10.1.0.2"]);
}

#[test]
fn who_has_not_looked_keeps_to_what_is_recorded() {
    let scene = two().allot().settle();
    assert_eq!(scene.desired_by_records().objects, scene.desired().objects);
}

#[test]
fn a_pod_that_goes_takes_its_slices_and_no_other_is_touched() {
    let scene = two().allot().settle();
    let before = scene.slices(LABEL_SLICE_SERVICE, Some(&name("oregon", "db-1")));
    let scene = scene.peer_apart("oregon", headless(&[("db-1", 8080)]));
    assert_eq!(scene.services().len(), 1);
    assert_eq!(scene.slices(LABEL_SLICE_SERVICE, Some(&name("oregon", "db-0"))), []);
    assert_eq!(scene.slices(LABEL_SLICE_SERVICE, Some(&name("oregon", "db-1"))), before);
    assert_eq!(scene.slices(LABEL_SOURCE_CLUSTER, Some("oregon"))[0].endpoints.len(), 1);
    assert_eq!(scene.gone().desired().objects, [], "nothing is left without an export");
}

#[test]
fn own_pods_stand_with_their_real_addresses_beside_remote_ones() {
    let service = ServiceObject { kind: ObjectKind::Headless, ..service(&[HTTP]) };
    let scene = two().own(service, &[(&[("http", 8080)], &[endpoint("10.0.0.1")])]);
    let scene = scene.allot().settle();
    assert_eq!(scene.of("paris"), ["http->8080: 10.0.0.1"]);
    assert_eq!(scene.of("oregon").len(), 1);
}

#[test]
fn on_a_shared_network_pods_stand_with_their_real_addresses_and_target_ports() {
    let mut there = headless(&[("db-0", 8080)]);
    let mut real = exported_endpoint("10.2.0.1", &[]);
    real.ports.clone_from(&there.hosts[0].ports);
    there.endpoints = vec![real];
    let scene = Scene::new().peer("oregon", there).allot().settle();
    assert_eq!(scene.of("oregon"), ["http->8080: 10.2.0.1"]);
    assert_eq!(scene.services(), []);
}

#[test]
fn only_so_many_pods_are_led_to_and_the_import_says_so() {
    let names: Vec<String> = (0..MAX_REMOTE_PODS + 3).map(|n| format!("db-{n}")).collect();
    let pods: Vec<_> = names.iter().map(|name| (name.as_str(), 80)).collect();
    let scene = Scene::new().peer_apart("oregon", headless(&pods)).allot().settle();
    assert_eq!(scene.services().len(), MAX_REMOTE_PODS);
    let condition = ready(&scene);
    assert_eq!(condition.status, ConditionStatus::True);
    assert!(condition.message.starts_with("3 pods of clusters"), "{}", condition.message);

    let scene = Scene::new().peer_apart("oregon", headless(&[])).settle();
    assert!(ready(&scene).message.contains("the pods of oregon have no hostname"));
}

#[test]
fn an_exhausted_range_is_told_and_those_with_ports_stay() {
    let mut scene = two().allot().settle();
    scene.pods.remove(&pod("oregon", "db-1"));
    let mut book = PortBook::new(number(20_000)..=number(20_000));
    let ports = [key(HTTP), key("b:TCP:81")].into();
    scene.exhausted = book.assign(&web().into(), &ports, crate::clock::now()).err();
    assert_eq!(&*ready(&scene).reason, "Pending");
    assert_eq!(scene.services().len(), 1);
}

#[test]
fn pods_of_another_family_are_reached_through_the_gateway() {
    let mut there = headless(&[("db-0", 8080)]);
    there.ip_families = vec![IpFamily::V6];
    let scene = Scene::new().peer_apart("oregon", there).allot().settle();
    assert_eq!(ready(&scene).status, ConditionStatus::True);
    assert_eq!(scene.import().unwrap().spec.families, [IpFamily::V4]);
    assert_eq!(scene.of("oregon").len(), 1);
}

#[test]
fn in_two_families_a_pod_has_a_slice_of_each() {
    let mut there = headless(&[("db-0", 80)]);
    there.ip_families = vec![IpFamily::V4, IpFamily::V6];
    let scene = Scene::new().dual_stack().peer_apart("oregon", there).allot().settle();
    assert_eq!(scene.slices(LABEL_SLICE_SERVICE, None).len(), 2);
    assert_eq!(scene.of("oregon").len(), 2);
}
