//! The dump, read by somebody else's parser of master files, is what the zone answers.

use std::collections::{BTreeMap, BTreeSet};

use hickory_proto::rr::{DNSClass, Name as ReadName, RecordSet, RecordType, RrKey};
use hickory_proto::serialize::txt::Parser;

use super::super::{Outcome, QueryType, Question, answer};
use super::*;
use crate::testing::table::Tables;
use crate::testing::{name_text, record_data};

const TYPES: [(QueryType, RecordType); 6] = [
    (QueryType::A, RecordType::A),
    (QueryType::Aaaa, RecordType::AAAA),
    (QueryType::Srv, RecordType::SRV),
    (QueryType::Txt, RecordType::TXT),
    (QueryType::Soa, RecordType::SOA),
    (QueryType::Ns, RecordType::NS),
];

fn config() -> ZoneConfig {
    ZoneConfig { zone: DnsName::parse("clusterset.local").unwrap(), ttl_seconds: 5 }
}

fn tables() -> Tables {
    let host = format!("{} {}", "10.1.0.9", "h".repeat(63));
    let long = format!("{}/{}", "n".repeat(63), "s".repeat(63));
    Tables::new("paris")
        .revision(0x1_0000_0007)
        .vip("shop/web", &["127.64.0.1"], &["http:TCP:80", "quic:UDP:80", ":TCP:9"], &["oregon"])
        .vip("shop/dual", &["127.64.0.2", "fd00::2"], &["https:TCP:443", "x:SCTP:7"], &["paris"])
        .vip("shop/idle", &["127.64.0.3"], &[], &[])
        .vip("api/near", &["127.64.0.4"], &["http:TCP:80"], &["paris"])
        .endpoints("api/near", &[("oregon", &[]), ("paris", &["10.1.0.1", "10.1.0.2"])])
        .headless(
            "data/db",
            &["sql:TCP:5432", "gossip:UDP:5432", "admin:TCP:8080"],
            &[
                ("paris", &["10.1.0.6", "10.1.0.5 db-0", "fd00:1::5 db-0"]),
                ("oregon", &[]),
                ("tokyo", &["10.3.0.5 db-0", "10.1.0.6"]),
            ],
        )
        .headless("data/empty", &["sql:TCP:5432"], &[("paris", &[])])
        .headless(&long, &["sql:TCP:5432"], &[(&"c".repeat(41), &["10.1.0.8", &host])])
}

fn lines(dump: Dump) -> Vec<Line> {
    dump.flatten().collect()
}

fn master_file(dump: Dump) -> String {
    let ttl = dump.ttl_seconds();
    let line = |line: Line| format!("{}. {ttl} IN {} {}\n", line.owner, line.rtype, line.data);
    dump.flatten().map(line).collect()
}

fn read(dump: Dump) -> BTreeMap<RrKey, RecordSet> {
    let origin = ReadName::from_ascii(format!("{}.", dump.zone())).unwrap();
    Parser::new(master_file(dump), None, Some(origin)).parse().unwrap().1
}

/// What the zone says, for a name as text.
fn asked(table: &RouteTable, name: &str, qtype: QueryType) -> super::super::Answer {
    let labels = name.split('.').map(|label| label.as_bytes().to_vec()).collect();
    answer(table, &config(), &Question { labels, qtype })
}

#[test]
fn read_again_it_is_what_the_zone_answers() {
    let table = tables().build();
    let read = read(Dump::new(&table, &config()));
    let mut names: BTreeSet<Box<str>> = BTreeSet::new();
    let mut records = 0;
    for (key, set) in &read {
        let (_, qtype) =
            TYPES.into_iter().map(|(q, t)| (t, q)).find(|(t, _)| *t == key.record_type).unwrap();
        let name = name_text(&ReadName::from(&key.name));
        let got: BTreeSet<_> = set.records_without_rrsigs().map(|r| record_data(&r.data)).collect();
        let wanted = asked(&table, &name, qtype);
        assert_eq!(wanted.outcome, Outcome::Found, "{name} {qtype:?}");
        let wanted: BTreeSet<_> = wanted.records.into_iter().map(|record| record.data).collect();
        assert_eq!(got, wanted, "{name} {qtype:?}");
        assert_eq!(set.ttl(), 5);
        assert_eq!(set.dns_class(), DNSClass::IN);
        records += got.len();
        names.insert(name);
    }
    assert_eq!(records, Dump::new(&table, &config()).records(), "each record once");
    // The other way round: whatever the zone finds at these names is there, and above them
    // nothing is missing but what no master file can hold.
    for name in &names {
        for (qtype, rtype) in TYPES {
            let key = RrKey::new(ReadName::from_ascii(format!("{name}.")).unwrap().into(), rtype);
            let found = asked(&table, name, qtype).outcome == Outcome::Found;
            assert_eq!(read.contains_key(&key), found, "{name} {qtype:?}");
        }
        let mut above: &str = name;
        while let Some((_, rest)) = above.split_once('.').filter(|(_, rest)| *rest != "local") {
            let outcome = asked(&table, rest, QueryType::Other(12)).outcome;
            assert_eq!(outcome, Outcome::NoData, "{rest} stands above {name}");
            above = rest;
        }
    }
    // The service, its port and one pod; the other pod's name would have 254 octets.
    assert_eq!(names.iter().filter(|name| name.contains("sssss")).count(), 3, "{names:?}");
}

#[test]
fn every_name_of_the_zone_is_there_or_has_no_records() {
    let table = tables().build();
    let dumped: BTreeSet<_> =
        lines(Dump::new(&table, &config())).into_iter().map(|line| line.owner).collect();
    for route in table.services.values() {
        let base = format!("{}.{}.svc.clusterset.local", route.key.name, route.key.namespace);
        for name in service_names(route, &config()) {
            let labels: Vec<&str> = name.labels.iter().map(AsRef::as_ref).chain([&*base]).collect();
            let full = labels.join(".");
            let askable = !name.sets.is_empty() && full.len() <= 253;
            assert_eq!(dumped.contains(&*full), askable, "{full}");
        }
    }
}

#[test]
fn the_lines_as_they_are_written() {
    let table = Tables::new("paris")
        .revision(9)
        .vip("shop/web", &["127.64.0.1", "fd00::1"], &["http:TCP:80"], &[])
        .headless("data/db", &["sql:TCP:5432"], &[("tokyo", &["10.3.0.5 db-0", "10.3.0.4"])])
        .build();
    let dump = Dump::new(&table, &config());
    assert_eq!((dump.serial(), dump.revision(), dump.records()), (9, 9, 15));
    assert_eq!(
        master_file(dump),
        "\
clusterset.local. 5 IN SOA ns.dns.clusterset.local. hostmaster.clusterset.local. 9 7200 1800 86400 5
clusterset.local. 5 IN NS ns.dns.clusterset.local.
dns-version.clusterset.local. 5 IN TXT \"1.0.0\"
db.data.svc.clusterset.local. 5 IN A 10.3.0.4
db.data.svc.clusterset.local. 5 IN A 10.3.0.5
db.data.svc.clusterset.local. 5 IN SRV 0 100 5432 10-3-0-4.tokyo.db.data.svc.clusterset.local.
db.data.svc.clusterset.local. 5 IN SRV 0 100 5432 db-0.tokyo.db.data.svc.clusterset.local.
_sql._tcp.db.data.svc.clusterset.local. 5 IN SRV 0 100 5432 10-3-0-4.tokyo.db.data.svc.clusterset.local.
_sql._tcp.db.data.svc.clusterset.local. 5 IN SRV 0 100 5432 db-0.tokyo.db.data.svc.clusterset.local.
10-3-0-4.tokyo.db.data.svc.clusterset.local. 5 IN A 10.3.0.4
db-0.tokyo.db.data.svc.clusterset.local. 5 IN A 10.3.0.5
web.shop.svc.clusterset.local. 5 IN A 127.64.0.1
web.shop.svc.clusterset.local. 5 IN AAAA fd00::1
web.shop.svc.clusterset.local. 5 IN SRV 0 100 80 web.shop.svc.clusterset.local.
_http._tcp.web.shop.svc.clusterset.local. 5 IN SRV 0 100 80 web.shop.svc.clusterset.local.
"
    );
}

#[test]
fn what_only_moved_nearer_is_dumped_alike() {
    let pods = ["10.1.0.5 db-0", "10.1.0.6"];
    let of = |first: &[(&str, &[&str])]| {
        let table = Tables::new("paris").headless("data/db", &[], first).build();
        lines(Dump::new(&table, &config()))
    };
    let one = of(&[("paris", &pods), ("tokyo", &["10.3.0.5"])]);
    let other = of(&[("tokyo", &["10.3.0.5"]), ("paris", &pods)]);
    assert_eq!(one, other);
}

#[test]
fn text_is_quoted_so_that_it_reads_as_itself() {
    assert_eq!(quoted("1.0.0"), "\"1.0.0\"");
    assert_eq!(quoted("a \"b\" \\ ;\n\u{e9}"), r#""a \"b\" \\ ;\010\195\169""#);
}

#[test]
fn an_empty_table_is_a_zone_too() {
    let table = Tables::new("paris").build();
    let dump = Dump::new(&table, &config());
    assert_eq!(dump.records(), 3);
    assert_eq!(read(dump).len(), 3);
}
