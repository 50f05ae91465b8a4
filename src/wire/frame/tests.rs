use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::model::{HostLabel, PortKey, PortNumber, Protocol, ReplicaId, ServiceKey};

fn open(stream: u64) -> Open {
    Open {
        stream,
        asked: Asked::Port(
            ServiceKey::parse("shop/web").unwrap(),
            PortKey::new(Protocol::Tcp, PortNumber::new(80).unwrap()),
        ),
        hops: 0,
        client: Client::default(),
        trace: [7; 16],
        deadline_ms: 5_000,
        early: false,
    }
}

fn accepted(stream: u64) -> Control {
    Control::Reply(Reply { stream, verdict: Verdict::Accepted })
}

fn aborted(stream: u64) -> Control {
    Control::Reset(Reset { stream, reason: ResetReason::Aborted })
}

fn ready() -> Control {
    Control::Ready(Ready { replica: ReplicaId::from_u64(9) })
}

/// Reads one control frame from the front of `octets`.
fn read(octets: &[u8]) -> Result<Option<(Control, usize)>, Error> {
    let Some(word) = octets.first_chunk::<HEADER_OCTETS>() else { return Ok(None) };
    let Header::Control(kind, length) = Header::parse(*word)? else {
        panic!("not a control frame that is known");
    };
    match octets.get(HEADER_OCTETS..HEADER_OCTETS + length) {
        None => Ok(None),
        Some(body) => Ok(Some((Control::decode(kind, body)?, HEADER_OCTETS + length))),
    }
}

fn arb_label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
}

prop_compose! {
    fn arb_open()(
        stream: u64,
        name in arb_label(),
        namespace in arb_label(),
        pod in arb_label(),
        port in 1_u32..=65_535,
        protocol in prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)],
        which in 0..4_u8,
        hops in 0..9_u32,
        address: Option<(std::net::Ipv4Addr, u16)>,
        account in proptest::option::of(arb_label()),
        trace: [u8; 16],
        deadline_ms: u32,
        early: bool,
    ) -> Open {
        let key = ServiceKey::parse(&format!("{namespace}/{name}")).unwrap();
        let asked = match which {
            0 => Asked::Echo,
            1 => Asked::Nothing,
            2 => Asked::Pod(
                key,
                HostLabel::parse(&pod).unwrap(),
                PortKey::new(protocol, PortNumber::new(port).unwrap()),
            ),
            _ => Asked::Port(key, PortKey::new(protocol, PortNumber::new(port).unwrap())),
        };
        let client = Client {
            address: address.map(Into::into),
            namespace: account.clone().map(Into::into),
            service_account: account.map(Into::into),
        };
        Open { stream, asked, hops, client, trace, deadline_ms, early }
    }
}

fn arb_control() -> impl Strategy<Value = Control> {
    let verdict = prop_oneof![
        Just(Verdict::Accepted),
        Just(Verdict::NotExported),
        Just(Verdict::NoEndpoint),
        Just(Verdict::Draining),
        Just(Verdict::Overloaded),
        Just(Verdict::Refused),
    ];
    let reason = prop_oneof![Just(ResetReason::Aborted), Just(ResetReason::Cancelled)];
    prop_oneof![
        any::<u64>().prop_map(|id| Control::Ready(Ready { replica: ReplicaId::from_u64(id) })),
        arb_open().prop_map(Control::Open),
        (any::<u64>(), verdict)
            .prop_map(|(stream, verdict)| Control::Reply(Reply { stream, verdict })),
        (any::<u64>(), reason)
            .prop_map(|(stream, reason)| Control::Reset(Reset { stream, reason })),
        any::<u64>().prop_map(Control::Cancel),
        any::<u64>().prop_map(Control::Ping),
        any::<u64>().prop_map(Control::Pong),
        Just(Control::Fin),
        Just(Control::Drain),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_every_truncation_waits(frame in arb_control()) {
        let mut octets = Vec::new();
        frame.encode(&mut octets);
        prop_assert!(octets.len() <= HEADER_OCTETS + MAX_BODY);
        for cut in 0..octets.len() {
            prop_assert_eq!(read(&octets[..cut]).unwrap(), None);
        }
        prop_assert_eq!(read(&octets).unwrap(), Some((frame, octets.len())));
    }

    #[test]
    fn no_octets_make_the_reader_panic(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        for code in 1..=9 {
            let kind = Kind::from_code(code).unwrap();
            let _either = Control::decode(kind, &octets);
        }
    }

    #[test]
    fn a_truncated_body_is_an_error_or_another_body_never_a_panic(frame in arb_control()) {
        let mut octets = Vec::new();
        frame.encode(&mut octets);
        for cut in HEADER_OCTETS..octets.len() {
            let _either = Control::decode(frame.kind(), &octets[HEADER_OCTETS..cut]);
        }
    }
}

#[test]
fn headers_keep_their_caps() {
    let word = |word: u32| Header::parse(word.to_be_bytes());
    assert_eq!(word(0), Err(Error::PayloadLength(0)));
    assert_eq!(word(1), Ok(Header::Payload(1)));
    assert_eq!(word(65_532), Ok(Header::Payload(65_532)));
    assert_eq!(word(65_533), Err(Error::PayloadLength(65_533)));
    assert_eq!(word(0x7fff_ffff), Err(Error::PayloadLength(0x7fff_ffff)));
    let control = |kind: u32, length: u32| word(1 << 31 | kind << 24 | length);
    assert_eq!(control(7, 4096), Ok(Header::Control(Kind::Ping, 4096)));
    assert_eq!(control(7, 4097), Err(Error::BodyLength(4097)));
    assert_eq!(control(0, 0), Err(Error::Kind(0)));
    assert_eq!(control(10, 0), Err(Error::Kind(10)));
    assert_eq!(control(63, 9_999), Err(Error::Kind(63)));
    assert_eq!(control(64, 4096), Ok(Header::Skip(4096)));
    assert_eq!(control(127, 4097), Err(Error::BodyLength(4097)));
    assert_eq!(Header::parse(Header::payload(MAX_PAYLOAD)), Ok(Header::Payload(MAX_PAYLOAD)));
}

#[test]
fn odd_names_ask_for_nothing() {
    // A body as another implementation might write it: field 2 the name, 3 protocol, 4 port.
    let body = |name: &str, port: u8| {
        let mut octets = vec![8, 1, 18, u8::try_from(name.len()).unwrap()];
        octets.extend_from_slice(name.as_bytes());
        octets.extend_from_slice(&[24, 1, 32, port]);
        Open::decode(&octets).unwrap().asked
    };
    assert!(matches!(body("shop/web", 80), Asked::Port(..)));
    assert_eq!(body("portolan/echo", 0), Asked::Echo);
    assert!(matches!(body("portolan/echo", 80), Asked::Port(..)));
    let odd = [
        "",
        "web",
        "shop/WEB",
        "shop/web.",
        "shop/..",
        "shop/we\0b",
        "10.0.0.1",
        "a/b/C",
        "a/b/",
        "/a/b",
        "a//b",
        "a/b/c/d",
    ];
    for name in odd {
        assert_eq!(body(name, 80), Asked::Nothing, "{name:?}");
    }
    assert_eq!(body("shop/web", 0), Asked::Nothing);
}

/// A gateway that knows of no pods reads the same field as the name of a service, and must find
/// none there: it would lead to any pod.
#[test]
fn a_pod_is_asked_for_in_a_way_that_older_gateways_refuse() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct OldBody {
        #[prost(string, tag = "2")]
        service: String,
    }
    let (key, host) = (ServiceKey::parse("shop/db").unwrap(), HostLabel::parse("db-0").unwrap());
    let port = PortKey::new(Protocol::Tcp, PortNumber::new(80).unwrap());
    let asked = Asked::Pod(key, host, port);
    let mut octets = Vec::new();
    Open { asked: asked.clone(), ..open(3) }.encode(&mut octets);
    assert_eq!(Open::decode(&octets).unwrap().asked, asked);
    let old = <OldBody as prost::Message>::decode(&*octets).unwrap();
    assert!(ServiceKey::parse(&old.service).is_err(), "{}", old.service);
}

#[test]
fn unknown_fields_are_skipped() {
    let mut octets = Vec::new();
    open(3).encode(&mut octets);
    octets.extend_from_slice(&[0xfa, 0x01, 3, 1, 2, 3]);
    assert_eq!(Open::decode(&octets), Some(open(3)));
}

#[test]
fn the_opener_refuses_what_its_state_does_not_allow() {
    let mut fresh = Opener::default();
    assert!(fresh.on_control(&Control::Pong(1)).is_err(), "READY comes first");
    assert!(fresh.on_payload().is_err());

    let mut opener = Opener::default();
    opener.on_control(&ready()).unwrap();
    for frame in [ready(), accepted(1), aborted(1), aborted(0), Control::Fin, Control::Cancel(1)] {
        assert!(opener.on_control(&frame).is_err(), "{frame:?}");
    }
    assert_eq!(opener.open(), Some(1));
    assert_eq!(opener.open(), None);
    assert!(opener.on_payload().is_err(), "payload before the first REPLY");
    assert!(opener.on_control(&Control::Open(open(1))).is_err());
    assert!(opener.on_control(&accepted(2)).is_err());
    assert_eq!(opener.on_control(&accepted(1)), Ok(OpenerEvent::Reply(Verdict::Accepted)));
    assert!(opener.on_control(&accepted(1)).is_err(), "a second verdict");
    assert_eq!(opener.on_payload(), Ok(Payload::Deliver));
    assert_eq!(opener.on_control(&Control::Fin), Ok(OpenerEvent::Fin));
    assert!(opener.on_payload().is_err(), "payload after FIN");
    assert!(opener.on_control(&Control::Fin).is_err());
    assert_eq!(opener.fin(), Some(Control::Fin));
    assert_eq!(opener.fin(), None);
    assert!(opener.is_idle());
    assert_eq!(opener.on_control(&aborted(1)), Ok(OpenerEvent::Stale));
    assert_eq!(opener.open(), Some(2));
    assert_eq!(opener.on_payload(), Ok(Payload::Discard), "it belongs to stream 1");
    assert_eq!(opener.on_control(&aborted(2)), Ok(OpenerEvent::Reset));
    assert_eq!(opener.open(), None, "a reset connection is not reused");
}

#[test]
fn the_acceptor_refuses_what_its_state_does_not_allow() {
    let mut acceptor = Acceptor::default();
    let wrong =
        [ready(), accepted(1), aborted(1), Control::Cancel(1), Control::Fin, Control::Drain];
    for frame in wrong {
        assert!(acceptor.on_control(frame.clone()).is_err(), "{frame:?}");
    }
    assert!(acceptor.on_payload().is_err());
    assert!(acceptor.reply(Verdict::Accepted).is_none());
    assert!(acceptor.on_control(Control::Open(open(0))).is_err());
    assert!(acceptor.on_control(Control::Open(open(1))).is_ok());
    assert!(acceptor.on_payload().is_err(), "early data that nobody offered");
    assert!(acceptor.on_control(Control::Open(open(2))).is_err(), "one stream at a time");
    assert!(acceptor.reply(Verdict::Overloaded).is_some());
    assert_eq!(acceptor.on_payload(), Ok(Payload::Discard));
    assert!(acceptor.on_control(Control::Open(open(1))).is_err(), "numbers rise");
    assert_eq!(acceptor.on_control(Control::Cancel(1)), Ok(AcceptorEvent::Stale));
    assert!(acceptor.on_control(Control::Open(open(2))).is_ok());
    let reset = Reset { stream: 2, reason: ResetReason::Cancelled };
    assert_eq!(acceptor.on_control(Control::Cancel(2)), Ok(AcceptorEvent::Cancelled(reset)));
    assert!(acceptor.is_idle());
    assert!(acceptor.reset().is_none());
}

#[test]
fn the_acceptor_takes_early_data_only_where_it_is_announced() {
    let mut acceptor = Acceptor::default();
    assert!(acceptor.on_control(Control::Open(Open { early: true, ..open(1) })).is_ok());
    assert_eq!(acceptor.on_payload(), Ok(Payload::Deliver));
    assert!(acceptor.on_control(Control::Fin).is_err(), "a FIN waits for the REPLY");
    assert!(acceptor.reply(Verdict::NoEndpoint).is_some());
    assert_eq!(acceptor.on_payload(), Ok(Payload::Discard), "it crossed the refusal");
    assert!(acceptor.on_control(Control::Open(open(2))).is_ok());
    assert!(acceptor.on_payload().is_err(), "it was announced for stream 1");
}

#[test]
fn a_cancel_that_crosses_an_acceptance_waits_for_the_reset() {
    let mut opener = Opener::default();
    opener.on_control(&ready()).unwrap();
    assert_eq!(opener.open(), Some(1));
    assert_eq!(opener.cancel(), Some(Control::Cancel(1)));
    assert_eq!(opener.on_control(&accepted(1)), Ok(OpenerEvent::Stale));
    assert_eq!(opener.on_payload(), Ok(Payload::Discard));
    assert_eq!(opener.on_control(&Control::Fin), Ok(OpenerEvent::Stale));
    assert!(!opener.is_idle());
    let answer = Control::Reset(Reset { stream: 1, reason: ResetReason::Cancelled });
    assert_eq!(opener.on_control(&answer), Ok(OpenerEvent::Cancelled));
    assert!(opener.is_idle());
}

/// Both machines with a queue each way; payload is tagged with its stream.
struct Model {
    opener: Opener,
    acceptor: Acceptor,
    to_acceptor: VecDeque<Item>,
    to_opener: VecDeque<Item>,
    /// The acceptor's stream, to tag what it sends and check what it gets.
    serving: u64,
    asked: u64,
    over: bool,
}

#[derive(Debug)]
enum Item {
    Payload(u64),
    Control(Control),
}

impl Model {
    fn new() -> Self {
        Self {
            opener: Opener::default(),
            acceptor: Acceptor::default(),
            to_acceptor: VecDeque::new(),
            to_opener: VecDeque::from([Item::Control(ready())]),
            serving: 0,
            asked: 0,
            over: false,
        }
    }

    fn opener_acts(&mut self, action: u8) {
        let frame = match action {
            0 | 1 => {
                if let Some(stream) = self.opener.open() {
                    self.asked = stream;
                    let early = action == 1;
                    let open = Control::Open(Open { early, ..open(stream) });
                    self.to_acceptor.push_back(Item::Control(open));
                    self.to_acceptor.extend(early.then_some(Item::Payload(stream)));
                }
                None
            }
            2 => self.opener.cancel(),
            3 => self.opener.fin(),
            4 => self.opener.reset(),
            5 => Some(Control::Ping(1)),
            _ => {
                if self.opener.may_send() {
                    self.to_acceptor.push_back(Item::Payload(self.asked));
                }
                None
            }
        };
        self.to_acceptor.extend(frame.map(Item::Control));
    }

    fn acceptor_acts(&mut self, action: u8) {
        let frame = match action {
            0 | 1 => self.acceptor.reply(Verdict::Accepted),
            2 => self.acceptor.reply(Verdict::NoEndpoint),
            3 => self.acceptor.fin(),
            4 => self.acceptor.reset(),
            5 => Some(Control::Drain),
            _ => {
                if self.acceptor.may_send() {
                    self.to_opener.push_back(Item::Payload(self.serving));
                }
                None
            }
        };
        self.to_opener.extend(frame.map(Item::Control));
    }

    fn deliver_to_opener(&mut self) {
        match self.to_opener.pop_front() {
            None => {}
            Some(Item::Payload(stream)) => {
                let delivered = self.opener.on_payload().unwrap() == Payload::Deliver;
                assert!(!delivered || stream == self.asked, "payload of another stream");
            }
            Some(Item::Control(frame)) => {
                let event = self.opener.on_control(&frame).unwrap();
                if let OpenerEvent::Ping(number) = event {
                    self.to_acceptor.push_back(Item::Control(Control::Pong(number)));
                }
                self.over |= event == OpenerEvent::Reset;
            }
        }
    }

    fn deliver_to_acceptor(&mut self) {
        match self.to_acceptor.pop_front() {
            None => {}
            Some(Item::Payload(stream)) => {
                let delivered = self.acceptor.on_payload().unwrap() == Payload::Deliver;
                assert!(!delivered || stream == self.serving, "payload of another stream");
            }
            Some(Item::Control(frame)) => match self.acceptor.on_control(frame).unwrap() {
                AcceptorEvent::Open(open) => self.serving = open.stream,
                AcceptorEvent::Cancelled(reset) => {
                    self.to_opener.push_back(Item::Control(Control::Reset(reset)));
                }
                AcceptorEvent::Ping(number) => {
                    self.to_opener.push_back(Item::Control(Control::Pong(number)));
                }
                AcceptorEvent::Reset => self.over = true,
                _ => {}
            },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn no_crossing_of_legal_frames_is_illegal_or_mixes_streams(
        steps in proptest::collection::vec((0..4_u8, 0..8_u8), 1..120),
        resets: bool,
    ) {
        let mut model = Model::new();
        for (who, action) in steps {
            let action = if action == 4 && !resets { 7 } else { action };
            match who {
                0 => model.opener_acts(action),
                1 => model.acceptor_acts(action),
                2 => model.deliver_to_opener(),
                _ => model.deliver_to_acceptor(),
            }
            if model.over {
                return Ok(());
            }
        }
        // Calm: everything in flight arrives, and both ends come to rest.
        while !(model.to_opener.is_empty() && model.to_acceptor.is_empty()) {
            model.deliver_to_opener();
            model.deliver_to_acceptor();
        }
        if !model.over && model.acceptor.is_idle() && !resets {
            prop_assert!(model.opener.is_idle(), "the opener waits for an end that never comes");
        }
    }
}
