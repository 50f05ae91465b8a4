//! Answers that may be out of date.

use hickory_proto::op::Message;

use super::*;

const EXTENDED_ERROR: u16 = 15;

/// The answers of [`table`] with a switch.
fn switched() -> (SharedAnswers, Staleness) {
    let (_compiler, answers) = SharedAnswers::new(&table(), &zone());
    let staleness = answers.staleness();
    (answers, staleness)
}

fn asked(answers: &SharedAnswers, wire: &Wire) -> Vec<u8> {
    let answers = answers.load();
    answer_of(&answers, "10.0.0.1", &policy(), Transport::Udp, &wire.0).expect("an answer")
}

#[test]
fn stale_answers_are_what_they_were_and_say_so() {
    let (answers, staleness) = switched();
    let with = |name, qtype| query(name, qtype).opt(1232, 0x8000, &[]);
    for (wire, error) in [
        (with(WEB, A), Some(3)),
        (with(WEB, ANY), Some(3)),
        (with(WEB, AAAA), Some(3)),
        (with("shop.svc.clusterset.local", A), Some(3)),
        (with("clusterset.local", SOA), Some(3)),
        (with("none.shop.svc.clusterset.local", A), Some(19)),
        (with("example.org", A), None),
        (with(WEB, AXFR), None),
        (with(WEB, A).flags(0x2100), None),
        (with(WEB, A).raw(&[0]), None),
    ] {
        staleness.set(false);
        let fresh = asked(&answers, &wire);
        assert!(options(&fresh).is_empty());
        staleness.set(true);
        let stale = asked(&answers, &wire);
        let wanted = error.map(|code: u16| (EXTENDED_ERROR, code.to_be_bytes().to_vec()));
        assert_eq!(options(&stale), wanted.into_iter().collect::<Vec<_>>());
        let same = fresh.len() - 2;
        assert_eq!(stale[..same], fresh[..same], "but for the length of the options");
    }
    let plain = query(WEB, A);
    assert_eq!(asked(&answers, &plain).len(), plain.0.len() + 16, "no EDNS, no word of it");
    staleness.set(false);
    assert!(options(&asked(&answers, &with(WEB, A))).is_empty());
}

#[test]
fn the_word_goes_before_any_record_does() {
    let (answers, staleness) = switched();
    for name in ["_sql._tcp.ten.data", "_sql._tcp.db.data", "ten.data", "forty.data", "more.data"] {
        let name = format!("{name}.svc.clusterset.local");
        let (mut with, mut without) = (0, 0);
        for payload in 512..=1232 {
            for qtype in [A, SRV, ANY] {
                let wire = query(&name, qtype).opt(payload, 0, &[]);
                staleness.set(false);
                let fresh = asked(&answers, &wire);
                staleness.set(true);
                let stale = asked(&answers, &wire);
                let counts = |octets: &[u8]| octets[2..12].to_vec();
                assert_eq!(counts(&stale), counts(&fresh), "flags and counts of {name} {qtype}");
                let most = usize::from(payload);
                let most = if qtype == ANY { most.min(4 * wire.0.len()) } else { most };
                assert!(stale.len() <= most);
                match options(&stale).len() {
                    0 => {
                        without += 1;
                        assert!(fresh.len() + 6 > most, "there was room");
                    }
                    _ => with += 1,
                }
            }
        }
        assert!(with > 0, "{name}: {with} with, {without} without");
    }
}

#[test]
fn the_word_makes_no_lever() {
    for zone in ["a", "clusterset.local"] {
        let (_compiler, answers) =
            SharedAnswers::new(&table(), &DnsName::parse(zone).expect("a name"));
        answers.staleness().set(true);
        for front in ["", "svc.", "x.", "none.shop.svc."] {
            for qtype in [TXT, PTR, ANY] {
                let wire = query(&format!("{front}{zone}"), qtype).opt(1232, 0, &[]);
                let octets = asked(&answers, &wire);
                let message = Message::from_vec(&octets).unwrap();
                if message.answers.is_empty() || qtype == ANY {
                    assert!(octets.len() <= 4 * wire.0.len(), "{front}{zone} {qtype}");
                }
            }
        }
    }
}

#[test]
fn a_new_table_is_as_stale_as_the_one_before() {
    let (mut compiler, answers) = SharedAnswers::new(&table(), &zone());
    answers.staleness().set(true);
    compiler.publish(&RouteTable { revision: 43, ..table() });
    let wire = query(WEB, A).opt(1232, 0, &[]);
    assert_eq!(options(&asked(&answers, &wire)).len(), 1);
}
