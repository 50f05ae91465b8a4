//! Each row of the rules on the wire, over UDP where nothing else is said.

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;

use super::*;

/// `10-9-0-0.paris` and a pointer into the question; type, class, TTL, length; the address.
const ADDITIONAL_OCTETS: usize = 9 + 6 + 2 + 10 + 4;

fn code(wire: &Wire) -> ResponseCode {
    udp(wire).1.metadata.response_code
}

/// FORMERR with the question exactly as it came.
fn assert_form_error_with_question(wire: &Wire, name: &str) {
    let (octets, message) = udp(wire);
    assert_eq!(message.metadata.response_code, ResponseCode::FormErr);
    let question = [name_octets(name), vec![0, 1, 0, 1]].concat();
    assert_eq!(octets[12..12 + question.len()], question);
    assert_eq!(message.queries.len(), 1);
    assert!(!message.metadata.authoritative);
}

fn assert_form_error_without_question(wire: &Wire) {
    let (_, message) = udp(wire);
    assert_eq!(message.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(message.metadata.id, ID);
    assert!(message.queries.is_empty());
}

fn assert_negative(message: &Message, code: ResponseCode) {
    assert_eq!(message.metadata.response_code, code);
    assert!(message.metadata.authoritative);
    assert!(message.answers.is_empty());
    let [soa] = &message.authorities[..] else { panic!("one SOA: {message:?}") };
    assert_eq!(soa.name, Name::from_ascii("clusterset.local.").unwrap());
    assert_eq!(soa.ttl, 5);
    let RData::SOA(soa) = &soa.data else { panic!("an SOA: {soa:?}") };
    assert_eq!((soa.serial, soa.minimum), (42, 5));
}

fn addresses(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn answers_and_short_messages_are_dropped() {
    assert!(answer_over(Transport::Udp, &query(WEB, A).flags(0x8100).0).is_none());
    for length in 0..12 {
        assert!(answer_over(Transport::Udp, &query(WEB, A).0[..length]).is_none(), "{length}");
    }
}

#[test]
fn qr_is_checked_before_everything_else() {
    let mut closed = policy();
    closed.allow = vec!["192.0.2.0/24".parse().unwrap()];
    for broken in [
        query(WEB, A).flags(0xA900),
        query(WEB, A).flags(0x8000).raw(&[1]),
        Wire::header(ID, 0x8000, [0, 0, 0, 0]),
        Wire::header(ID, 0x8000, [9, 9, 9, 9]),
        query(WEB, A).flags(0x8000).opt(1232, 0x0001_0000, &[]),
    ] {
        assert!(answer_from("10.0.0.1", &closed, Transport::Udp, &broken.0).is_none());
    }
}

#[test]
fn an_answer_repeats_id_question_and_rd_and_sets_the_other_flags() {
    for (flags, rd) in [(0x0100, true), (0x0000, false), (0x0130, true), (0x067F, false)] {
        let asked = query("wEb.SHOP.Svc.clusterSET.local", A).flags(flags);
        let (octets, message) = udp(&asked);
        assert_eq!(octets[12..asked.0.len()], asked.0[12..], "0x20 case is kept");
        let metadata = message.metadata;
        assert_eq!(metadata.id, ID);
        assert_eq!(metadata.recursion_desired, rd);
        assert!(metadata.authoritative && !metadata.truncation);
        assert!(!metadata.recursion_available && !metadata.authentic_data);
        assert_eq!(octets[3], 0, "RA, reserved bit, AD, CD and code");
        assert_eq!(addresses(&message.answers), ["127.64.0.1"]);
        assert_eq!(message.answers[0].ttl, 5);
    }
}

#[test]
fn the_owner_is_a_pointer_to_the_question() {
    let asked = query(WEB, A);
    let (octets, _) = udp(&asked);
    assert_eq!(octets.len(), asked.0.len() + 16);
    assert_eq!(octets[asked.0.len()..][..2], [0xC0, 0x0C]);
}

#[test]
fn errors_carry_the_question() {
    for wire in [
        query("example.org", A),
        query(".", NS),
        query(WEB, AXFR),
        query(WEB, A).opt(1232, 0x0001_0000, &[]),
        query(WEB, A).flags(0x2100),
        query(WEB, A).raw(&[0]),
    ] {
        let (octets, message) = udp(&wire);
        assert_ne!(message.metadata.response_code, ResponseCode::NoError);
        assert_eq!(message.queries.len(), 1);
        let end = 12 + message.queries[0].name().iter().map(|l| l.len() + 1).sum::<usize>() + 5;
        assert_eq!(octets[12..end], wire.0[12..end]);
    }
}

#[test]
fn opt_is_answered_with_opt_errors_too() {
    // An unknown option (code 65001) and a cookie are ignored.
    let options = [[0xFD, 0xE9, 0, 2, 1, 2].as_slice(), &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]];
    for (name, qtype) in [(WEB, A), ("none.shop.svc.clusterset.local", A), (".", NS), (WEB, AXFR)] {
        for (ttl, dnssec_ok) in [(0x8000, true), (0, false)] {
            let (_, message) = udp(&query(name, qtype).opt(4096, ttl, &options.concat()));
            let edns = message.edns.expect("an OPT");
            assert_eq!((edns.max_payload(), edns.version()), (1232, 0));
            assert_eq!(edns.flags().dnssec_ok, dnssec_ok);
            assert!(edns.options().as_ref().is_empty());
        }
        assert!(udp(&query(name, qtype)).1.edns.is_none());
    }
}

#[test]
fn a_later_edns_version_is_badvers() {
    for version in [1, 255] {
        let (_, message) = udp(&query(WEB, A).opt(1232, version << 16 | 0x8000, &[]));
        // 16 is BADVERS in an OPT (RFC 6891) and BADSIG in a TSIG; the decoder has one name for it.
        assert_eq!(u16::from(message.metadata.response_code), 16);
        assert!(!message.metadata.authoritative);
        assert!(message.answers.is_empty() && message.authorities.is_empty());
        let edns = message.edns.expect("an OPT");
        assert_eq!((edns.rcode_high(), edns.version()), (1, 0));
        assert!(edns.flags().dnssec_ok);
    }
}

#[test]
fn a_malformed_opt_is_a_form_error() {
    let plain = || query(WEB, A);
    let past_the_end =
        plain().raw(&[0]).u16(OPT).u16(1232).raw(&[0; 4]).u16(4).raw(&[0, 1]).add(10, 1);
    for wire in [
        plain().opt(1232, 0, &[]).opt(1232, 0, &[]),
        past_the_end,
        plain().opt(1232, 0, &[0, 10, 0]),
        plain().opt(1232, 0, &[0, 10, 0, 9, 1]),
        plain().opt(1232, 0, &[0, 10, 0, 0, 7]),
        plain().record(&name_octets("x"), OPT, 1232, 0, &[]).add(10, 1),
        plain().record(&[0], OPT, 1232, 0, &[]).add(6, 1),
        plain().record(&[0], OPT, 1232, 0, &[]).add(8, 1),
    ] {
        assert_form_error_with_question(&wire, WEB);
        assert!(udp(&wire).1.edns.is_some(), "RFC 6891 6.1.1: an OPT is answered with one");
    }
}

#[test]
fn the_payload_is_512_to_1232() {
    let ten = "_sql._tcp.ten.data.svc.clusterset.local";
    let forty = "_sql._tcp.forty.data.svc.clusterset.local";
    let with = |name, payload| query(name, SRV).opt(payload, 0, &[]);
    let (full, message) = udp(&with(ten, 1232));
    assert_eq!((message.answers.len(), message.additionals.len()), (10, 10));
    // What must be there: without the additional addresses.
    let least = u16::try_from(full.len() - 10 * ADDITIONAL_OCTETS).unwrap();
    assert!((512..1232).contains(&least));
    for (wire, fits) in [
        (query(ten, SRV), false),
        (with(ten, 0), false),
        (with(ten, 511), false),
        (with(ten, 512), false),
        (with(ten, least - 1), false),
        (with(ten, least), true),
        (with(ten, 65_535), true),
        (with(forty, 65_535), false),
    ] {
        let (octets, message) = udp(&wire);
        assert!(octets.len() <= 1232);
        assert_eq!(message.metadata.truncation, !fits);
        assert!(message.metadata.authoritative);
        assert_eq!(message.answers.len(), if fits { 10 } else { 0 });
        assert_eq!(message.edns.is_some(), wire.0[11] == 1, "the OPT survives truncation");
    }
    // A small payload counts as 512.
    for payload in [0, 100, 511, 512] {
        let wire = query("db.data.svc.clusterset.local", SRV).opt(payload, 0, &[]);
        assert_eq!(udp(&wire).1.answers.len(), 3, "{payload}");
    }
}

#[test]
fn of_a_set_too_large_even_for_tcp_the_nearest_that_fit_are_answered() {
    let pods = |from: u32| -> Vec<String> {
        (from..from + 4000).map(|n| std::net::Ipv4Addr::from_bits(n).to_string()).collect()
    };
    let (near, far) = (pods(0x0A01_0000), pods(0x0A09_0000));
    let near: Vec<&str> = near.iter().map(String::as_str).collect();
    let far: Vec<&str> = far.iter().map(String::as_str).collect();
    let places = [("paris", near.as_slice()), ("tokyo", far.as_slice())];
    let table = Tables::new("paris").headless("data/db", &["sql:TCP:5432"], &places).build();
    let answers = Answers::compile(&table, &zone(), None);
    for (qtype, least) in [(A, 4000), (SRV, 500)] {
        let wire = query("db.data.svc.clusterset.local", qtype);
        let (transport, source) = (Transport::Tcp, "10.0.0.1".parse().unwrap());
        let received = Received { message: &wire.0, transport, source, now: clock::now() };
        let mut out = Vec::new();
        respond(received, &policy(), &answers, None, &mut out).unwrap();
        let message = Message::from_vec(&out).unwrap();
        assert!(message.answers.len() >= least && out.len() <= 65_535, "{}", message.answers.len());
        assert!(!message.metadata.truncation, "there is nowhere else to ask");
    }
}

#[test]
fn what_does_not_fit_is_whole_over_tcp() {
    for (name, qtype, whole) in [
        ("_sql._tcp.forty.data.svc.clusterset.local", SRV, 40),
        ("forty.data.svc.clusterset.local", A, 40),
        ("more.data.svc.clusterset.local", A, 600),
    ] {
        assert!(udp(&query(name, qtype)).1.metadata.truncation, "{name}");
        let message = tcp(&query(name, qtype));
        assert!(!message.metadata.truncation);
        assert_eq!(message.answers.len(), whole, "{name}");
    }
}

#[test]
fn a_name_without_the_type_and_an_empty_non_terminal_are_no_data() {
    for (name, qtype) in [
        (WEB, AAAA),
        (WEB, TXT),
        (WEB, PTR),
        ("shop.svc.clusterset.local", A),
        ("svc.clusterset.local", A),
        ("SVC.clusterset.LOCAL", ANY),
        ("_tcp.web.shop.svc.clusterset.local", SRV),
        ("paris.db.data.svc.clusterset.local", A),
        ("ns.dns.clusterset.local", A),
        ("clusterset.local", A),
    ] {
        assert_negative(&udp(&query(name, qtype)).1, ResponseCode::NoError);
    }
}

#[test]
fn a_name_that_does_not_exist_is_nxdomain() {
    for name in [
        "none.shop.svc.clusterset.local",
        "none.svc.clusterset.local",
        "x.clusterset.local",
        "paris.web.shop.svc.clusterset.local",
        "a.b.c.d.e.f.g.svc.clusterset.local",
    ] {
        assert_negative(&udp(&query(name, A)).1, ResponseCode::NXDomain);
    }
}

#[test]
fn a_headless_name_with_nothing_ready_is_nxdomain() {
    for (name, qtype) in [
        ("empty.data.svc.clusterset.local", A),
        ("empty.data.svc.clusterset.local", SRV),
        ("_sql._tcp.empty.data.svc.clusterset.local", SRV),
    ] {
        assert_negative(&udp(&query(name, qtype)).1, ResponseCode::NXDomain);
    }
}

#[test]
fn the_apex_has_soa_and_ns() {
    let (_, message) = udp(&query("ClusterSet.Local", SOA));
    assert!(message.metadata.authoritative && message.authorities.is_empty());
    let RData::SOA(soa) = &message.answers[0].data else { panic!("{message:?}") };
    assert_eq!(soa.serial, 42);
    let name = |text: &str| Name::from_ascii(text).unwrap();
    assert_eq!(soa.mname, name("ns.dns.clusterset.local."));
    assert_eq!(soa.rname, name("hostmaster.clusterset.local."));
    let (_, message) = udp(&query("clusterset.local", NS));
    let RData::NS(ns) = &message.answers[0].data else { panic!("{message:?}") };
    assert_eq!(ns.0, name("ns.dns.clusterset.local."));
}

#[test]
fn outside_the_zone_is_refused_on_label_boundaries() {
    for (name, qtype) in [
        (".", NS),
        ("local", SOA),
        ("xclusterset.local", A),
        ("web.shop.svc.cluster.local", A),
        ("clusterset.local.example", A),
        ("1.0.64.127.in-addr.arpa", PTR),
    ] {
        let (_, message) = udp(&query(name, qtype));
        assert_eq!(message.metadata.response_code, ResponseCode::Refused, "{name}");
        assert!(!message.metadata.authoritative && message.authorities.is_empty());
    }
    // A dot inside a label is no boundary.
    let label = b"\x10clusterset.local\x00";
    let inside = Wire::header(ID, 0, [1, 0, 0, 0]).raw(label).u16(A).u16(IN);
    assert_eq!(code(&inside), ResponseCode::Refused);
}

#[test]
fn class_chaos_is_refused_and_class_any_is_in() {
    let class = |class| Wire::header(ID, 0, [1, 0, 0, 0]).question(WEB, A, class);
    assert_eq!(code(&class(CH)), ResponseCode::Refused);
    assert_eq!(code(&class(4)), ResponseCode::Refused);
    let (octets, message) = udp(&class(ANY));
    assert_eq!(message.metadata.response_code, ResponseCode::NoError);
    assert_eq!(octets[class(ANY).0.len() + 4..][..2], [0, 1], "the record's class is IN");
}

#[test]
fn any_is_one_rrset() {
    for (name, rtype) in [
        ("clusterset.local", RecordType::SOA),
        ("dns-version.clusterset.local", RecordType::TXT),
        (WEB, RecordType::A),
        ("db.data.svc.clusterset.local", RecordType::A),
        ("_http._tcp.web.shop.svc.clusterset.local", RecordType::SRV),
    ] {
        let (_, message) = udp(&query(name, ANY));
        assert!(!message.answers.is_empty(), "{name}");
        assert!(message.answers.iter().all(|record| record.record_type() == rtype), "{name}");
    }
}

#[test]
fn transfers_and_other_operations_are_not_implemented() {
    for wire in [
        query("clusterset.local", AXFR),
        query("clusterset.local", IXFR),
        query("example.org", AXFR),
        // IXFR as it is really sent, with the SOA in authority.
        query("clusterset.local", IXFR).record(&[0xC0, 12], SOA, IN, 0, &[0; 22]).add(8, 1),
    ] {
        assert_eq!(code(&wire), ResponseCode::NotImp);
        assert_eq!(tcp(&wire).metadata.response_code, ResponseCode::NotImp);
    }
    for opcode in 1..=15u8 {
        let (octets, message) = udp(&query(WEB, A).flags(u16::from(opcode) << 11));
        assert_eq!(message.metadata.response_code, ResponseCode::NotImp, "{opcode}");
        assert_eq!(message.metadata.op_code, OpCode::from_u8(opcode));
        assert_eq!(octets[2] >> 3 & 15, opcode);
    }
}

#[test]
fn not_exactly_one_question_is_a_form_error() {
    assert_form_error_without_question(&Wire::header(ID, 0, [0, 0, 0, 0]));
    assert_form_error_without_question(&Wire::header(ID, 0, [0, 0, 0, 0]).opt(1232, 0, &[]));
    let two = Wire::header(ID, 0, [2, 0, 0, 0]).question(WEB, A, IN).question(WEB, AAAA, IN);
    assert_form_error_without_question(&two);
    assert_form_error_without_question(&query(WEB, A).add(4, 0xFFF0));
    assert!(udp(&two.opt(1232, 0, &[])).1.edns.is_some());
}

#[test]
fn a_malformed_question_is_a_form_error() {
    let head = || Wire::header(ID, 0, [1, 0, 0, 0]);
    let whole = query(WEB, A);
    for cut in 12..whole.0.len() {
        assert_form_error_without_question(&Wire(whole.0[..cut].to_vec()));
    }
    let long_label = [&[64][..], &[b'a'; 64], &[0]].concat();
    // 4 × 64 + 1 octets: one label more than fits into 255.
    let long_name = [[&[63][..], &[b'a'; 63]].concat().repeat(4), vec![0]].concat();
    for name in [
        &long_label[..],
        &long_name,
        &[0xC0, 12],
        &[3, b'w', b'e', b'b', 0xC0, 12],
        &[3, b'w', b'e', b'b', 0xC0, 16],
        &[0x40, 0],
        &[0x80, 0],
        &[0xFF, 0xFF],
    ] {
        assert_form_error_without_question(&head().raw(name).u16(A).u16(IN));
    }
}

#[test]
fn the_longest_name_is_a_question_like_any_other() {
    // 63 + 63 + 63 + 61 octets with their lengths and the root make 255.
    let labels = [63, 63, 63, 61].map(|length| "a".repeat(length)).join(".");
    let wire = query(&labels, A).opt(1232, 0, &[]);
    assert_eq!(wire.0.len(), 12 + 255 + 4 + 11);
    let (_, message) = udp(&wire);
    assert_eq!(message.metadata.response_code, ResponseCode::Refused);
    assert_eq!(message.queries.len(), 1);
}

#[test]
fn octets_after_the_message_are_a_form_error() {
    assert_form_error_with_question(&query(WEB, A).raw(&[0]), WEB);
    assert_form_error_with_question(&query(WEB, A).opt(1232, 0, &[]).raw(&[0; 40]), WEB);
    // A count that promises more than there is.
    for at in [6, 8, 10] {
        assert_form_error_with_question(&query(WEB, A).add(at, 1), WEB);
    }
}

#[test]
fn other_records_in_a_query_are_skipped() {
    let tsig = query(WEB, A).opt(1232, 0, &[]).record(&name_octets("key"), 250, ANY, 0, &[1; 40]);
    assert_eq!(code(&tsig.add(10, 1)), ResponseCode::NoError);
    let loop_owner = query(WEB, A).record(&[0xC0, 46], A, IN, 0, &[1; 4]).add(10, 1);
    assert_eq!(code(&loop_owner), ResponseCode::NoError, "a pointer is skipped, not followed");
}

#[test]
fn ptr_is_nxdomain_inside_the_zone() {
    let name = "1.0.64.127.in-addr.arpa.clusterset.local";
    assert_negative(&udp(&query(name, PTR)).1, ResponseCode::NXDomain);
}

#[test]
fn srv_targets_and_their_addresses() {
    let (octets, message) = udp(&query("_http._TCP.web.shop.svc.clusterset.local", SRV));
    let [record] = &message.answers[..] else { panic!("{message:?}") };
    assert_eq!(record.data.to_string(), format!("0 100 80 {WEB}."));
    assert_eq!(addresses(&message.additionals), ["127.64.0.1"]);
    assert_eq!(message.additionals[0].name, Name::from_ascii(format!("{WEB}.")).unwrap());
    let target = name_octets(WEB);
    assert!(octets.windows(target.len()).any(|window| window == target), "written out, RFC 2782");
    let (_, message) = udp(&query(WEB, SRV));
    assert_eq!(message.answers.len(), 1, "80/TCP and 80/UDP are one record");
    let (_, message) = udp(&query("_sql._tcp.db.data.svc.clusterset.local", SRV));
    assert_eq!(
        addresses(&message.answers),
        [
            "0 100 5432 db-0.paris.db.data.svc.clusterset.local.",
            "0 100 5432 10-1-0-6.paris.db.data.svc.clusterset.local.",
            "1 100 5432 db-0.tokyo.db.data.svc.clusterset.local.",
        ]
    );
    assert_eq!(addresses(&message.additionals), ["10.1.0.5", "10.1.0.6", "10.3.0.5"]);
}

#[test]
fn additional_addresses_that_do_not_fit_are_left_out_without_tc() {
    let ten = "_sql._tcp.ten.data.svc.clusterset.local";
    let (full, _) = udp(&query(ten, SRV).opt(1232, 0, &[]));
    let payload = u16::try_from(full.len() - 7 * ADDITIONAL_OCTETS).unwrap();
    let (_, message) = udp(&query(ten, SRV).opt(payload, 0, &[]));
    assert!(!message.metadata.truncation);
    assert_eq!((message.answers.len(), message.additionals.len()), (10, 3));
    let whole = tcp(&query("_sql._tcp.forty.data.svc.clusterset.local", SRV));
    assert_eq!((whole.answers.len(), whole.additionals.len()), (40, 40));
}

#[test]
fn at_most_16_addresses_over_udp_rotated_where_order_means_nothing() {
    let near = "near.shop.svc.clusterset.local";
    let mut firsts = std::collections::BTreeSet::new();
    for id in 0..80u16 {
        let mut wire = query(near, A);
        wire.0[..2].copy_from_slice(&id.to_be_bytes());
        let (_, message) = udp(&wire);
        let answers = addresses(&message.answers);
        assert_eq!(answers.len(), 16);
        assert_eq!(answers.iter().collect::<std::collections::BTreeSet<_>>().len(), 16);
        assert!(!message.metadata.truncation, "any 16 of one cluster's endpoints will do");
        firsts.insert(answers[0].clone());
    }
    assert_eq!(firsts.len(), 40);
    assert_eq!(tcp(&query(near, A)).answers.len(), 40);
}

#[test]
fn a_headless_name_keeps_its_order_and_owes_all_addresses() {
    let nearest_first = ["10.1.0.5", "10.1.0.6", "10.3.0.5"];
    for id in 0..8u16 {
        let mut wire = query("db.data.svc.clusterset.local", A);
        wire.0[..2].copy_from_slice(&id.to_be_bytes());
        assert_eq!(addresses(&udp(&wire).1.answers), nearest_first);
    }
    let (_, message) = udp(&query("forty.data.svc.clusterset.local", A));
    assert_eq!(message.answers.len(), 16);
    assert!(message.metadata.truncation, "the other 24 are there over TCP");
    assert_eq!(addresses(&message.answers)[0], "10.9.0.0");
}

#[test]
fn sources_outside_the_allow_list_are_refused_with_the_question() {
    let mut closed = policy();
    closed.allow = vec!["10.1.0.0/16".parse::<IpNet>().unwrap()];
    let ask = |source: &str| {
        let octets = answer_from(source, &closed, Transport::Udp, &query(WEB, A).0).unwrap();
        Message::from_vec(&octets).unwrap()
    };
    for (source, expected) in [
        ("10.1.2.3", ResponseCode::NoError),
        ("::ffff:10.1.2.3", ResponseCode::NoError),
        ("10.2.0.1", ResponseCode::Refused),
        ("127.0.0.1", ResponseCode::Refused),
        ("2001:db8::1", ResponseCode::Refused),
    ] {
        let message = ask(source);
        assert_eq!(message.metadata.response_code, expected, "{source}");
        assert_eq!(message.queries.len(), 1);
    }
}

/// Fault S13: a forged source outside gets a truncated answer, never silence, never more octets.
#[test]
fn positive_answers_to_sources_outside_are_limited_by_tc() {
    let mut known = policy();
    known.forwarders = vec!["198.51.100.0/24".parse().unwrap()];
    let flood = |source: &str, name: &str, transport: Transport| {
        let (mut limiter, mut out) = (Limiter::default(), Vec::new());
        let wire = query(name, A);
        let now = clock::now();
        let mut truncated = 0;
        for _ in 0..1000 {
            let source = source.parse().unwrap();
            let received = Received { message: &wire.0, transport, source, now };
            let limiter = (transport == Transport::Udp).then_some(&mut limiter);
            respond(received, &known, answers(), limiter, &mut out).expect("never silence");
            let message = Message::from_vec(&out).unwrap();
            if message.metadata.truncation {
                truncated += 1;
                assert!(message.answers.is_empty() && out.len() == wire.0.len());
            }
        }
        truncated
    };
    let none = "none.shop.svc.clusterset.local";
    for (source, name, transport, truncated) in [
        ("203.0.113.9", WEB, Transport::Udp, 800),
        ("2001:db8::9", WEB, Transport::Udp, 800),
        ("203.0.113.9", WEB, Transport::Tcp, 0),
        ("203.0.113.9", none, Transport::Udp, 0),
        ("198.51.100.7", WEB, Transport::Udp, 0),
        ("127.0.0.1", WEB, Transport::Udp, 0),
        ("10.9.9.9", WEB, Transport::Udp, 0),
        ("172.16.0.1", WEB, Transport::Udp, 0),
        ("192.168.0.1", WEB, Transport::Udp, 0),
        ("100.64.0.1", WEB, Transport::Udp, 0),
        ("::ffff:10.0.0.1", WEB, Transport::Udp, 0),
        ("fd00::1", WEB, Transport::Udp, 0),
    ] {
        assert_eq!(flood(source, name, transport), truncated, "{source} {name} {transport:?}");
    }
}

/// Fault S13: what carries no answer record is no lever, however short the question.
#[test]
fn answers_without_records_and_any_amplify_at_most_four_times() {
    for zone in ["a", "clusterset.local"] {
        let answers = Answers::compile(&table(), &DnsName::parse(zone).unwrap(), None);
        for front in ["", "svc.", "x.", "dns-version.", "more.data.svc.", "near.shop.svc."] {
            for (qtype, class) in [(TXT, IN), (PTR, IN), (A, CH), (AXFR, IN), (ANY, IN)] {
                let plain = Wire::header(ID, 0, [1, 0, 0, 0]);
                let plain = plain.question(&format!("{front}{zone}"), qtype, class);
                for wire in [plain.clone(), plain.opt(1232, 0, &[])] {
                    let udp = Transport::Udp;
                    let octets = answer_of(&answers, "10.0.0.1", &policy(), udp, &wire.0).unwrap();
                    let message = Message::from_vec(&octets).unwrap();
                    if message.answers.is_empty() || qtype == ANY {
                        let (got, sent) = (octets.len(), wire.0.len());
                        assert!(got <= 4 * sent, "{front}{zone} {qtype}: {got} for {sent}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_schema_version_is_text() {
    let (_, message) = udp(&query("dns-version.clusterset.local", TXT));
    let RData::TXT(text) = &message.answers[0].data else { panic!("{message:?}") };
    assert_eq!(&text.txt_data[..], [b"1.0.0".to_vec().into_boxed_slice()]);
}
