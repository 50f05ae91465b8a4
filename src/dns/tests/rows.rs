//! More rows of the rules on the wire: what holds for kinds of messages as a whole.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;

use super::*;

const CNAME: u16 = 5;

/// One message of every kind that is answered with an error, without OPT.
fn errors() -> Vec<(Wire, ResponseCode)> {
    let class = |class| Wire::header(ID, 0, [1, 0, 0, 0]).question(WEB, A, class);
    vec![
        (query("example.org", A), ResponseCode::Refused),
        (query(".", NS), ResponseCode::Refused),
        (class(CH), ResponseCode::Refused),
        (query(WEB, AXFR), ResponseCode::NotImp),
        (query(WEB, A).flags(0x2100), ResponseCode::NotImp),
        (query(WEB, A).add(6, 1), ResponseCode::FormErr),
        (Wire::header(ID, 0, [0, 0, 0, 0]), ResponseCode::FormErr),
        (query(WEB, A).add(4, 1).question(WEB, AAAA, IN), ResponseCode::FormErr),
    ]
}

#[test]
fn errors_have_an_opt_where_the_query_has_one_and_nothing_else() {
    for (wire, code) in errors() {
        let (octets, message) = udp(&wire);
        assert_eq!(message.metadata.response_code, code);
        assert!(message.edns.is_none() && !message.metadata.authoritative);
        assert!(octets.len() <= wire.0.len(), "an error is no longer than its query");
        for dnssec_ok in [true, false] {
            let wire = wire.clone().opt(4096, if dnssec_ok { 0x8000 } else { 0 }, &[]);
            let (octets, message) = udp(&wire);
            let edns = message.edns.expect("an OPT");
            assert_eq!((edns.max_payload(), edns.version()), (1232, 0));
            assert_eq!(edns.flags().dnssec_ok, dnssec_ok);
            assert_eq!(message.metadata.response_code, code);
            let counts = (message.answers.len(), message.authorities.len());
            assert_eq!((counts, message.additionals.len()), ((0, 0), 0));
            assert!(octets.len() <= wire.0.len());
        }
    }
}

#[test]
fn no_error_amplifies_and_no_negative_more_than_four_times() {
    let mut wires: Vec<Wire> = errors().into_iter().map(|(wire, _)| wire).collect();
    for name in ["", "svc.", "x.", "shop.svc.", "none.shop.svc.", "_tcp.web.shop.svc."] {
        let name = format!("{name}clusterset.local");
        wires.extend([A, AAAA, TXT, PTR, CNAME, 65].map(|qtype| query(&name, qtype)));
    }
    for wire in wires {
        for wire in [wire.clone(), wire.opt(1232, 0x8000, &[])] {
            let (octets, message) = udp(&wire);
            assert!(message.answers.is_empty());
            assert!(octets.len() <= 4 * wire.0.len(), "{} for {}", octets.len(), wire.0.len());
        }
    }
}

#[test]
fn no_name_is_an_alias() {
    let below = ["", "dns-version.", "web.shop.svc.", "db.data.svc.", "db-0.paris.db.data.svc."];
    for name in below.map(|below| format!("{below}clusterset.local")) {
        let (_, message) = udp(&query(&name, CNAME));
        assert_eq!(message.metadata.response_code, ResponseCode::NoError, "{name}");
        assert!(message.answers.is_empty() && message.authorities.len() == 1, "{name}");
        for qtype in [A, AAAA, SRV, TXT, ANY] {
            let message = tcp(&query(&name, qtype));
            let records = message.answers.iter().chain(&message.additionals);
            assert!(records.clone().all(|record| record.record_type() != RecordType::CNAME));
        }
    }
}

/// What fits a datagram is the same over both transports, octet by octet.
#[test]
fn tcp_answers_as_udp_does_where_that_fits() {
    let mut wires: Vec<Wire> = errors().into_iter().map(|(wire, _)| wire).collect();
    for name in [WEB, "db.data.svc.clusterset.local", "clusterset.local", "x.clusterset.local"] {
        wires.extend([A, AAAA, SRV, NS, SOA, TXT, ANY, PTR].map(|qtype| query(name, qtype)));
    }
    wires.push(query("_sql._tcp.ten.data.svc.clusterset.local", SRV));
    for wire in wires {
        for wire in [wire.clone(), wire.opt(1232, 0x8000, &[])] {
            let over = |transport| answer_over(transport, &wire.0).expect("an answer");
            let (udp, tcp) = (over(Transport::Udp), over(Transport::Tcp));
            let message = Message::from_vec(&udp).unwrap();
            if !message.metadata.truncation {
                assert_eq!(udp, tcp);
            } else {
                assert!(tcp.len() > 512 && message.answers.is_empty());
            }
        }
    }
}

#[test]
fn both_families_stand_by_an_srv_record_and_aaaa_obeys_the_rules_of_a() {
    let pods: Vec<String> = (0..20).map(|n| format!("fd00::{n:x}")).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    let table = Tables::new("paris")
        .vip("shop/web", &["127.64.0.1", "fd00::1"], &["http:TCP:80"], &["paris"])
        .vip("shop/near", &["fd00::2"], &["http:TCP:80"], &["paris"])
        .endpoints("shop/near", &[("paris", &pods)])
        .headless("data/db", &["sql:TCP:5432"], &[("paris", &pods)])
        .build();
    let answers = Answers::compile(&table, &zone(), None);
    let ask = |name: &str, qtype: u16, id: u16| {
        let mut wire = query(&format!("{name}.svc.clusterset.local"), qtype).opt(1232, 0, &[]);
        wire.0[..2].copy_from_slice(&id.to_be_bytes());
        let octets = answer_of(&answers, "10.0.0.1", &policy(), Transport::Udp, &wire.0).unwrap();
        Message::from_vec(&octets).unwrap()
    };
    let srv = ask("_http._tcp.web.shop", SRV, 0);
    let additional: Vec<_> = srv.additionals.iter().map(|r| r.data.to_string()).collect();
    assert_eq!(additional, ["127.64.0.1", "fd00::1"]);
    let first = |message: &Message| message.answers[0].data.to_string();
    let (one, other) = (ask("near.shop", AAAA, 1), ask("near.shop", AAAA, 2));
    assert_eq!((one.answers.len(), one.metadata.truncation), (16, false));
    assert_ne!(first(&one), first(&other), "rotated");
    let (one, other) = (ask("db.data", AAAA, 1), ask("db.data", AAAA, 2));
    assert_eq!((one.answers.len(), one.metadata.truncation), (16, true));
    assert_eq!((first(&one), first(&other)), ("fd00::".into(), "fd00::".into()), "in order");
}
