use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::catalog::{ExportedEndpoint, ServiceType, SessionAffinity, Settings};
use crate::model::{PortKey, PortNumber, Protocol};

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn belief(networks: &[&str], own: &[&str]) -> Belief {
    Belief { namespaces: NamespaceRules::Any, networks: nets(networks), own_ranges: nets(own) }
}

fn record(addresses: &[IpAddr]) -> Export {
    let endpoint = |address: &IpAddr| ExportedEndpoint {
        address: *address,
        hostname: None,
        ports: Vec::new(),
    };
    Export {
        key: ServiceKey::parse("shop/web").unwrap(),
        created_ms: 1,
        service_type: ServiceType::Headless,
        ports: Vec::new(),
        session_affinity: SessionAffinity::None,
        ip_families: Vec::new(),
        internal_traffic_policy: None,
        traffic_distribution: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        settings: Settings::default(),
        endpoints: addresses.iter().map(endpoint).collect(),
        hosts: Vec::new(),
    }
}

#[test]
fn s05_a_record_outside_the_imported_namespaces_is_refused() {
    let shop = Namespace::parse("shop").unwrap();
    let only = |namespace| {
        let namespaces = NamespaceRules::Only(BTreeSet::from([namespace]));
        Belief { namespaces, ..Belief::default() }
    };
    assert!(admit(&only(shop), record(&[])).is_ok());
    let refused = admit(&only(Namespace::parse("bank").unwrap()), record(&[])).unwrap_err();
    assert!(refused.to_string().contains("shop/web") && refused.to_string().contains("namespaces"));
    let none = Belief { namespaces: NamespaceRules::Only(BTreeSet::new()), ..Belief::default() };
    assert!(admit(&none, record(&[])).is_err());
}

#[test]
fn s07_addresses_are_believed_only_inside_the_declared_networks() {
    let wide = belief(&["0.0.0.0/0", "::/0"], &["10.96.0.0/16", "127.64.0.0/16", "fd00:9::/64"]);
    let demo = belief(&["127.0.2.0/24", "169.254.7.0/24", "fe80::/64"], &["127.0.1.0/24"]);
    for (belief, address, expected) in [
        (&wide, "10.1.2.3", Ok(())),
        (&wide, "2001:db8::1", Ok(())),
        (&wide, "::ffff:10.1.2.3", Ok(())),
        (&wide, "10.96.0.1", Err(Doubt::Ours)),
        (&wide, "::ffff:10.96.0.1", Err(Doubt::Ours)),
        (&wide, "fd00:9::1", Err(Doubt::Ours)),
        (&wide, "127.64.0.1", Err(Doubt::Ours)),
        (&wide, "127.0.0.1", Err(Doubt::HostLocal)),
        (&wide, "::ffff:127.0.0.1", Err(Doubt::HostLocal)),
        (&wide, "::1", Err(Doubt::HostLocal)),
        (&wide, "169.254.169.254", Err(Doubt::HostLocal)),
        (&wide, "fe80::1", Err(Doubt::HostLocal)),
        (&wide, "0.0.0.0", Err(Doubt::NotAHost)),
        (&wide, "0.1.2.3", Err(Doubt::NotAHost)),
        (&wide, "::", Err(Doubt::NotAHost)),
        (&wide, "224.0.0.1", Err(Doubt::NotAHost)),
        (&wide, "ff02::1", Err(Doubt::NotAHost)),
        (&wide, "255.255.255.255", Err(Doubt::NotAHost)),
        (&demo, "127.0.2.9", Ok(())),
        (&demo, "169.254.7.1", Ok(())),
        (&demo, "fe80::1", Ok(())),
        (&demo, "127.0.3.9", Err(Doubt::HostLocal)),
        (&demo, "169.254.169.254", Err(Doubt::HostLocal)),
        (&demo, "127.0.1.1", Err(Doubt::Ours)),
        (&demo, "10.1.2.3", Err(Doubt::Undeclared)),
    ] {
        assert_eq!(belief.check(address.parse().unwrap()), expected, "{address}");
    }
    // A network that merely overlaps the loopback range does not open it.
    let over = belief(&["126.0.0.0/7", "::/127"], &[]);
    assert_eq!(over.check("127.0.0.1".parse().unwrap()), Err(Doubt::HostLocal));
    assert_eq!(over.check("::1".parse().unwrap()), Err(Doubt::HostLocal));
    assert_eq!(Belief::default().check("10.0.0.1".parse().unwrap()), Err(Doubt::Undeclared));
}

#[test]
fn a_bad_endpoint_is_dropped_and_reported_and_the_record_stays() {
    let addresses: Vec<IpAddr> =
        ["10.0.0.9", "127.0.0.1", "::ffff:10.0.0.9", "10.0.0.1"].map(|a| a.parse().unwrap()).into();
    let mut export = record(&addresses);
    export.created_ms = -7;
    export.labels = BTreeMap::from([("a".into(), "b".into()), ("k8s.io/x".into(), "y".into())]);
    export.annotations = BTreeMap::from([("x.helm.sh/x".into(), "y".into())]);
    let admitted = judge(&belief(&["10.0.0.0/8"], &[]), export).unwrap();
    let left: Vec<_> = admitted.export.endpoints.iter().map(|e| e.address.to_string()).collect();
    assert_eq!(left, ["10.0.0.1", "10.0.0.9"]);
    assert_eq!(admitted.dropped, [(addresses[1], Doubt::HostLocal)]);
    assert_eq!(admitted.export.created_ms, 0);
    assert_eq!(admitted.export.labels.len(), 1);
    assert!(admitted.export.annotations.is_empty());
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    let v4 = any::<u32>().prop_map(Ipv4Addr::from_bits);
    let near = (prop::sample::select(vec![0_u8, 10, 127, 169, 224, 255]), any::<[u8; 3]>())
        .prop_map(|(a, [b, c, d])| Ipv4Addr::new(a, b, c, d));
    let mapped = any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).to_ipv6_mapped());
    prop_oneof![
        v4.prop_map(IpAddr::V4),
        near.prop_map(IpAddr::V4),
        mapped.prop_map(IpAddr::V6),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        (0_u128..4).prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    ]
}

fn any_net() -> impl Strategy<Value = IpNet> {
    (any_address(), 0_u8..=128).prop_map(|(address, prefix)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, prefix.min(most)).unwrap().trunc()
    })
}

proptest! {
    #[test]
    fn s07_no_address_of_a_peers_choice_gets_through(
        networks in prop::collection::vec(any_net(), 0..4),
        own_ranges in prop::collection::vec(any_net(), 0..4),
        addresses in prop::collection::vec(any_address(), 0..20),
    ) {
        let belief = Belief { namespaces: NamespaceRules::Any, networks, own_ranges };
        let admitted = judge(&belief, record(&addresses)).unwrap();
        for endpoint in &admitted.export.endpoints {
            let address = endpoint.address;
            let special: Vec<IpNet> = nets(&["127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10"]);
            let special = special.iter().find(|range| range.contains(&address));
            let declared = |net: &&IpNet| {
                net.contains(&address) && special.is_none_or(|special| special.contains(*net))
            };
            prop_assert!(belief.networks.iter().any(|net| declared(&net)));
            prop_assert!(!belief.own_ranges.iter().any(|net| net.contains(&address)));
            prop_assert!(!address.is_unspecified() && !address.is_multicast());
            prop_assert_eq!(address, canonical(address));
        }
        let kept = admitted.export.endpoints.len();
        prop_assert!(kept + admitted.dropped.len() <= addresses.len());
    }
}

#[test]
fn pods_with_a_hostname_are_kept_by_it_whatever_their_address() {
    let port = |number: u32, target: u32| {
        let [number, target] = [number, target].map(|n| PortNumber::new(n).unwrap());
        EndpointPort { key: PortKey::new(Protocol::Tcp, number), target: Some(target) }
    };
    let endpoint = |address: &str, hostname: Option<&str>, ports| ExportedEndpoint {
        address: address.parse().unwrap(),
        hostname: hostname.map(|name| HostLabel::parse(name).unwrap()),
        ports,
    };
    let mut headless = record(&[]);
    headless.endpoints = vec![
        endpoint("10.1.0.9", Some("db-1"), vec![port(80, 8080)]),
        endpoint("fd00::9", Some("db-1"), vec![port(80, 8080), port(81, 9090)]),
        endpoint("127.0.0.1", Some("db-0"), vec![port(80, 8080)]),
        endpoint("10.1.0.7", None, vec![port(80, 8080)]),
    ];
    let admitted = judge(&belief(&[], &[]), headless.clone()).unwrap();
    assert_eq!(admitted.dropped.len(), 4);
    assert!(admitted.export.endpoints.is_empty(), "no address is believed");
    let hosts: Vec<_> = admitted
        .export
        .hosts
        .iter()
        .map(|host| (host.hostname.as_str(), host.ports.len()))
        .collect();
    assert_eq!(hosts, [("db-0", 1), ("db-1", 2)]);

    let plain = Export { service_type: ServiceType::ClusterSetIp, ..headless };
    assert!(admit(&belief(&[], &[]), plain).unwrap().hosts.is_empty());
}
