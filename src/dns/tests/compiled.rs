//! The compiled answers are those of [`zone::answer`], for every name and type.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::model::Locality;
use crate::testing::table::locality;
use crate::testing::{name_text, record_data};
use crate::zone::{self, Outcome, QueryType, Question, Record, RecordData, ZoneConfig};

/// So many additional records are always given.
const ADDITIONAL_AT_LEAST: usize = 100;
const TYPES: [(u16, QueryType); 8] = [
    (A, QueryType::A),
    (AAAA, QueryType::Aaaa),
    (SRV, QueryType::Srv),
    (TXT, QueryType::Txt),
    (SOA, QueryType::Soa),
    (NS, QueryType::Ns),
    (ANY, QueryType::Any),
    (PTR, QueryType::Other(PTR)),
];

/// A decoded record as the zone writes it, the question's name as `None`.
fn read(record: &rr::Record, asked: &str, question_owner: bool) -> Record {
    assert_eq!(record.ttl, 5);
    let data = record_data(&record.data);
    let owner = name_text(&record.name);
    let owner = if question_owner {
        assert_eq!(&*owner, asked);
        None
    } else {
        Some(owner)
    };
    Record { owner, data }
}

/// Clients, and where they stand: at two other places, in a region, here, and nobody knows.
const CLIENTS: [(&str, &str); 5] = [
    ("10.1.0.1", "us/us-2"),
    ("10.1.2.1", "us/us-1"),
    ("10.2.0.1", "us"),
    ("10.3.0.1", "eu/eu-1"),
    ("10.4.0.1", ""),
];

fn compile(table: &RouteTable, before: Option<&Answers>) -> Answers {
    let networks = ["10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "10.3.0.0/16"];
    let places = CLIENTS.iter().map(|(_, place)| locality(place));
    let entries = networks.iter().map(|network| network.parse().unwrap()).zip(places);
    Answers::compile_for(table, &zone(), &Localities::new(entries), before)
}

/// For every client.
fn assert_same(table: &RouteTable, answers: &Answers, name: &str) {
    for (source, place) in CLIENTS {
        let place = locality(place);
        let place = (!place.region.is_empty()).then_some(&place);
        assert_same_from(source, place, table, answers, name);
    }
}

/// Asks over TCP, where everything fits, with an id that rotates nothing.
fn assert_same_from(
    source: &str,
    place: Option<&Locality>,
    table: &RouteTable,
    answers: &Answers,
    name: &str,
) {
    let config = ZoneConfig { zone: zone(), ttl_seconds: 5 };
    for (number, qtype) in TYPES {
        let labels = name.split('.').filter(|label| !label.is_empty());
        let labels = labels.map(|label| label.to_ascii_lowercase().into_bytes()).collect();
        let wanted = zone::answer_at(table, &config, &Question { labels, qtype }, place);
        let wire = Wire::header(0, 0, [1, 0, 0, 0]).question(name, number, IN);
        let (transport, source) = (Transport::Tcp, source.parse().unwrap());
        let received = Received { message: &wire.0, transport, source, now: clock::now() };
        let mut out = Vec::new();
        respond(received, &policy(), answers, None, &mut out).unwrap();
        let message = Message::from_vec(&out).unwrap();
        let code = match wanted.outcome {
            Outcome::Found | Outcome::NoData => ResponseCode::NoError,
            Outcome::NoName => ResponseCode::NXDomain,
            Outcome::Outside => ResponseCode::Refused,
        };
        assert_eq!(message.metadata.response_code, code, "{name} {number}");
        let asked = name.to_ascii_lowercase();
        let got: Vec<_> = message.answers.iter().map(|r| read(r, &asked, true)).collect();
        assert_eq!(got, wanted.records, "{name} {number}");
        let got: Vec<_> = message.additionals.iter().map(|r| read(r, &asked, false)).collect();
        // Of many a part is enough.
        let given = wanted.additional.len().min(got.len().max(ADDITIONAL_AT_LEAST));
        assert_eq!(got, wanted.additional[..given], "{name} {number}");
        let negative = matches!(wanted.outcome, Outcome::NoData | Outcome::NoName);
        let serials: Vec<_> = message.authorities.iter().map(|r| read(r, "", false).data).collect();
        let soa = RecordData::Soa { serial: wanted.serial };
        assert_eq!(serials, if negative { vec![soa] } else { Vec::new() }, "{name} {number}");
    }
}

/// Every name of a table, as text.
fn names(table: &RouteTable) -> Vec<String> {
    let config = ZoneConfig { zone: zone(), ttl_seconds: 5 };
    let join = |name: zone::Name, base: &str| {
        let labels: Vec<&str> = name.labels.iter().map(AsRef::as_ref).chain([base]).collect();
        labels.join(".")
    };
    let mut all: Vec<String> =
        zone::zone_names(&config, 42).into_iter().map(|n| join(n, "clusterset.local")).collect();
    for route in table.services.values() {
        let base = format!("{}.{}.svc.clusterset.local", route.key.name, route.key.namespace);
        all.extend(zone::service_names(route, &config).into_iter().map(|n| join(n, &base)));
        all.push(base);
        all.push(format!("{}.svc.clusterset.local", route.key.namespace));
    }
    all
}

#[test]
fn every_name_of_the_table_and_its_neighbours() {
    let table = table();
    let answers = compile(&table, None);
    for name in names(&table).iter().filter(|name| !name.contains("more.data") || name.len() < 36) {
        assert_same(&table, &answers, name);
        assert_same(&table, &answers, &name.to_ascii_uppercase());
        assert_same(&table, &answers, &format!("x.{name}"));
        assert_same(&table, &answers, &format!("x{name}"));
        assert_same(&table, &answers, name.split_once('.').unwrap().1);
    }
    assert_same(&table, &answers, "");
}

#[test]
fn what_did_not_change_is_taken_over() {
    let before = table();
    let first = compile(&before, None);
    let mut after = before.clone();
    let web = crate::model::ServiceKey::parse("shop/web").unwrap();
    let mut route = crate::routes::Route::clone(&after.services[&web]);
    route.vips = vec!["127.64.0.99".parse().unwrap()];
    after.services.insert(web, std::sync::Arc::new(route));
    after.services.remove(&crate::model::ServiceKey::parse("shop/near").unwrap());
    let second = compile(&after, Some(&first));
    for name in names(&before) {
        if !name.contains("more.data") {
            assert_same(&after, &second, &name);
        }
    }
    assert_same(&after, &second, "near.shop.svc.clusterset.local");
}

/// Tables of few names that often collide with the words of the grammar.
fn any_table() -> impl Strategy<Value = RouteTable> {
    let name = || select(vec!["a", "b", "svc", "dns", "tcp", "paris"]);
    let port = || select(vec!["http:TCP:80", "http:UDP:80", ":TCP:9", "x:SCTP:7", "a:TCP:80"]);
    let pod = || select(vec!["10.1.0.5 a", "10.1.0.6", "10.1.0.7 a", "fd00::5 b", "fd00::6"]);
    let service = (
        (name(), name()),
        proptest::collection::btree_set(port(), 0..3),
        proptest::collection::btree_set(pod(), 0..4),
        0..4u8,
    );
    let tiers = proptest::collection::vec(0..2u16, 3);
    let stands = proptest::sample::subsequence(vec!["paris", "oregon", "tokyo"], 0..=3);
    (proptest::collection::vec(service, 0..5), tiers, stands).prop_map(
        |(services, tiers, stands)| {
            let mut tables = Tables::new("paris").revision(42);
            for ((namespace, name), ports, pods, kind) in services {
                let key = format!("{namespace}/{name}");
                let (ports, pods): (Vec<_>, Vec<_>) =
                    (ports.into_iter().collect(), pods.into_iter().collect());
                let places = [
                    ("paris", pods.as_slice()),
                    ("oregon", &pods[..pods.len() / 2]),
                    ("tokyo", &pods[pods.len() / 2..]),
                ];
                tables = match kind {
                    0 => tables.vip(&key, &["127.64.0.1"], &ports, &["paris"]),
                    1 => tables.vip(&key, &["127.64.0.1", "fd00::1"], &ports, &[]),
                    2 => tables
                        .vip(&key, &["127.64.0.2"], &ports, &["oregon"])
                        .endpoints(&key, &places),
                    _ => tables.headless(&key, &ports, &places),
                };
            }
            for cluster in stands {
                let place = match cluster {
                    "paris" => "eu/eu-1",
                    "oregon" => "us/us-1",
                    _ => "us/us-2",
                };
                tables = tables.stands(cluster, place);
            }
            let mut table = tables.build();
            for route in table.services.values_mut() {
                let mut so_far = 0;
                let direct = std::sync::Arc::make_mut(route).direct.iter_mut();
                for (direct, tier) in direct.zip(&tiers) {
                    so_far += tier;
                    direct.tier = so_far;
                }
            }
            table
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_table_answers_any_name_as_the_zone_does(
        table in any_table(),
        asked in proptest::collection::vec(proptest::collection::vec(
            select(vec!["a", "b", "svc", "dns", "ns", "_tcp", "_udp", "_http", "_a", "paris",
                        "oregon", "10-1-0-6", "fd00--6", "dns-version", "_", "xclusterset"]), 0..7), 12),
        outside in any::<bool>(),
    ) {
        let answers = compile(&table, None);
        for labels in &asked {
            let mut name = labels.join(".");
            if !outside {
                name = [name.as_str(), "clusterset.local"].join(".").trim_start_matches('.').into();
            }
            assert_same(&table, &answers, &name);
        }
        for name in names(&table) {
            assert_same(&table, &answers, &name);
        }
    }
}
