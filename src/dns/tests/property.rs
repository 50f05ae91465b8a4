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

/// The answers of [`table`] for several places, stale.
fn places() -> &'static SharedAnswers {
    static ANSWERS: std::sync::OnceLock<SharedAnswers> = std::sync::OnceLock::new();
    ANSWERS.get_or_init(|| {
        let networks = ["10.1.0.0/16", "10.1.2.0/24", "2001:db8::/48"];
        let places = ["us/us-1", "eu/eu-1", "us"].map(crate::testing::table::locality);
        let entries = networks.map(|network| network.parse().unwrap()).into_iter().zip(places);
        let table = Tables::new("paris")
            .vip("shop/web", &["127.64.0.1"], &["http:TCP:80"], &["paris"])
            .headless(
                "data/more",
                &["sql:TCP:5432"],
                &[("paris", &["10.91.0.1"]), ("oregon", &["10.92.0.1", "10.92.0.2"])],
            )
            .stands("oregon", "us/us-1")
            .build();
        let (_compiler, answers) =
            SharedAnswers::for_places(&table, &zone(), Localities::new(entries));
        answers.staleness().set(true);
        answers
    })
}

/// Client subnets, most of them nearly right.
fn any_subnet() -> impl Strategy<Value = Vec<u8>> {
    let address = prop_oneof![
        Just(vec![10, 1, 2, 0]),
        Just(vec![0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0]),
        proptest::collection::vec(any::<u8>(), 0..18)
    ];
    let scope = prop_oneof![9 => Just(0u8), 1 => any::<u8>()];
    (0..4u8, 0..140u8, scope, address, any::<bool>()).prop_map(
        |(family, prefix, scope, mut address, right)| {
            if right {
                address.resize(usize::from(prefix).div_ceil(8), 0);
                if prefix % 8 != 0
                    && let Some(last) = address.last_mut()
                {
                    *last &= 0xFF << (8 - prefix % 8);
                }
            }
            [&[0, family, prefix, scope], &address[..]].concat()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever a listed forwarder says of its clients, and however old the answer is.
    #[test]
    fn told_and_stale_answers_stay_within_the_rules(
        name in proptest::sample::select(vec![
            WEB, "more.data.svc.clusterset.local", "x.clusterset.local", "local",
        ]),
        qtype in proptest::sample::select(vec![A, AAAA, SRV, ANY, SOA]),
        data in any_subnet(),
        payload in any::<u16>(),
        tcp in any::<bool>(),
    ) {
        let length = u16::try_from(data.len()).unwrap().to_be_bytes();
        let wire = query(name, qtype).opt(payload, 0, &[&[0, 8], &length[..], &data].concat());
        let policy = Policy { forwarders: vec!["10.0.0.1/32".parse().unwrap()], ..policy() };
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let answers = places().load();
        let octets = answer_of(&answers, "10.0.0.1", &policy, transport, &wire.0).unwrap();
        let message = Message::from_vec(&octets).expect("a well-formed answer");
        prop_assert!(octets.len() <= 1232);
        if message.answers.is_empty() && !message.metadata.truncation {
            prop_assert!(octets.len() <= 4 * wire.0.len());
        }
        let family = u16::from_be_bytes([data[0], data[1]]);
        let malformed = message.metadata.response_code == ResponseCode::FormErr;
        for (code, found) in options(&octets) {
            prop_assert!(!malformed, "an error tells nothing");
            if code == 8 {
                let most = if family == 1 { 32 } else { 128 };
                prop_assert!(matches!(family, 1 | 2) && found[3] <= most);
                prop_assert_eq!(&found[..3], &data[..3]);
                prop_assert_eq!(&found[4..], &data[4..]);
            } else {
                let nothing = message.metadata.response_code == ResponseCode::NXDomain;
                prop_assert_eq!((code, found), (15, vec![0, if nothing { 19 } else { 3 }]));
            }
        }
        let told = options(&octets).iter().any(|(code, _)| *code == 8);
        prop_assert_eq!(told, !malformed && matches!(family, 1 | 2));
    }
}

fn name_length(octets: &[u8]) -> usize {
    let mut at = 0;
    while octets[at] != 0 {
        at += 1 + usize::from(octets[at]);
    }
    at + 1
}
