use proptest::prelude::*;

use super::*;
use crate::catalog::{ExportedPort, Settings, Weight};
use crate::model::{PortKey, PortNumber, Protocol, ServiceKey};

fn cluster(name: &str) -> ClusterId {
    ClusterId::parse(name).unwrap()
}

fn spec(name: &str, protocol: Protocol, number: u32) -> PortSpec {
    let port = PortNumber::new(number).unwrap();
    PortSpec { name: name.into(), protocol, port, app_protocol: None }
}

fn tcp(name: &str, number: u32) -> PortSpec {
    spec(name, Protocol::Tcp, number)
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<Box<str>, Box<str>> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

/// An export made in that millisecond, with these ports, otherwise plain.
fn made(created_ms: i64, ports: &[PortSpec]) -> Export {
    let exported = |spec: &PortSpec| ExportedPort { spec: spec.clone(), ready: 1 };
    Export {
        key: ServiceKey::parse("shop/web").unwrap(),
        created_ms,
        service_type: ServiceType::ClusterSetIp,
        ports: ports.iter().map(exported).collect(),
        session_affinity: SessionAffinity::None,
        ip_families: vec![IpFamily::V4],
        internal_traffic_policy: None,
        traffic_distribution: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        settings: Settings::default(),
        endpoints: Vec::new(),
        hosts: Vec::new(),
    }
}

/// Merges exports of the clusters a, b, c …, seen from outside.
fn merged(exports: &[Export]) -> Merged {
    merged_by(None, exports)
}

fn merged_by(own: Option<&str>, exports: &[Export]) -> Merged {
    let names: Vec<_> = ('a'..).take(exports.len()).map(|c| cluster(&c.to_string())).collect();
    let claims: Vec<_> = names
        .iter()
        .zip(exports)
        .map(|(cluster, export)| Claim { cluster, export, leads: true })
        .collect();
    merge(own.map(cluster).as_ref(), &claims).unwrap()
}

/// (reason, winner, how many disagree)
fn told(merged: &Merged) -> Vec<(&'static str, &str, usize)> {
    let tell = |c: &'_ Conflict| (c.reason.as_str(), c.disagree);
    let winners = merged.conflicts.iter().map(|c| c.winner.as_str());
    winners.zip(merged.conflicts.iter().map(tell)).map(|(w, (r, d))| (r, w, d)).collect()
}

#[test]
fn no_export_is_no_import_and_one_is_copied_verbatim() {
    assert_eq!(merge(None, &[]), None);
    let mut port = tcp("web", 80);
    port.app_protocol = Some("kubernetes.io/h2c".into());
    let mut export = made(5, &[port.clone(), spec("", Protocol::Sctp, 80)]);
    export.session_affinity = SessionAffinity::ClientIp { timeout_seconds: 60 };
    export.ip_families = vec![IpFamily::V6, IpFamily::V4];
    export.internal_traffic_policy = Some("Local".into());
    export.traffic_distribution = Some("PreferClose".into());
    export.labels = map(&[("a", "b")]);
    export.annotations = map(&[("c", "d")]);
    let got = merged(std::slice::from_ref(&export));
    assert_eq!(got.ports, [port, spec("", Protocol::Sctp, 80)]);
    assert_eq!(got.session_affinity, export.session_affinity);
    assert_eq!(got.ip_families, export.ip_families);
    assert_eq!(got.internal_traffic_policy, export.internal_traffic_policy);
    assert_eq!(got.traffic_distribution, export.traffic_distribution);
    assert_eq!((got.labels, got.annotations), (export.labels, export.annotations));
    assert_eq!((got.clusters, got.conflicts), (vec![cluster("a")], vec![]));
}

#[test]
fn the_oldest_comes_first_and_ties_go_by_cluster_name() {
    let got = merged(&[made(9, &[]), made(3, &[]), made(3, &[]), made(1, &[])]);
    assert_eq!(got.clusters, ["d", "b", "c", "a"].map(cluster));
}

#[test]
fn a_port_joins_unless_its_name_or_number_is_taken() {
    let udp = spec("dns", Protocol::Udp, 80);
    let got = merged(&[
        made(1, &[tcp("web", 80)]),
        // The number is taken; the name is taken; TCP and UDP of one number are two ports.
        made(2, &[tcp("http", 80), tcp("web", 8080), udp.clone()]),
        made(3, &[tcp("http", 9090)]),
    ]);
    assert_eq!(got.ports, [tcp("web", 80), udp, tcp("http", 9090)]);
    assert_eq!(told(&got), [("PortConflict", "a", 2)]);
}

#[test]
fn port_sets_are_compared_whole_but_not_their_order() {
    let two = [tcp("a", 1), tcp("b", 2)];
    assert_eq!(told(&merged(&[made(1, &two), made(2, &[two[1].clone(), two[0].clone()])])), []);
    // A union without a clash is a conflict all the same.
    let got = merged(&[made(1, &two[..1]), made(2, &two[1..]), made(3, &two[..1])]);
    assert_eq!(told(&got), [("PortConflict", "a", 1)]);
    assert_eq!(got.ports, two);
    let mut hinted = two.clone();
    hinted[1].app_protocol = Some("http".into());
    let got = merged(&[made(1, &two), made(2, &hinted)]);
    assert_eq!(told(&got), [("PortConflict", "a", 1)]);
    assert_eq!(got.ports[1].app_protocol, None);
}

#[test]
fn each_field_is_the_oldest_ones_and_its_conflict_is_told() {
    type Change = fn(&mut Export);
    let table: [(&str, Change); 8] = [
        ("TypeConflict", |e| e.service_type = ServiceType::Headless),
        ("SessionAffinityConflict", |e| {
            e.session_affinity = SessionAffinity::ClientIp { timeout_seconds: 9 };
        }),
        ("AnnotationsConflict", |e| e.annotations = map(&[("k", "v")])),
        ("LabelsConflict", |e| e.labels = map(&[("k", "v")])),
        ("IPFamilyConflict", |e| e.ip_families = vec![IpFamily::V6]),
        ("IPFamilyConflict", |e| e.ip_families = vec![IpFamily::V4, IpFamily::V6]),
        ("InternalTrafficPolicyConflict", |e| e.internal_traffic_policy = Some("Local".into())),
        ("TrafficDistributionConflict", |e| e.traffic_distribution = Some("PreferClose".into())),
    ];
    for (reason, change) in table {
        let (old, mut new) = (made(1, &[]), made(2, &[]));
        change(&mut new);
        let got = merged(&[new.clone(), old.clone(), new.clone()]);
        assert_eq!(told(&got), [(reason, "b", 2)]);
        let agreed =
            |merged| Merged { conflicts: vec![], clusters: vec![], all_families: vec![], ..merged };
        assert_eq!(agreed(got), agreed(merged(&[old])), "{reason}");
    }
}

#[test]
fn the_families_of_all_are_joined_whoever_wins() {
    let with = |created, families: &[IpFamily]| Export {
        ip_families: families.to_vec(),
        ..made(created, &[])
    };
    let got = merged(&[with(2, &[IpFamily::V4]), with(1, &[IpFamily::V6]), with(3, &[])]);
    assert_eq!(got.ip_families, [IpFamily::V6]);
    assert_eq!(got.all_families, [IpFamily::V4, IpFamily::V6]);
}

#[test]
fn affinity_configurations_only_matter_where_the_affinity_is_agreed() {
    let affine = |created, timeout_seconds| Export {
        session_affinity: SessionAffinity::ClientIp { timeout_seconds },
        ..made(created, &[])
    };
    let got = merged(&[affine(1, 60), affine(2, 61), affine(3, 60), made(4, &[])]);
    assert_eq!(
        told(&got),
        [("SessionAffinityConflict", "a", 1), ("SessionAffinityConfigConflict", "a", 1)]
    );
    assert_eq!(got.session_affinity, SessionAffinity::ClientIp { timeout_seconds: 60 });
    let got = merged(&[made(1, &[]), affine(2, 61), affine(3, 60)]);
    assert_eq!(told(&got), [("SessionAffinityConflict", "a", 2)]);
}

#[test]
fn maps_are_used_entire_never_joined() {
    let mut exports = [made(1, &[]), made(2, &[])];
    exports[0].labels = map(&[("a", "1")]);
    exports[1].labels = map(&[("b", "2")]);
    assert_eq!(merged(&exports).labels, exports[0].labels);
}

#[test]
fn what_is_left_open_is_no_conflict() {
    let mut exports = [made(1, &[]), made(2, &[]), made(3, &[])];
    exports[0].ip_families.clear();
    exports[1].internal_traffic_policy = Some("Cluster".into());
    exports[2].ip_families = vec![IpFamily::V6];
    let got = merged(&exports);
    assert_eq!(got.ip_families, [IpFamily::V4]);
    assert_eq!(told(&got), [("IPFamilyConflict", "b", 1)]);
}

#[test]
fn policy_fence_and_dns_are_the_own_exports_else_the_oldest_ones() {
    let mut exports = [made(1, &[]), made(2, &[])];
    exports[0].settings.policy = Policy::Local;
    exports[1].settings =
        Settings { fence: Fence::Zone, dns: DnsMode::Endpoints, ..Settings::default() };
    for (own, policy, fence, dns) in [
        (None, Policy::Local, Fence::None, DnsMode::Vip),
        (Some("z"), Policy::Local, Fence::None, DnsMode::Vip),
        (Some("a"), Policy::Local, Fence::None, DnsMode::Vip),
        (Some("b"), Policy::Nearest, Fence::Zone, DnsMode::Endpoints),
    ] {
        let got = merged_by(own, &exports);
        assert_eq!((got.policy, got.fence, got.dns), (policy, fence, dns), "{own:?}");
        assert_eq!(got.conflicts, [], "routing wishes are nobody's conflict");
    }
}

#[test]
fn a_message_names_field_winner_reason_and_count() {
    let headless = |at| Export { service_type: ServiceType::Headless, ..made(at, &[]) };
    let text = |exports: &[Export]| merged(exports).conflicts[0].to_string();
    assert_eq!(
        text(&[headless(2), made(1, &[]), headless(3)]),
        "type: the value of b is used, whose export is the oldest; 2 of 3 exporting clusters disagree"
    );
    assert_eq!(
        text(&[made(1, &[tcp("web", 80)]), made(1, &[])]),
        "ports: all are joined, those of a first, first by name of the oldest exports; 1 of 2 exporting clusters disagree"
    );
}

fn exports() -> impl Strategy<Value = Vec<Export>> {
    let port = (0_usize..4, 0_usize..3, 1_u32..5).prop_map(|(name, protocol, number)| {
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        spec(["", "a", "b", "c"][name], protocols[protocol], number)
    });
    let export = (
        (0_i64..3, prop::collection::vec(port, 0..5)),
        (any::<bool>(), 0_u32..3, 0_usize..4),
        (0_usize..3, 0_usize..3, 0_u32..3),
    );
    let export = export.prop_map(|((at, ports), (headless, affinity, families), rest)| {
        let (label, policy, weight) = rest;
        let mut export = made(at, &ports);
        if headless {
            export.service_type = ServiceType::Headless;
        }
        if affinity > 0 {
            export.session_affinity = SessionAffinity::ClientIp { timeout_seconds: affinity };
        }
        export.ip_families = match families {
            0 => vec![],
            1 => vec![IpFamily::V4],
            2 => vec![IpFamily::V6],
            _ => vec![IpFamily::V6, IpFamily::V4],
        };
        export.labels = map(&[("l", ["x", "y", "z"][label])]);
        export.settings.policy = [Policy::Nearest, Policy::Local, Policy::Weighted][policy].clone();
        export.settings.weight = Weight::new(weight).unwrap();
        export
    });
    prop::collection::vec(export, 1..6)
}

proptest! {
    #[test]
    fn k09_the_import_does_not_depend_on_the_order_of_exports(
        exports in exports(),
        seed in any::<prop::sample::Index>(),
        turns in 0_usize..6,
        own in prop::option::of(0_usize..6),
    ) {
        let names: Vec<_> = ('a'..).take(exports.len()).map(|c| cluster(&c.to_string())).collect();
        let mut claims: Vec<_> =
            names.iter().zip(&exports).map(|(cluster, export)| Claim { cluster, export, leads: true }).collect();
        let own = own.and_then(|own| names.get(own));
        let one = merge(own, &claims);
        let length = claims.len();
        claims.swap(0, seed.index(length));
        claims.rotate_left(turns % length);
        prop_assert_eq!(&merge(own, &claims), &one);
        claims.reverse();
        prop_assert_eq!(&merge(own, &claims), &one);
    }

    #[test]
    fn joined_ports_never_clash_and_every_number_is_served_or_its_name_taken(exports in exports()) {
        let ports = merged(&exports).ports;
        for (index, port) in ports.iter().enumerate() {
            for other in &ports[..index] {
                prop_assert!(other.name != port.name && other.key() != port.key());
            }
        }
        let keys: BTreeSet<PortKey> = ports.iter().map(PortSpec::key).collect();
        for spec in exports.iter().flat_map(|export| &export.ports).map(|port| &port.spec) {
            let name_taken = ports.iter().any(|port| port.name == spec.name);
            prop_assert!(keys.contains(&spec.key()) || name_taken);
        }
    }
}
