use proptest::prelude::*;

use super::*;
use crate::catalog::{CallerRules, ClusterRules, Policy, SessionAffinity, SlicePort};
use crate::model::{PortKey, PortNumber, Protocol};

fn key(text: &str) -> ServiceKey {
    ServiceKey::parse(text).unwrap()
}

fn number(port: u32) -> PortNumber {
    PortNumber::new(port).unwrap()
}

fn port(name: &str, port: u32) -> PortSpec {
    PortSpec { name: name.into(), protocol: Protocol::Tcp, port: number(port), app_protocol: None }
}

fn service(kind: ObjectKind, ports: &[PortSpec]) -> ServiceObject {
    ServiceObject {
        kind,
        ports: ports.to_vec(),
        session_affinity: SessionAffinity::None,
        ip_families: Vec::new(),
        internal_traffic_policy: None,
        traffic_distribution: None,
    }
}

fn endpoint(address: &str, ready: bool, hostname: Option<&str>) -> SliceEndpoint {
    SliceEndpoint {
        addresses: vec![address.parse().unwrap(), "192.0.2.99".parse().unwrap()],
        ready,
        serving: ready,
        terminating: false,
        node: None,
        zone: None,
        hostname: hostname.map(|name| HostLabel::parse(name).unwrap()),
    }
}

/// A slice of `shop/web` with one TCP port.
fn slice(name: &str, target: u32, endpoints: Vec<SliceEndpoint>) -> SliceObject {
    let port = SlicePort { name: name.into(), protocol: Protocol::Tcp, port: number(target) };
    SliceObject { service: key("shop/web"), ports: vec![port], endpoints }
}

fn slice_key(name: &str) -> SliceObjectKey {
    SliceObjectKey { namespace: key("shop/web").namespace, name: name.into() }
}

fn wish(pairs: &[(&str, &str)]) -> ExportObject {
    let settings = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    ExportObject { created_ms: 7, settings, ..ExportObject::default() }
}

fn put_service(object: ServiceObject) -> SourceEvent {
    SourceEvent::Service(key("shop/web"), Some(object))
}

fn put_slice(name: &str, object: SliceObject) -> SourceEvent {
    SourceEvent::Slice(slice_key(name), Some(object))
}

fn put_export(object: ExportObject) -> SourceEvent {
    SourceEvent::Export(key("shop/web"), Some(object))
}

/// An assembly of these, and the export of `shop/web`.
fn assembled(events: Vec<SourceEvent>) -> (Assembly, Arc<LocalExport>) {
    let mut assembly = Assembly::new();
    assembly.apply(events);
    let export = assembly.export(&key("shop/web")).unwrap();
    (assembly, export)
}

fn shown(backends: &[Backend]) -> Vec<String> {
    backends.iter().map(|backend| backend.address.to_string()).collect()
}

#[test]
fn backends_join_service_and_slice_ports_by_name_and_protocol() {
    let udp = SlicePort { name: "web".into(), protocol: Protocol::Udp, port: number(53) };
    let mut one = slice("web", 8080, vec![endpoint("10.0.0.2", true, None)]);
    one.ports.push(udp);
    one.ports.push(SlicePort { name: "extra".into(), protocol: Protocol::Tcp, port: number(1) });
    let other = slice(
        "web",
        8081,
        vec![endpoint("10.0.0.1", true, Some("pod")), endpoint("10.0.0.3", false, None)],
    );
    let (_, local) = assembled(vec![
        put_service(service(ObjectKind::ClusterIp, &[port("web", 80), port("admin", 81)])),
        put_slice("one", one),
        put_slice("two", other),
        put_export(wish(&[])),
    ]);
    let web = PortKey::new(Protocol::Tcp, number(80));
    assert_eq!(shown(&local.backends[&web]), ["10.0.0.1:8081", "10.0.0.2:8080"]);
    assert_eq!(local.backends[&web][0].hostname, Some(HostLabel::parse("pod").unwrap()));
    assert_eq!(local.backends[&PortKey::new(Protocol::Tcp, number(81))], []);
    let ready: Vec<_> = local.export.ports.iter().map(|p| (&*p.spec.name, p.ready)).collect();
    assert_eq!(ready, [("web", 2), ("admin", 0)]);
    assert_eq!((local.export.created_ms, local.export.endpoints.len()), (7, 0));
    assert_eq!(local.export.ip_families, [IpFamily::V4]);
}

#[test]
fn an_endpoint_in_two_slices_counts_once_and_is_ready_where_one_says_so() {
    let (_, local) = assembled(vec![
        put_service(service(ObjectKind::ClusterIp, &[port("web", 80)])),
        put_slice("one", slice("web", 80, vec![endpoint("10.0.0.1", true, None)])),
        put_slice("two", slice("web", 80, vec![endpoint("10.0.0.1", true, Some("b"))])),
        put_slice("three", slice("web", 80, vec![endpoint("10.0.0.1", false, Some("a"))])),
        put_export(wish(&[])),
    ]);
    let backends = local.backends.values().next().unwrap();
    assert_eq!(shown(backends), ["10.0.0.1:80"]);
    assert_eq!(backends[0].hostname, Some(HostLabel::parse("b").unwrap()));
}

#[test]
fn endpoints_travel_for_headless_services_and_where_dns_asks_for_them() {
    let slices = || {
        let pods = vec![
            endpoint("10.0.0.2", true, Some("b")),
            endpoint("10.0.0.2", true, Some("a")),
            endpoint("10.0.0.1", true, None),
            endpoint("10.0.0.9", false, Some("c")),
        ];
        [put_slice("one", slice("web", 8080, pods))]
    };
    let told = |kind, wishes: &[(&str, &str)], ports: &[PortSpec]| {
        let mut events = vec![put_service(service(kind, ports)), put_export(wish(wishes))];
        events.extend(slices());
        let (_, local) = assembled(events);
        let tell = |e: &ExportedEndpoint| {
            let host = e.hostname.as_ref().map_or("-", HostLabel::as_str).to_owned();
            format!("{} {host} {}", e.address, e.ports.len())
        };
        local.export.endpoints.iter().map(tell).collect::<Vec<_>>()
    };
    let all = ["10.0.0.1 - 1", "10.0.0.2 a 1", "10.0.0.2 b 1"];
    assert_eq!(told(ObjectKind::Headless, &[], &[port("web", 80)]), all);
    assert_eq!(told(ObjectKind::ClusterIp, &[("dns", "endpoints")], &[port("web", 80)]), all);
    assert!(told(ObjectKind::ClusterIp, &[], &[port("web", 80)]).is_empty());
    // A headless service needs no port to have addresses.
    let bare = ["10.0.0.1 - 0", "10.0.0.2 a 0", "10.0.0.2 b 0"];
    assert_eq!(told(ObjectKind::Headless, &[], &[]), bare);
}

#[test]
fn k08_an_export_waits_for_its_service() {
    let mut assembly = Assembly::new();
    let named = BTreeSet::from([key("shop/web")]);
    assert_eq!(assembly.apply(vec![put_export(wish(&[]))]), named, "its owner is told why");
    assert_eq!(assembly.refused()[&key("shop/web")], NotExported::NoService);
    assert_eq!(assembly.problems().count(), 1);
    let external = put_service(service(ObjectKind::ExternalName, &[]));
    assert_eq!(assembly.apply(vec![external.clone()]), named, "the reason is another");
    assert!(assembly.apply(vec![external.clone()]).is_empty());
    assert_eq!(assembly.refused()[&key("shop/web")], NotExported::InvalidServiceType);
    assert_eq!(assembly.apply(vec![put_service(service(ObjectKind::ClusterIp, &[]))]), named);
    assert!(assembly.refused().is_empty() && assembly.export(&key("shop/web")).is_some());
    assert_eq!(assembly.apply(vec![external]), named, "it is withdrawn");
    assert!(assembly.export(&key("shop/web")).is_none());
    assembly.apply(vec![SourceEvent::Export(key("shop/web"), None)]);
    assert!(assembly.refused().is_empty());
}

#[test]
fn a_service_that_is_not_exported_stays_at_home() {
    let mut assembly = Assembly::new();
    let events = vec![put_service(service(ObjectKind::ClusterIp, &[port("web", 80)]))];
    assert!(assembly.apply(events).is_empty());
    assert!(assembly.exports().is_empty() && assembly.refused().is_empty());
}

#[test]
fn only_names_whose_export_changed_are_returned() {
    let one = slice("web", 80, vec![endpoint("10.0.0.1", true, None)]);
    let (mut assembly, before) = assembled(vec![
        put_service(service(ObjectKind::ClusterIp, &[port("web", 80)])),
        put_slice("one", one.clone()),
        put_export(wish(&[])),
    ]);
    assert!(assembly.apply(vec![put_slice("one", one.clone())]).is_empty());
    // A new address behind a ClusterSetIP: what travels is the same value.
    let moved = slice("web", 80, vec![endpoint("10.0.0.2", true, None)]);
    assert_eq!(assembly.apply(vec![put_slice("one", moved)]).len(), 1);
    let after = assembly.export(&key("shop/web")).unwrap();
    assert!(Arc::ptr_eq(&before.export, &after.export) && before.backends != after.backends);
    // A slice that is relabelled leaves its service and joins the other.
    let other = SliceObject { service: key("shop/db"), ..one };
    assert_eq!(assembly.apply(vec![put_slice("one", other)]), BTreeSet::from([key("shop/web")]));
    assert_eq!(assembly.export(&key("shop/web")).unwrap().export.ports[0].ready, 0);
    let gone = SourceEvent::Slice(slice_key("one"), None);
    assert!(assembly.apply(vec![gone]).is_empty());
    assert!(assembly.slices_of.is_empty() && assembly.slices.is_empty());
}

#[test]
fn annotations_are_obeyed_and_bad_ones_are_problems_of_the_export() {
    let events = |wishes: &[(&str, &str)]| {
        vec![put_service(service(ObjectKind::ClusterIp, &[])), put_export(wish(wishes))]
    };
    let (assembly, local) =
        assembled(events(&[("policy", "local"), ("clusters", "A"), ("allow", "?"), ("dns", "no")]));
    assert_eq!(local.export.settings.policy, Policy::Local);
    assert_eq!(local.clusters, ClusterRules::nobody());
    assert_eq!(local.allow, CallerRules::nobody());
    let fields: Vec<_> = assembly.problems().map(|(_, problem)| problem.field).collect();
    assert_eq!(
        fields.iter().map(|field| &**field).collect::<Vec<_>>(),
        ["portolan.dev/allow", "portolan.dev/clusters", "portolan.dev/dns"]
    );
}

#[test]
fn a_port_whose_name_dns_cannot_have_is_not_exported() {
    let names = ["my http", "a.b", "two\nlines 5 IN A 192.0.2.1", &"x".repeat(64)];
    let strange = (1..).zip(names).map(|(at, name)| port(name, at));
    let ports: Vec<_> = strange.chain([port("web", 80), port("", 81)]).collect();
    let (assembly, local) =
        assembled(vec![put_service(service(ObjectKind::ClusterIp, &ports)), put_export(wish(&[]))]);
    let kept: Vec<_> = local.export.ports.iter().map(|port| &*port.spec.name).collect();
    assert_eq!(kept, ["web", ""]);
    assert_eq!(assembly.problems().count(), names.len());
}

#[test]
fn reserved_keys_do_not_travel() {
    let keys = ["app.kubernetes.io/name", "argoproj.io/x", "team", "a.k8s.io/1", "b.k8s.io/1"];
    let more = ["c.helm.sh/1", "d.fluxcd.io/1", "portolan.dev/policy", "example.org/x"];
    let map: BTreeMap<Box<str>, Box<str>> =
        keys.iter().chain(&more).map(|key| ((*key).into(), "v".into())).collect();
    let wish =
        ExportObject { exported_labels: map.clone(), exported_annotations: map, ..wish(&[]) };
    let (_, local) =
        assembled(vec![put_service(service(ObjectKind::ClusterIp, &[])), put_export(wish)]);
    let left: Vec<_> = local.export.labels.keys().map(|key| &**key).collect();
    assert_eq!(left, ["example.org/x", "team"]);
    assert_eq!(local.export.annotations, local.export.labels);
    assert_eq!(local.problems.len(), 2);
    assert!(local.problems[0].message.contains("and 2 more"), "{:?}", local.problems[0]);
}

#[test]
fn of_ports_that_clash_the_first_is_exported() {
    let ports = [port("a", 80), port("a", 81), port("b", 80), port("c", 82)];
    let (_, local) =
        assembled(vec![put_service(service(ObjectKind::ClusterIp, &ports)), put_export(wish(&[]))]);
    let names: Vec<_> = local.export.ports.iter().map(|port| &*port.spec.name).collect();
    assert_eq!((names, local.problems.len()), (vec!["a", "c"], 2));
}

#[test]
fn families_are_the_services_else_those_of_its_endpoints() {
    let families = |families: &[IpFamily], endpoints: &[&str]| {
        let object =
            ServiceObject { ip_families: families.to_vec(), ..service(ObjectKind::ClusterIp, &[]) };
        let endpoints = endpoints.iter().map(|a| endpoint(a, false, None)).collect();
        let events = vec![
            put_service(object),
            put_slice("s", slice("", 80, endpoints)),
            put_export(wish(&[])),
        ];
        assembled(events).1.export.ip_families.clone()
    };
    assert_eq!(families(&[IpFamily::V6], &["10.0.0.1"]), [IpFamily::V6]);
    assert_eq!(families(&[], &["fd00::1", "10.0.0.1"]), [IpFamily::V4, IpFamily::V6]);
    assert_eq!(families(&[], &["fd00::1"]), [IpFamily::V6]);
    assert_eq!(families(&[], &[]), []);
}

fn event() -> impl Strategy<Value = SourceEvent> {
    let name = prop::sample::select(vec!["shop/web", "shop/db", "bank/web"]).prop_map(key);
    let kind = prop::sample::select(vec![
        ObjectKind::ClusterIp,
        ObjectKind::Headless,
        ObjectKind::ExternalName,
    ]);
    let services = (name.clone(), prop::option::of((kind, 80_u32..82))).prop_map(|(key, s)| {
        SourceEvent::Service(key, s.map(|(kind, n)| service(kind, &[port("web", n)])))
    });
    let pods = prop::collection::vec((1_u8..5, any::<bool>()), 0..4);
    let slices = (0_u8..3, prop::option::of((name.clone(), pods))).prop_map(|(n, object)| {
        let object = object.map(|(service, pods)| {
            let pods = pods.iter().map(|(d, ready)| endpoint(&format!("10.0.0.{d}"), *ready, None));
            SliceObject { service, ..slice("web", 80, pods.collect()) }
        });
        SourceEvent::Slice(slice_key(&n.to_string()), object)
    });
    let exports = (name, prop::option::of(prop::sample::select(vec!["vip", "endpoints"])))
        .prop_map(|(key, dns)| SourceEvent::Export(key, dns.map(|dns| wish(&[("dns", dns)]))));
    prop_oneof![services, slices, exports]
}

proptest! {
    #[test]
    fn applying_changes_one_by_one_ends_where_loading_the_last_state_does(
        events in prop::collection::vec(event(), 0..60),
    ) {
        let mut grown = Assembly::new();
        for event in &events {
            let before = grown.exports();
            let changed = grown.apply(vec![event.clone()]);
            let after = grown.exports();
            for key in before.keys().chain(after.keys()) {
                prop_assert_eq!(before.get(key) != after.get(key), changed.contains(key));
            }
        }
        let mut loaded = Assembly::new();
        loaded.apply(events);
        prop_assert_eq!(loaded.exports(), grown.exports());
        prop_assert_eq!(loaded.refused(), grown.refused());
    }
}
