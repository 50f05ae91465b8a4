//! Whatever comes: no panic, no answer to an answer, nothing too long, everything echoed.

use hickory_proto::op::{Message, ResponseCode};
use proptest::prelude::*;

use super::*;

fn any_wire() -> impl Strategy<Value = Vec<u8>> {
    let names = ["", "local", "clusterset.local", WEB, "more.data.svc.clusterset.local"];
    let sound = (
        proptest::sample::select(names.to_vec()),
        prop_oneof![
            proptest::sample::select(vec![A, NS, SOA, PTR, TXT, AAAA, SRV, OPT, IXFR, AXFR, ANY]),
            any::<u16>()
        ],
        prop_oneof![4 => Just(IN), 1 => any::<u16>()],
        any::<u16>(),
        proptest::option::of((any::<u16>(), any::<bool>())),
    )
        .prop_map(|(name, qtype, class, id, opt)| {
            let wire = Wire::header(id, 0, [1, 0, 0, 0]).question(name, qtype, class);
            match opt {
                Some((payload, true)) => wire.opt(payload, 0, &[]).0,
                Some((payload, false)) => wire.opt(payload, 0x8000, &[0, 3, 0, 0]).0,
                None => wire.0,
            }
        });
    let broken = (sound.clone(), proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4))
        .prop_map(|(mut wire, changes)| {
            for (at, octet) in changes {
                let at = at % wire.len();
                wire[at] = octet;
            }
            wire
        });
    let cut = (broken.clone(), any::<proptest::sample::Index>())
        .prop_map(|(wire, at)| wire[..at.index(wire.len() + 1)].to_vec());
    prop_oneof![
        2 => sound,
        3 => broken,
        1 => cut,
        1 => proptest::collection::vec(any::<u8>(), 0..600)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Faults S09, S14.
    #[test]
    fn every_message_is_dropped_or_answered_within_the_rules(wire in any_wire()) {
        let dropped = wire.len() < 12 || wire[2] & 0x80 != 0;
        let answer = answer_over(Transport::Udp, &wire);
        prop_assert_eq!(answer.is_none(), dropped);
        let Some(octets) = answer else { return Ok(()) };
        prop_assert!(octets.len() <= 1232);
        prop_assert_eq!(&octets[..2], &wire[..2]);
        prop_assert_eq!(octets[2] & 0xF9, wire[2] & 0x79 | 0x80, "QR, opcode, RD");
        prop_assert_eq!(octets[3] & 0xF0, 0, "RA, Z, AD, CD");
        let message = Message::from_vec(&octets).expect("a well-formed answer");
        if message.answers.is_empty() && !message.metadata.truncation {
            prop_assert!(octets.len() <= 4 * wire.len());
        }
        // Our own drop rule keeps two of us from talking for ever (fault S14).
        prop_assert!(answer_over(Transport::Udp, &octets).is_none());
        if let Ok(understood) = Message::from_vec(&wire)
            && message.metadata.response_code != ResponseCode::FormErr
            && understood.queries.len() == 1
        {
            prop_assert_eq!(message.queries.len(), 1);
            let end = 12 + name_length(&wire[12..]) + 4;
            prop_assert_eq!(&octets[12..end], &wire[12..end]);
            prop_assert_eq!(message.edns.is_some(), understood.edns.is_some());
        }
    }
}

fn name_length(octets: &[u8]) -> usize {
    let mut at = 0;
    while octets[at] != 0 {
        at += 1 + usize::from(octets[at]);
    }
    at + 1
}
