//! Frames of data connections.
//!
//! An input of `frames` is: one octet whose lowest bit says who we are (0 acceptor, 1 opener),
//! one octet n, n octets of what we do after each frame (see [`Ours`]), then what the peer sends.
//! An input of `crossing` is a list of steps, an octet each: who acts, and how.

use std::collections::VecDeque;

use crate::model::ReplicaId;
use crate::testing::wire::open;
use crate::wire::frame::{
    Acceptor, AcceptorEvent, Control, HEADER_OCTETS, Header, Kind, MAX_BODY, MAX_PAYLOAD, Opener,
    OpenerEvent, Payload, Ready, Verdict,
};

/// What a peer sends, frame by frame, to one of our two ends.
pub(super) fn from_peer(input: &[u8]) {
    let [role, count, rest @ ..] = input else { return };
    let (ours, octets) = rest.split_at(usize::from(*count).min(rest.len()));
    let mut end = if role & 1 == 0 { End::acceptor() } else { End::opener() };
    let mut ours = ours.iter().copied().cycle();
    let mut rest = octets;
    while let Some((word, after)) = rest.split_first_chunk::<HEADER_OCTETS>() {
        let Ok(header) = Header::parse(*word) else { return };
        let (Header::Payload(length) | Header::Control(_, length) | Header::Skip(length)) = header;
        let most = if matches!(header, Header::Payload(_)) { MAX_PAYLOAD } else { MAX_BODY };
        assert!(length <= most, "{header:?} is over its cap");
        let Some((body, after)) = after.split_at_checked(length) else { return };
        rest = after;
        let taken = match header {
            Header::Payload(_) => end.payload().map(|_| ()),
            Header::Control(kind, _) => match decode(kind, body) {
                Some(frame) => end.control(frame).map(|_| ()),
                None => return,
            },
            Header::Skip(_) => Ok(()),
        };
        if taken.is_err() {
            return;
        }
        if let Some(action) = ours.next() {
            let _sent = end.act(action);
        }
    }
}

/// Reads a body; what can be read can be written, within the cap, and is read as the same.
fn decode(kind: Kind, body: &[u8]) -> Option<Control> {
    let frame = Control::decode(kind, body).ok()?;
    assert_eq!(frame.kind(), kind);
    let mut written = Vec::new();
    frame.encode(&mut written);
    let (word, again) = written.split_first_chunk().expect("a frame begins with its word");
    assert!(again.len() <= MAX_BODY, "{frame:?} takes {} octets", again.len());
    assert_eq!(Header::parse(*word), Ok(Header::Control(kind, again.len())));
    assert_eq!(Control::decode(kind, again).as_ref(), Ok(&frame));
    Some(frame)
}

/// A peer sent what the state does not allow: the connection is closed.
struct Refused;

/// One of our ends of a connection.
enum End {
    Acceptor(Acceptor),
    Opener(Opener),
}

impl End {
    fn acceptor() -> Self {
        Self::Acceptor(Acceptor::default())
    }

    fn opener() -> Self {
        Self::Opener(Opener::default())
    }

    fn payload(&self) -> Result<Payload, Refused> {
        let (payload, may_be_idle) = match self {
            Self::Acceptor(end) => (end.on_payload(), end.is_idle()),
            Self::Opener(end) => (end.on_payload(), end.is_idle()),
        };
        let payload = payload.map_err(|_| Refused)?;
        assert!(!(may_be_idle && payload == Payload::Deliver), "payload for no stream");
        Ok(payload)
    }

    /// Takes a frame; what is to be sent at once. What an event says must be so afterwards.
    fn control(&mut self, frame: Control) -> Result<Option<Control>, Refused> {
        match self {
            Self::Acceptor(end) => {
                let event = end.on_control(frame).map_err(|_| Refused)?;
                match event {
                    AcceptorEvent::Open(_) => assert!(!end.is_idle() && !end.may_send()),
                    AcceptorEvent::Cancelled(reset) => {
                        assert!(end.is_idle() && end.reset().is_none());
                        return Ok(Some(Control::Reset(reset)));
                    }
                    AcceptorEvent::Reset => {
                        assert!(!end.is_idle() && !end.may_send() && end.fin().is_none());
                    }
                    AcceptorEvent::Ping(number) => return Ok(Some(Control::Pong(number))),
                    AcceptorEvent::Fin | AcceptorEvent::Pong(_) | AcceptorEvent::Stale => {}
                }
            }
            Self::Opener(end) => match end.on_control(&frame).map_err(|_| Refused)? {
                OpenerEvent::Ready(ready) => assert_eq!(end.ready(), Some(ready)),
                OpenerEvent::Reply(Verdict::Accepted) => assert!(end.may_send()),
                OpenerEvent::Reply(_) | OpenerEvent::Cancelled => {
                    assert!(end.is_idle() && end.reset().is_none());
                }
                OpenerEvent::Reset => assert!(!end.is_idle() && !end.may_send()),
                OpenerEvent::Ping(number) => return Ok(Some(Control::Pong(number))),
                OpenerEvent::Fin
                | OpenerEvent::Drain
                | OpenerEvent::Pong(_)
                | OpenerEvent::Stale => {}
            },
        }
        Ok(None)
    }

    /// Does one of the things that this side may do, if it may do it now.
    fn act(&mut self, action: u8) -> Option<Control> {
        match (self, action % 6) {
            (Self::Acceptor(end), 0) => end.reply(Verdict::Accepted),
            (Self::Acceptor(end), 1) => end.reply(Verdict::NoEndpoint),
            (Self::Acceptor(end), 2) => end.fin(),
            (Self::Acceptor(end), 3) => end.reset(),
            (Self::Acceptor(_), 4) => Some(Control::Drain),
            (Self::Opener(end), 0) => {
                // Nothing is asked for before `READY` in these tests.
                end.ready()?;
                end.open().map(|stream| open(stream, "shop/web", 80))
            }
            (Self::Opener(end), 1) => end.cancel(),
            (Self::Opener(end), 2) => end.fin(),
            (Self::Opener(end), 3) => end.reset(),
            (Self::Opener(_), 4) => Some(Control::Ping(7)),
            _ => None,
        }
    }

    fn may_send(&self) -> bool {
        match self {
            Self::Acceptor(end) => end.may_send(),
            Self::Opener(end) => end.may_send(),
        }
    }
}

/// What is under way: payload carries the number of its stream.
enum Item {
    Payload(u64),
    Control(Control),
}

/// One end with what it has been sent and not yet read.
struct Side {
    end: End,
    inbox: VecDeque<Item>,
    /// The stream it is at.
    stream: u64,
}

impl Side {
    fn new(end: End) -> Self {
        Self { end, inbox: VecDeque::new(), stream: 0 }
    }
}

/// Two sound ends, whose frames cross in every way: neither ever finds the other out of place,
/// and no stream is given another's payload.
pub(super) fn crossing(input: &[u8]) {
    let mut opener = Side::new(End::opener());
    let mut acceptor = Side::new(End::acceptor());
    let ready = Ready { replica: ReplicaId::from_u64(1) };
    opener.inbox.push_back(Item::Control(Control::Ready(ready)));
    for step in input {
        let (who, action) = (step & 3, step >> 2);
        let (side, other) = match who & 1 {
            0 => (&mut opener, &mut acceptor),
            _ => (&mut acceptor, &mut opener),
        };
        if who < 2 { act(side, other, action) } else { deliver(side, other) }
    }
    while !(opener.inbox.is_empty() && acceptor.inbox.is_empty()) {
        deliver(&mut opener, &mut acceptor);
        deliver(&mut acceptor, &mut opener);
    }
}

fn act(side: &mut Side, other: &mut Side, action: u8) {
    if action % 6 == 5 {
        if side.end.may_send() {
            other.inbox.push_back(Item::Payload(side.stream));
        }
        return;
    }
    if let Some(frame) = side.end.act(action) {
        if let Control::Open(open) = &frame {
            side.stream = open.stream;
        }
        other.inbox.push_back(Item::Control(frame));
    }
}

fn deliver(side: &mut Side, other: &mut Side) {
    match side.inbox.pop_front() {
        None => {}
        Some(Item::Payload(stream)) => {
            let Ok(payload) = side.end.payload() else { panic!("payload out of place") };
            assert!(payload == Payload::Discard || stream == side.stream, "of another stream");
        }
        Some(Item::Control(frame)) => {
            if let Control::Open(open) = &frame {
                side.stream = open.stream;
            }
            let what = format!("{frame:?}");
            let Ok(answer) = side.end.control(frame) else { panic!("{what} out of place") };
            other.inbox.extend(answer.map(Item::Control));
        }
    }
}
