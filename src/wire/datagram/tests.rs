use proptest::prelude::*;

use super::*;
use crate::model::{PortKey, PortNumber, Protocol, ReplicaId, ServiceKey};
use crate::wire::frame::{Asked, Client, Reset, ResetReason};

fn open(stream: u64) -> Control {
    Control::Open(Open {
        early: false,
        stream,
        asked: Asked::Port(
            ServiceKey::parse("shop/dns").unwrap(),
            PortKey::new(Protocol::Udp, PortNumber::new(53).unwrap()),
        ),
        hops: 0,
        client: Client::default(),
        trace: [7; 16],
        deadline_ms: 5_000,
    })
}

fn reset(stream: u64) -> Control {
    Control::Reset(Reset { stream, reason: ResetReason::Aborted })
}

fn reply(stream: u64) -> Control {
    Control::Reply(Reply { stream, verdict: Verdict::Accepted })
}

fn ready() -> Control {
    Control::Ready(Ready { replica: ReplicaId::from_u64(9) })
}

fn header(length: usize) -> Vec<u8> {
    u32::try_from(length).unwrap().to_be_bytes().to_vec()
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_every_truncation_waits(
        session in 1_u32..,
        datagram in proptest::collection::vec(any::<u8>(), 0..2_000),
    ) {
        let mut octets = Vec::new();
        encode(session, &datagram, &mut octets);
        prop_assert_eq!(octets.len(), frame_octets(&datagram));
        for cut in 0..octets.len() {
            prop_assert_eq!(next(&octets[..cut]).unwrap(), None);
        }
        octets.extend_from_slice(b"more");
        let (frame, took) = next(&octets).unwrap().unwrap();
        prop_assert_eq!(frame, Frame::Datagram(session, &datagram));
        prop_assert_eq!(took, octets.len() - 4);
    }

    #[test]
    fn hostile_octets_are_refused_wait_or_make_a_frame_and_never_go_back(
        octets in proptest::collection::vec(any::<u8>(), 0..400),
        kind in 0_u8..=127,
    ) {
        let mut framed = vec![0x80 | kind, 0, 0, u8::try_from(octets.len() % 256).unwrap()];
        framed.extend_from_slice(&octets);
        for stream in [octets, framed] {
            let (mut opener, mut acceptor) = (Opener::default(), Acceptor::default());
            let mut at = 0;
            while let Ok(Some((frame, took))) = next(&stream[at..]) {
                prop_assert!((HEADER_OCTETS..=MAX_FRAME).contains(&took));
                let _either = (opener.on(frame.clone()), acceptor.on(frame));
                at += took;
            }
        }
    }
}

#[test]
fn a_datagram_keeps_its_caps() {
    for length in [1, 3, SESSION_OCTETS + MAX_DATAGRAM + 1, MAX_PAYLOAD] {
        assert_eq!(next(&header(length)), Err(Error::Datagram(length)), "before it has come");
    }
    assert!(matches!(next(&header(0)), Err(Error::Frame(_))));
    assert!(matches!(next(&header(MAX_PAYLOAD + 1)), Err(Error::Frame(_))));
    for length in [0, 1, MAX_DATAGRAM] {
        let mut octets = Vec::new();
        encode(7, &vec![1; length], &mut octets);
        let (frame, took) = next(&octets).unwrap().unwrap();
        assert_eq!((frame, took), (Frame::Datagram(7, &vec![1; length]), length + 8));
    }
}

#[test]
fn kinds_of_later_versions_are_read_over() {
    let octets = [0x80 | 64, 0, 0, 2, 1, 2, 9];
    assert_eq!(next(&octets), Ok(Some((Frame::Skipped, 6))));
    assert_eq!(Opener::default().on(Frame::Skipped), Ok(OpenerEvent::Nothing));
    assert_eq!(Acceptor::default().on(Frame::Skipped), Ok(AcceptorEvent::Nothing));
}

#[test]
fn the_opener_hears_only_of_what_it_began() {
    let mut opener = Opener::default();
    assert_eq!(opener.open(), None, "READY comes first");
    assert_eq!(opener.on(Frame::Control(reply(1))), Err(Error::Illegal(Kind::Reply)));
    assert!(opener.on(Frame::Control(ready())).is_ok());
    assert_eq!(opener.on(Frame::Control(ready())), Err(Error::Illegal(Kind::Ready)));
    assert_eq!(opener.on(Frame::Datagram(1, b"x")), Err(Error::Unknown(1)));
    assert_eq!(opener.on(Frame::Control(reset(0))), Err(Error::Unknown(0)));
    assert_eq!((opener.open(), opener.open()), (Some(1), Some(2)));
    let verdict = Verdict::Accepted;
    assert_eq!(opener.on(Frame::Control(reply(2))), Ok(OpenerEvent::Reply(2, verdict)));
    assert_eq!(opener.on(Frame::Datagram(1, b"x")), Ok(OpenerEvent::Datagram(1, b"x")));
    assert_eq!(opener.on(Frame::Control(reset(2))), Ok(OpenerEvent::Ended(2)));
    assert_eq!(opener.on(Frame::Control(reset(3))), Err(Error::Unknown(3)));
    assert_eq!(opener.on(Frame::Control(reset(1 << 32 | 1))), Err(Error::Unknown(1 << 32 | 1)));
    for frame in [open(3), Control::Fin, Control::Cancel(1)] {
        let kind = frame.kind();
        assert_eq!(opener.on(Frame::Control(frame)), Err(Error::Illegal(kind)));
    }
    assert_eq!(opener.on(Frame::Control(Control::Drain)), Ok(OpenerEvent::Drain));
}

#[test]
fn numbers_are_used_up_once() {
    let mut opener = Opener { ready: true, last: u32::MAX - 1 };
    assert_eq!((opener.open(), opener.open()), (Some(u32::MAX), None));
}

#[test]
fn the_acceptor_takes_rising_numbers_and_words_about_what_began() {
    let mut acceptor = Acceptor::default();
    assert_eq!(acceptor.on(Frame::Datagram(1, b"x")), Err(Error::Unknown(1)));
    assert_eq!(acceptor.on(Frame::Control(open(0))), Err(Error::Number(0)));
    assert!(matches!(acceptor.on(Frame::Control(open(5))), Ok(AcceptorEvent::Open(5, _))));
    for number in [5, 4, 1 << 32] {
        assert_eq!(acceptor.on(Frame::Control(open(number))), Err(Error::Number(number)));
    }
    assert_eq!(acceptor.on(Frame::Datagram(5, b"")), Ok(AcceptorEvent::Datagram(5, b"")));
    assert_eq!(acceptor.on(Frame::Datagram(3, b"")), Ok(AcceptorEvent::Datagram(3, b"")), "late");
    assert_eq!(acceptor.on(Frame::Control(reset(5))), Ok(AcceptorEvent::Ended(5)));
    assert_eq!(acceptor.on(Frame::Control(reset(6))), Err(Error::Unknown(6)));
    for frame in [ready(), reply(5), Control::Fin, Control::Cancel(5), Control::Drain] {
        let kind = frame.kind();
        assert_eq!(acceptor.on(Frame::Control(frame)), Err(Error::Illegal(kind)));
    }
}
