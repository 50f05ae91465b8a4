//! The zone as a table of questions and answers.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::model::{DnsName, HostLabel, ServiceKey};
use crate::routes::RouteTable;
use crate::testing::table::Tables;

fn config() -> ZoneConfig {
    ZoneConfig { zone: DnsName::parse("clusterset.local").unwrap(), ttl_seconds: 5 }
}

/// One import of every kind; paris is the own cluster.
fn table() -> RouteTable {
    Tables::new("paris")
        .revision(0x1_0000_0007)
        .vip("shop/web", &["127.64.0.1"], &["http:TCP:80", "quic:UDP:80", ":TCP:9"], &["oregon"])
        .vip("shop/dual", &["127.64.0.2", "fd00::2"], &["https:TCP:443"], &["paris"])
        .vip("shop/idle", &["127.64.0.3"], &["http:TCP:80"], &[])
        .vip("shop/near", &["127.64.0.4"], &["http:TCP:80"], &["paris", "tokyo"])
        .endpoints(
            "shop/near",
            &[("oregon", &[]), ("paris", &["10.1.0.1", "10.1.0.2"]), ("tokyo", &["10.3.0.1"])],
        )
        .vip("shop/far", &["127.64.0.5"], &["http:TCP:80"], &["tokyo"])
        .endpoints("shop/far", &[])
        .headless(
            "data/db",
            &["sql:TCP:5432", "gossip:UDP:5432", "admin:TCP:8080", ":TCP:1"],
            &[
                ("paris", &["10.1.0.5 db-0", "10.1.0.6", "fd00:1::5 db-0"]),
                ("oregon", &[]),
                ("tokyo", &["10.3.0.5 db-0"]),
            ],
        )
        .headless("data/empty", &["sql:TCP:5432"], &[("paris", &[])])
        .build()
}

fn ask_labels(table: &RouteTable, labels: Vec<Vec<u8>>, qtype: QueryType) -> Answer {
    answer(table, &config(), &Question { labels, qtype })
}

fn ask(name: &str, qtype: QueryType) -> Answer {
    let labels = name.split('.').map(|label| label.as_bytes().to_vec()).collect();
    ask_labels(&table(), labels, qtype)
}

fn shown(records: &[Record]) -> Vec<String> {
    let show = |record: &Record| {
        let data = match &record.data {
            RecordData::A(address) => address.to_string(),
            RecordData::Aaaa(address) => address.to_string(),
            RecordData::Srv { priority, weight, port, target } => {
                format!("{priority} {weight} {port} {target}")
            }
            RecordData::Txt(text) => format!("\"{text}\""),
            RecordData::Soa { serial } => format!("soa {serial}"),
            RecordData::Ns(name) => format!("ns {name}"),
        };
        match &record.owner {
            Some(owner) => format!("{owner} {data}"),
            None => data,
        }
    };
    records.iter().map(show).collect()
}

#[test]
fn every_record_shape() {
    use QueryType::{A, Aaaa, Any, Ns, Soa, Srv, Txt};
    for (name, qtype, records) in [
        ("clusterset.local", Soa, vec!["soa 7"]),
        ("clusterset.local", Ns, vec!["ns ns.dns.clusterset.local"]),
        ("clusterset.local", Any, vec!["soa 7"]),
        ("dns-version.clusterset.local", Txt, vec!["\"1.0.0\""]),
        ("dns-version.clusterset.local", Any, vec!["\"1.0.0\""]),
        ("web.shop.svc.clusterset.local", A, vec!["127.64.0.1"]),
        ("web.shop.svc.clusterset.local", Any, vec!["127.64.0.1"]),
        ("dual.shop.svc.clusterset.local", A, vec!["127.64.0.2"]),
        ("dual.shop.svc.clusterset.local", Aaaa, vec!["fd00::2"]),
        ("idle.shop.svc.clusterset.local", A, vec!["127.64.0.3"]),
        ("near.shop.svc.clusterset.local", A, vec!["10.1.0.1", "10.1.0.2"]),
        ("far.shop.svc.clusterset.local", A, vec!["127.64.0.5"]),
        (
            "web.shop.svc.clusterset.local",
            Srv,
            vec!["0 100 80 web.shop.svc.clusterset.local", "0 100 9 web.shop.svc.clusterset.local"],
        ),
        (
            "_http._tcp.web.shop.svc.clusterset.local",
            Srv,
            vec!["0 100 80 web.shop.svc.clusterset.local"],
        ),
        (
            "_quic._udp.web.shop.svc.clusterset.local",
            Any,
            vec!["0 100 80 web.shop.svc.clusterset.local"],
        ),
        ("db.data.svc.clusterset.local", A, vec!["10.1.0.5", "10.1.0.6", "10.3.0.5"]),
        ("db.data.svc.clusterset.local", Aaaa, vec!["fd00:1::5"]),
        ("db-0.paris.db.data.svc.clusterset.local", A, vec!["10.1.0.5"]),
        ("db-0.paris.db.data.svc.clusterset.local", Aaaa, vec!["fd00:1::5"]),
        ("db-0.tokyo.db.data.svc.clusterset.local", A, vec!["10.3.0.5"]),
        ("10-1-0-6.paris.db.data.svc.clusterset.local", A, vec!["10.1.0.6"]),
        (
            "_admin._tcp.db.data.svc.clusterset.local",
            Srv,
            vec![
                "0 100 8080 db-0.paris.db.data.svc.clusterset.local",
                "0 100 8080 10-1-0-6.paris.db.data.svc.clusterset.local",
                "1 100 8080 db-0.tokyo.db.data.svc.clusterset.local",
            ],
        ),
    ] {
        let answer = ask(name, qtype);
        assert_eq!(shown(&answer.records), records, "{name} {qtype:?}");
        assert_eq!(answer.outcome, Outcome::Found, "{name} {qtype:?}");
        assert_eq!(answer.serial, 7);
    }
}

#[test]
fn srv_at_a_headless_name_merges_equal_records() {
    let answer = ask("db.data.svc.clusterset.local", QueryType::Srv);
    let records = shown(&answer.records);
    let pods = ["db-0.paris", "10-1-0-6.paris", "db-0.tokyo"];
    assert_eq!(records.len(), 3 * pods.len(), "5432, 8080 and 1 for each pod: {records:?}");
    for pod in pods {
        let target = format!(" 5432 {pod}.db.data.svc.clusterset.local");
        assert_eq!(records.iter().filter(|r| r.ends_with(&target)).count(), 1, "{records:?}");
    }
}

#[test]
fn additional_holds_the_targets_addresses() {
    let answer = ask("_https._tcp.dual.shop.svc.clusterset.local", QueryType::Srv);
    let owner = "dual.shop.svc.clusterset.local";
    assert_eq!(
        shown(&answer.additional),
        [format!("{owner} 127.64.0.2"), format!("{owner} fd00::2")]
    );
    let answer = ask("_sql._tcp.db.data.svc.clusterset.local", QueryType::Srv);
    assert_eq!(
        shown(&answer.additional),
        [
            "db-0.paris.db.data.svc.clusterset.local 10.1.0.5",
            "db-0.paris.db.data.svc.clusterset.local fd00:1::5",
            "10-1-0-6.paris.db.data.svc.clusterset.local 10.1.0.6",
            "db-0.tokyo.db.data.svc.clusterset.local 10.3.0.5",
        ]
    );
    assert!(ask("web.shop.svc.clusterset.local", QueryType::A).additional.is_empty());
}

#[test]
fn a_name_without_the_type_is_no_data() {
    use QueryType::{A, Aaaa, Any, Ns, Other, Soa, Srv, Txt};
    for (name, qtypes) in [
        ("clusterset.local", &[A, Aaaa, Srv, Txt, Other(12)][..]),
        ("dns-version.clusterset.local", &[A, Soa, Ns]),
        ("dns.clusterset.local", &[A, Any]),
        ("ns.dns.clusterset.local", &[A, Aaaa, Any]),
        ("svc.clusterset.local", &[A, Ns, Soa, Any]),
        ("shop.svc.clusterset.local", &[A, Aaaa, Any]),
        ("data.svc.clusterset.local", &[A]),
        ("web.shop.svc.clusterset.local", &[Aaaa, Txt, Ns, Soa, Other(65), Other(0)]),
        ("near.shop.svc.clusterset.local", &[Aaaa]),
        ("_tcp.web.shop.svc.clusterset.local", &[A, Srv, Any]),
        ("_udp.db.data.svc.clusterset.local", &[Srv]),
        ("_http._tcp.web.shop.svc.clusterset.local", &[A, Aaaa, Txt]),
        ("paris.db.data.svc.clusterset.local", &[A, Srv, Any]),
        ("db-0.tokyo.db.data.svc.clusterset.local", &[Aaaa, Srv]),
    ] {
        for qtype in qtypes {
            let answer = ask(name, *qtype);
            assert_eq!(answer.outcome, Outcome::NoData, "{name} {qtype:?}");
            assert!(answer.records.is_empty() && answer.additional.is_empty());
        }
    }
}

#[test]
fn a_name_that_does_not_exist() {
    for name in [
        "x.clusterset.local",
        "pod.clusterset.local",
        "x.ns.dns.clusterset.local",
        "none.svc.clusterset.local",
        "none.shop.svc.clusterset.local",
        "web.none.svc.clusterset.local",
        "w_b.shop.svc.clusterset.local",
        "_sctp.web.shop.svc.clusterset.local",
        "_icmp.web.shop.svc.clusterset.local",
        "_none._tcp.web.shop.svc.clusterset.local",
        "_http._udp.web.shop.svc.clusterset.local",
        "_._tcp.web.shop.svc.clusterset.local",
        "_http.tcp.web.shop.svc.clusterset.local",
        "oregon.web.shop.svc.clusterset.local",
        "paris.near.shop.svc.clusterset.local",
        "10-1-0-1.paris.near.shop.svc.clusterset.local",
        "oregon.db.data.svc.clusterset.local",
        "db-1.paris.db.data.svc.clusterset.local",
        "10-1-0-5.paris.db.data.svc.clusterset.local",
        "x.db-0.paris.db.data.svc.clusterset.local",
        "empty.data.svc.clusterset.local",
        "_sql._tcp.empty.data.svc.clusterset.local",
        "_tcp.empty.data.svc.clusterset.local",
        "paris.empty.data.svc.clusterset.local",
        "1.0.64.127.in-addr.arpa.clusterset.local",
    ] {
        for qtype in [QueryType::A, QueryType::Srv, QueryType::Any, QueryType::Other(12)] {
            assert_eq!(ask(name, qtype).outcome, Outcome::NoName, "{name} {qtype:?}");
        }
    }
}

#[test]
fn outside_is_decided_on_label_boundaries() {
    for name in ["xclusterset.local", "local", "1.0.64.127.in-addr.arpa", "clusterset.local.x"] {
        assert_eq!(ask(name, QueryType::A).outcome, Outcome::Outside, "{name}");
    }
    assert_eq!(ask_labels(&table(), Vec::new(), QueryType::Ns).outcome, Outcome::Outside);
}

#[test]
fn only_headless_names_are_ordered() {
    for (name, qtype, ordered) in [
        ("db.data.svc.clusterset.local", QueryType::A, true),
        ("_sql._tcp.db.data.svc.clusterset.local", QueryType::Srv, true),
        ("near.shop.svc.clusterset.local", QueryType::A, false),
        ("web.shop.svc.clusterset.local", QueryType::Srv, false),
    ] {
        assert_eq!(ask(name, qtype).ordered, ordered, "{name}");
    }
}

#[test]
fn srv_of_a_headless_name_gives_the_port_at_the_endpoint() {
    let known = table().services[&ServiceKey::parse("data/db").unwrap()].clone();
    let mut route = crate::routes::Route::clone(&known);
    let number = |port| Some(crate::model::PortNumber::new(port).unwrap());
    for port in route.direct.iter_mut().flat_map(|d| &mut d.endpoints).flat_map(|e| &mut e.ports) {
        port.target = number(if port.key.port.get() == 8080 { 5432 } else { 15_432 });
    }
    let table = Tables::new("paris").with(route).build();
    let ports = |first: &str| {
        let name = format!("{first}db.data.svc.clusterset.local");
        let labels = name.split('.').map(|label| label.as_bytes().to_vec()).collect();
        let answer = ask_labels(&table, labels, QueryType::Srv);
        let mut ports: Vec<_> = shown(&answer.records)
            .iter()
            .map(|record| record.split(' ').nth(2).unwrap().to_owned())
            .collect();
        ports.sort();
        ports.dedup();
        ports
    };
    assert_eq!(ports("_sql._tcp."), ["15432"]);
    assert_eq!(ports("_admin._tcp."), ["5432"]);
    assert_eq!(ports(""), ["15432", "5432"], "one record for each distinct port");
}

#[test]
fn an_endpoint_is_a_target_only_for_the_ports_it_serves() {
    let mut route = crate::testing::table::route("data/db", &["sql:TCP:5432", "admin:TCP:8080"]);
    let whole = table().services[&ServiceKey::parse("data/db").unwrap()].direct.clone();
    route.service_type = crate::catalog::ServiceType::Headless;
    route.direct = whole;
    let sql = route.ports[0].spec.key();
    for direct in &mut route.direct {
        direct.endpoints.iter_mut().for_each(|endpoint| endpoint.ports = vec![sql.into()]);
    }
    let table = Tables::new("paris").with(route).build();
    let name = |first: &str| {
        format!("{first}._tcp.db.data.svc.clusterset.local")
            .split('.')
            .map(|label| label.as_bytes().to_vec())
            .collect()
    };
    let found = ask_labels(&table, name("_sql"), QueryType::Srv);
    assert_eq!(found.records.len(), 3);
    let absent = ask_labels(&table, name("_admin"), QueryType::Srv);
    assert_eq!(absent.outcome, Outcome::NoName);
}

#[test]
fn a_target_longer_than_dns_allows_is_left_out() {
    let long = "x".repeat(63);
    let key = format!("{long}/{long}");
    let mut route = crate::testing::table::route(&key, &["sql:TCP:5432"]);
    route.service_type = crate::catalog::ServiceType::Headless;
    route.direct = table().services[&ServiceKey::parse("data/db").unwrap()].direct.clone();
    for direct in &mut route.direct {
        for endpoint in &mut direct.endpoints {
            endpoint.hostname = Some(HostLabel::parse(&"h".repeat(63)).unwrap());
            endpoint.ports = vec![route.ports[0].spec.key().into()];
        }
    }
    let clusters: Vec<String> = vec!["c".repeat(63)];
    route.direct[0].cluster = clusters[0].parse().unwrap();
    let table = Tables::new("paris").with(route).build();
    let name = format!("_sql._tcp.{long}.{long}.svc.clusterset.local");
    let labels = name.split('.').map(|label| label.as_bytes().to_vec()).collect();
    let answer = ask_labels(&table, labels, QueryType::Srv);
    assert_eq!(answer.records.len(), 1, "tokyo's fits, the long cluster's does not: {answer:?}");
}

#[test]
fn explain_shows_what_the_name_answers() {
    let table = table();
    for (key, expected) in [
        ("shop/web", &["127.64.0.1"][..]),
        ("shop/dual", &["127.64.0.2", "fd00::2"]),
        ("shop/near", &["10.1.0.1", "10.1.0.2"]),
        ("data/db", &["10.1.0.5", "10.1.0.6", "fd00:1::5", "10.3.0.5"]),
        ("data/empty", &[]),
        ("shop/none", &[]),
    ] {
        let expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
        let key = ServiceKey::parse(key).unwrap();
        assert_eq!(addresses(&table, &config(), &key), expected, "{key}");
    }
}

fn any_type() -> impl Strategy<Value = QueryType> {
    use QueryType::{A, Aaaa, Any, Ns, Other, Soa, Srv, Txt};
    prop_oneof![
        Just(A),
        Just(Aaaa),
        Just(Srv),
        Just(Txt),
        Just(Soa),
        Just(Ns),
        Just(Any),
        any::<u16>().prop_map(Other)
    ]
}

/// Labels that are often those of the zone, and sometimes any octets.
fn any_label() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "web",
        "shop",
        "near",
        "db",
        "data",
        "empty",
        "paris",
        "tokyo",
        "db-0",
        "_tcp",
        "_udp",
        "_http",
        "_sql",
        "svc",
        "dns",
        "ns",
        "dns-version",
        "clusterset",
        "local",
        "10-1-0-6",
    ];
    let word = proptest::sample::select(words.to_vec()).prop_map(|w| w.as_bytes().to_vec());
    prop_oneof![4 => word, 1 => proptest::collection::vec(any::<u8>(), 1..=63)]
}

proptest! {
    #[test]
    fn no_name_panics_and_every_outcome_has_its_shape(
        front in proptest::collection::vec(any_label(), 0..8),
        inside in any::<bool>(),
        below_svc in any::<bool>(),
        qtype in any_type(),
    ) {
        let mut labels = front;
        if below_svc {
            labels.push(b"svc".to_vec());
        }
        if inside {
            labels.extend([b"clusterset".to_vec(), b"local".to_vec()]);
        }
        let answer = ask_labels(&table(), labels.clone(), qtype);
        prop_assert_eq!(answer.outcome == Outcome::Found, !answer.records.is_empty());
        prop_assert!(answer.outcome == Outcome::Found || answer.additional.is_empty());
        let outside = !labels.ends_with(&[b"clusterset".to_vec(), b"local".to_vec()]);
        prop_assert_eq!(answer.outcome == Outcome::Outside, outside);
        for records in [&answer.records, &answer.additional] {
            let distinct: std::collections::BTreeSet<_> = records.iter().collect();
            prop_assert_eq!(distinct.len(), records.len());
        }
        // An ancestor of a name that exists, inside the zone, exists too (RFC 8020).
        if matches!(answer.outcome, Outcome::Found | Outcome::NoData) && labels.len() > 2 {
            let parent = ask_labels(&table(), labels[1..].to_vec(), QueryType::A);
            prop_assert!(!matches!(parent.outcome, Outcome::NoName | Outcome::Outside));
        }
    }
}
