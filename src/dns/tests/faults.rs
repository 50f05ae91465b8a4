//! Faults S09 and S13, each in one place; `wire` has the rules one by one.

use hickory_proto::op::{Message, ResponseCode};

use super::*;

const BOTH: [Transport; 2] = [Transport::Udp, Transport::Tcp];

/// Loops of pointers, no question, two OPT, answers, scraps: dropped or refused as malformed, once,
/// on both transports, with what could be read of them.
#[test]
fn s09_malformed_messages_are_dropped_or_called_malformed() {
    let head = |counts| Wire::header(ID, 0x0100, counts);
    let asked = |name: &[u8]| head([1, 0, 0, 0]).raw(name).u16(A).u16(IN);
    let loops = [
        asked(&[0xC0, 12]),
        asked(&[0xC0, 0]),
        asked(&[1, b'a', 0xC0, 12]),
        asked(&[1, b'a', 0xC0, 14]),
        asked(&[0xFF, 0xFF]),
        // Two pointers at each other, the second beyond the question.
        asked(&[0xC0, 18]).raw(&[0xC0, 12]),
    ];
    let counts = [
        head([0, 0, 0, 0]),
        head([0, 0, 0, 0]).opt(1232, 0, &[]),
        head([2, 0, 0, 0]).question(WEB, A, IN).question(WEB, A, IN),
        head([0xFFFF; 4]),
        query(WEB, A).add(10, 1),
    ];
    let opts = [
        query(WEB, A).opt(1232, 0, &[]).opt(1232, 0, &[]),
        query(WEB, A).opt(1232, 0, &[0, 10, 0, 9, 1]),
        query(WEB, A).record(&name_octets("x"), OPT, 1232, 0, &[]).add(10, 1),
    ];
    for wire in loops.iter().chain(&counts).chain(&opts) {
        for transport in BOTH {
            let octets = answer_over(transport, &wire.0).expect("well-formed enough for an answer");
            let message = Message::from_vec(&octets).expect("a well-formed answer");
            assert_eq!(message.metadata.response_code, ResponseCode::FormErr, "{:02x?}", wire.0);
            assert_eq!(message.metadata.id, ID);
            assert!(message.answers.is_empty() && message.authorities.is_empty());
            assert!(octets.len() <= wire.0.len() + 11, "never more than an OPT longer");
            assert!(answer_over(transport, &octets).is_none(), "its answer is not answered");
        }
    }
    let eleven = query(WEB, A).0[..11].to_vec();
    let an_answer = query(WEB, A).flags(0x8180).0;
    let both = Wire::header(ID, 0x8000, [0xFFFF; 4]).0;
    for silent in [Vec::new(), vec![0], eleven, an_answer, both] {
        for transport in BOTH {
            assert!(answer_over(transport, &silent).is_none(), "{silent:02x?}");
        }
    }
}

/// Whoever forges a source makes nobody suffer: an answer has at most 1232 octets, four times the
/// question's to ANY and where there is nothing to tell; who may not ask hears only that; and one
/// network outside gets a burst of answers, then TC.
#[test]
fn s13_a_forged_source_is_sent_little() {
    let victim = "203.0.113.9";
    let (open, mut listed) = (policy(), policy());
    listed.allow = vec!["10.0.0.0/8".parse().unwrap()];
    let names = [
        ".",
        "clusterset.local",
        "none.data.svc.clusterset.local",
        WEB,
        "near.shop.svc.clusterset.local",
        "more.data.svc.clusterset.local",
    ];
    for name in names {
        for qtype in [A, AAAA, SRV, TXT, SOA, NS, ANY, AXFR, 65] {
            let plain = query(name, qtype);
            for payload in [0, 512, 1232, 4096, 65_535] {
                for wire in [plain.clone(), plain.clone().opt(payload, 0x8000, &[])] {
                    let udp = |policy| {
                        let octets = answer_from(victim, policy, Transport::Udp, &wire.0).unwrap();
                        (octets.len(), Message::from_vec(&octets).unwrap())
                    };
                    let (length, message) = udp(&open);
                    assert!(length <= 1232, "{name} {qtype}: {length}");
                    let little = qtype == ANY || message.answers.is_empty();
                    assert!(!little || length <= 4 * wire.0.len(), "{name} {qtype}: {length}");
                    let (length, message) = udp(&listed);
                    assert!(message.answers.is_empty() && message.authorities.is_empty());
                    assert_ne!(message.metadata.response_code, ResponseCode::NoError);
                    assert!(length <= wire.0.len(), "refused in no more octets than asked");
                }
            }
        }
    }
    let wire = query("more.data.svc.clusterset.local", A).opt(4096, 0, &[]);
    let (mut limiter, mut out, now) = (Limiter::default(), Vec::new(), clock::now());
    let (mut sent, mut got, mut cut) = (0, 0, 0);
    for host in (0..250u8).cycle().take(10_000) {
        let source = IpAddr::from([203, 0, 113, host]);
        let received = Received { message: &wire.0, transport: Transport::Udp, source, now };
        respond(received, &policy(), answers(), Some(&mut limiter), &mut out).expect("no silence");
        sent += wire.0.len();
        got += out.len();
        let message = Message::from_vec(&out).unwrap();
        cut += usize::from(message.metadata.truncation && message.answers.is_empty());
    }
    assert_eq!(cut, 9_800, "200 at once for a network, however many hosts of it are named");
    assert!(got * 10 <= sent * 12, "{got} octets for {sent}");
}
