//! Answers for clients of other sites, known by their address or by what a forwarder says.

use hickory_proto::op::{Message, ResponseCode};

use super::*;
use crate::testing::table::locality;

const DB: &str = "db.data.svc.clusterset.local";
const NEAR: &str = "near.shop.svc.clusterset.local";
/// A resolver that is listed, one that is not; both stand here.
const LISTED: &str = "10.0.0.10";
const UNLISTED: &str = "10.0.0.11";

/// The order measured from paris is paris, oregon, tokyo, oslo.
fn table() -> RouteTable {
    let places: [(&str, &[&str]); 4] = [
        ("paris", &["10.91.0.1 db-0"]),
        ("oregon", &["10.92.0.1 db-0"]),
        ("tokyo", &["10.93.0.1 db-0"]),
        ("oslo", &["10.94.0.1 db-0", "10.94.0.2 db-1"]),
    ];
    Tables::new("paris")
        .vip("shop/web", &["127.64.0.1"], &["http:TCP:80"], &["paris", "oregon"])
        .vip("shop/near", &["127.64.0.2"], &["http:TCP:80"], &["paris", "oregon"])
        .endpoints("shop/near", &places)
        .headless("data/db", &["sql:TCP:5432"], &places)
        .stands("paris", "eu/eu-1")
        .stands("oregon", "us/us-1")
        .stands("tokyo", "us/us-2")
        .stands("oslo", "eu/eu-2")
        .build()
}

fn localities() -> Localities {
    let entries = [
        ("10.1.0.0/16", "us/us-2"),
        ("10.1.2.0/24", "eu/eu-2"),
        ("10.2.0.0/16", "eu/eu-1"),
        ("10.3.0.0/16", "ap/ap-1"),
        ("2001:db8::/48", "us"),
    ];
    Localities::new(entries.map(|(net, place)| (net.parse().unwrap(), locality(place))))
}

fn compiled(table: &RouteTable) -> Answers {
    Answers::compile_for(table, &zone(), &localities(), None)
}

fn respond_to(answers: &Answers, source: &str, wire: &Wire) -> (Vec<u8>, Message) {
    let forwarders = vec![format!("{LISTED}/32").parse().unwrap()];
    let policy = Policy { forwarders, ..policy() };
    let octets = answer_of(answers, source, &policy, Transport::Udp, &wire.0).expect("an answer");
    let message = Message::from_vec(&octets).expect("a well-formed answer");
    (octets, message)
}

/// The addresses that a source gets.
fn addresses(answers: &Answers, source: &str, wire: &Wire) -> Vec<String> {
    let (_, message) = respond_to(answers, source, wire);
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// A client subnet option with this source prefix.
fn subnet(network: &str) -> Vec<u8> {
    let network: ipnet::IpNet = network.parse().unwrap();
    let (family, octets) = match network.network() {
        IpAddr::V4(v4) => (1, v4.octets().to_vec()),
        IpAddr::V6(v6) => (2, v6.octets().to_vec()),
    };
    let kept = usize::from(network.prefix_len()).div_ceil(8);
    [&[0, family, network.prefix_len(), 0], &octets[..kept]].concat()
}

fn option(code: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    [&code.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

fn told(name: &str, qtype: u16, data: &[u8]) -> Wire {
    query(name, qtype).opt(1232, 0, &option(8, data))
}

const HERE: [&str; 5] = ["10.91.0.1", "10.92.0.1", "10.93.0.1", "10.94.0.1", "10.94.0.2"];
const FROM_US_2: [&str; 5] = ["10.93.0.1", "10.92.0.1", "10.91.0.1", "10.94.0.1", "10.94.0.2"];
const FROM_US: [&str; 5] = ["10.92.0.1", "10.93.0.1", "10.91.0.1", "10.94.0.1", "10.94.0.2"];
const FROM_EU_2: [&str; 5] = ["10.94.0.1", "10.94.0.2", "10.91.0.1", "10.92.0.1", "10.93.0.1"];

#[test]
fn a_client_gets_its_zone_first_then_its_region_then_what_is_near_from_here() {
    let answers = compiled(&table());
    for (source, order) in [
        ("10.1.0.1", FROM_US_2),
        ("::ffff:10.1.0.1", FROM_US_2),
        ("10.1.2.1", FROM_EU_2),
        ("2001:db8::7", FROM_US),
        // Our own place: measured, not labelled. Nobody stands in the third, nor in a network.
        ("10.2.0.1", HERE),
        ("10.3.0.1", HERE),
        ("10.4.0.1", HERE),
    ] {
        assert_eq!(addresses(&answers, source, &query(DB, A)), order, "{source}");
        let (_, message) = respond_to(&answers, source, &query(DB, SRV).opt(1232, 0, &[]));
        let first = message.answers[0].data.to_string();
        assert!(first.starts_with("0 100 5432 db-0."), "nearest first: {first}");
        let near = addresses(&answers, source, &query(NEAR, A));
        let cluster = if order == FROM_EU_2 { &order[..2] } else { &order[..1] };
        assert_eq!(near.len(), cluster.len(), "{source}");
        assert!(cluster.iter().all(|address| near.iter().any(|n| n == address)), "{source}");
        assert_eq!(addresses(&answers, source, &query(WEB, A)), ["127.64.0.1"], "{source}");
    }
}

#[test]
fn health_and_policy_come_before_nearness() {
    let mut table = table();
    for route in table.services.values_mut() {
        for direct in &mut std::sync::Arc::make_mut(route).direct {
            direct.tier = u16::from(direct.cluster.as_str() == "oslo");
        }
    }
    let answers = compiled(&table);
    assert_eq!(addresses(&answers, "10.1.2.1", &query(DB, A)), HERE, "oslo is draining");
    assert_eq!(addresses(&answers, "10.1.2.1", &query(NEAR, A)), ["10.91.0.1"]);
}

#[test]
fn a_forwarder_says_for_whom_it_asks_and_others_do_not() {
    let answers = compiled(&table());
    for (source, network, order, scope) in [
        (LISTED, "10.1.0.0/24", FROM_US_2, Some(23)),
        (LISTED, "10.1.2.0/24", FROM_EU_2, Some(24)),
        (LISTED, "10.1.2.3/32", FROM_EU_2, Some(24)),
        // All that is known may stand at two places; the wider network holds all of it.
        (LISTED, "10.1.2.0/23", FROM_US_2, Some(24)),
        (LISTED, "10.9.0.0/16", HERE, Some(13)),
        (LISTED, "2001:db8:0:5::/64", FROM_US, Some(48)),
        // Nothing of the client is to be used.
        (LISTED, "0.0.0.0/0", HERE, Some(0)),
        (UNLISTED, "10.1.0.0/24", HERE, None),
        ("10.1.2.1", "10.1.0.0/24", FROM_EU_2, None),
    ] {
        let data = subnet(network);
        let wire = told(DB, A, &data);
        assert_eq!(addresses(&answers, source, &wire), order, "{source} for {network}");
        let (octets, message) = respond_to(&answers, source, &wire);
        assert!(message.edns.is_some());
        let mut echo = data.clone();
        echo[3] = scope.unwrap_or(0);
        let wanted: Vec<_> = scope.map(|_| (8, echo)).into_iter().collect();
        assert_eq!(options(&octets), wanted, "{source} for {network}");
    }
}

#[test]
fn the_scope_is_0_where_the_place_does_not_matter() {
    let answers = compiled(&table());
    for (name, qtype) in [
        (WEB, A),
        (WEB, AAAA),
        ("_http._tcp.web.shop.svc.clusterset.local", SRV),
        ("db-0.tokyo.db.data.svc.clusterset.local", A),
        ("none.shop.svc.clusterset.local", A),
        ("clusterset.local", SOA),
        ("example.org", A),
    ] {
        let data = subnet("10.1.0.0/24");
        let (octets, _) = respond_to(&answers, LISTED, &told(name, qtype, &data));
        assert_eq!(options(&octets), [(8, data)], "{name}");
    }
    for (name, qtype) in [(DB, SRV), ("_sql._tcp.db.data.svc.clusterset.local", SRV), (NEAR, A)] {
        let (octets, _) = respond_to(&answers, LISTED, &told(name, qtype, &subnet("10.1.0.0/24")));
        assert_eq!(options(&octets)[0].1[3], 23, "{name}");
    }
}

#[test]
fn without_places_a_subnet_is_an_option_like_any_other() {
    let answers = Answers::compile(&table(), &zone(), None);
    let (octets, _) = respond_to(&answers, LISTED, &told(DB, A, &subnet("10.1.0.0/24")));
    assert!(options(&octets).is_empty());
    assert_eq!(addresses(&answers, "10.1.0.1", &query(DB, A)), HERE);
}

#[test]
fn a_malformed_subnet_is_a_form_error_and_an_unknown_family_is_nothing() {
    let answers = compiled(&table());
    for source in [LISTED, UNLISTED] {
        for data in [
            &[][..],
            &[0, 1, 24],
            &[0, 1, 24, 0, 10, 1],
            &[0, 1, 24, 0, 10, 1, 0, 0],
            &[0, 1, 24, 24, 10, 1, 0],
            &[0, 1, 33, 0, 10, 1, 0, 0, 0],
            &[0, 1, 23, 0, 10, 1, 1],
            &[0, 1, 0, 0, 10],
            &[0, 2, 129, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7],
            &[0, 2, 200, 0],
        ] {
            let wire = told(DB, A, data);
            let (_, message) = respond_to(&answers, source, &wire);
            assert_eq!(message.metadata.response_code, ResponseCode::FormErr, "{data:?}");
            assert!(message.queries.len() == 1 && message.edns.is_some(), "{data:?}");
        }
        for data in [&[0, 3, 24, 9, 10, 1, 0, 0][..], &[0, 0, 0, 0], &[0xFF, 0xFF, 8, 0, 1]] {
            let wire = told(DB, A, data);
            assert_eq!(addresses(&answers, source, &wire), HERE, "{data:?}");
            assert!(options(&respond_to(&answers, source, &wire).0).is_empty());
        }
    }
    // The first of several counts, whatever stands around it.
    let several = [
        option(10, &[7; 8]),
        option(8, &[0, 9, 1, 0]),
        option(8, &subnet("10.1.2.0/24")),
        option(8, &subnet("10.1.0.0/24")),
    ];
    let wire = query(DB, A).opt(1232, 0, &several.concat());
    assert_eq!(addresses(&answers, LISTED, &wire), FROM_EU_2);
}

/// The bar: half a kilobyte for a name.
#[test]
fn a_plain_name_costs_less_than_half_a_kilobyte_and_places_cost_it_nothing() {
    let mut tables = Tables::new("paris");
    for n in 0..10_000u32 {
        let vip = std::net::Ipv4Addr::from_bits(0x0A64_0000 + n).to_string();
        let name = format!("ns-{:02}/svc-{n}", n % 100);
        tables = tables.vip(&name, &[&vip], &["http:TCP:80"], &["paris", "oregon"]);
    }
    let table = tables.build();
    let plain = Answers::compile(&table, &zone(), None).footprint();
    assert!(plain / 10_000 < 450, "{} octets a name", plain / 10_000);
    assert_eq!(compiled(&table).footprint(), plain);
    let more = super::table();
    let (one, all) = (Answers::compile(&more, &zone(), None), compiled(&more));
    assert_eq!(one.footprint(), all.footprint(), "one order for all costs nothing either");
}
