//! The messages between replicas of one cluster (`portolan-sibling/1`): who lives, and which
//! ports each has open.
//!
//! Every message is one [`Envelope`], encoded by prost and preceded by its length as a varint.
//! Both sides begin with [`Hello`]; then the acceptor tells its [`State`], again whenever it
//! changed, and answers each [`Ping`] with a [`Pong`] of its number. Ports travel as bits, so that
//! all of a protocol are at most 8 KiB and none can be named that does not exist.
//!
//! Invariants: tags are never used twice and never change their meaning; what is not known is
//! skipped; a message over [`MAX_MESSAGE_BYTES`] is refused before it is buffered.
//! Not here: when a replica counts as silent (`siblings`), sockets.

use bytes::BytesMut;
use prost::Message;
use thiserror::Error;

use super::delimited::Delimited;
use crate::model::{PortNumber, Protocol};

/// The oldest protocol version we speak.
pub const PROTOCOL_MIN: u32 = 1;
/// The newest protocol version we speak.
pub const PROTOCOL_MAX: u32 = 1;
/// The largest message that is read.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Octets of the bits of all ports, 0 to 65535.
const MAX_BITS_BYTES: usize = 8 * 1024;

/// One message on the wire.
#[derive(Clone, PartialEq, Message)]
pub struct Envelope {
    /// What it says; absent when the sender is newer than we are.
    #[prost(oneof = "Body", tags = "1, 2, 3, 4")]
    pub body: Option<Body>,
}

/// What a message says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// Who speaks; the first message both ways.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// How the speaker is.
    #[prost(message, tag = "2")]
    State(State),
    /// Are you there?
    #[prost(message, tag = "3")]
    Ping(Ping),
    /// I am.
    #[prost(message, tag = "4")]
    Pong(Pong),
}

impl Body {
    /// A name for logs and metrics: a closed set.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::State(_) => "state",
            Self::Ping(_) => "ping",
            Self::Pong(_) => "pong",
        }
    }
}

/// Who speaks.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// The oldest protocol version spoken.
    #[prost(uint32, tag = "1")]
    pub protocol_min: u32,
    /// The newest protocol version spoken.
    #[prost(uint32, tag = "2")]
    pub protocol_max: u32,
    /// The speaker's replica id, random per start.
    #[prost(fixed64, tag = "3")]
    pub replica: u64,
    /// The UID of the speaker's pod; empty where it does not know.
    #[prost(string, tag = "4")]
    pub uid: String,
}

/// How a replica is: the whole of it.
#[derive(Clone, PartialEq, Message)]
pub struct State {
    /// The TCP ports that are open, as bits: port n is bit n % 8 (of value 1 << n % 8) of octet
    /// n / 8; zeros at the end are left out.
    #[prost(bytes = "vec", tag = "1")]
    pub tcp: Vec<u8>,
    /// The UDP ports.
    #[prost(bytes = "vec", tag = "2")]
    pub udp: Vec<u8>,
    /// It is about to end: no new clients, please.
    #[prost(bool, tag = "3")]
    pub draining: bool,
}

/// A question for life.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Ping {
    /// Its number on this connection.
    #[prost(uint64, tag = "1")]
    pub number: u64,
}

/// The answer.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Pong {
    /// The number of the question.
    #[prost(uint64, tag = "1")]
    pub number: u64,
}

impl State {
    /// With these ports open. SCTP has no gateway, so none of its ports ever is.
    pub fn new<'a>(
        open: impl IntoIterator<Item = &'a (Protocol, PortNumber)>,
        draining: bool,
    ) -> Self {
        let mut state = Self { draining, ..Self::default() };
        for (protocol, port) in open {
            let bits = match protocol {
                Protocol::Tcp => &mut state.tcp,
                Protocol::Udp => &mut state.udp,
                Protocol::Sctp => continue,
            };
            let octet = usize::from(port.get() / 8);
            if bits.len() <= octet {
                bits.resize(octet + 1, 0);
            }
            bits[octet] |= 1 << (port.get() % 8);
        }
        state
    }

    /// The ports that are open, ascending within each protocol.
    pub fn open(&self) -> Result<impl Iterator<Item = (Protocol, PortNumber)>, BadPorts> {
        let all = [(Protocol::Tcp, &self.tcp), (Protocol::Udp, &self.udp)];
        for (protocol, bits) in all {
            if bits.len() > MAX_BITS_BYTES {
                return Err(BadPorts::TooMany { protocol, octets: bits.len() });
            }
            if bits.first().is_some_and(|first| first & 1 == 1) {
                return Err(BadPorts::Zero(protocol));
            }
        }
        Ok(all.into_iter().flat_map(|(protocol, bits)| {
            (0_u32..).zip(bits.iter()).flat_map(move |(octet, bits)| {
                let set = (0_u32..8).filter(move |bit| bits >> bit & 1 == 1);
                set.filter_map(move |bit| {
                    PortNumber::new(octet * 8 + bit).ok().map(|port| (protocol, port))
                })
            })
        }))
    }
}

/// Why the ports of a [`State`] were refused; the session ends.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadPorts {
    /// More bits than there are ports.
    #[error("a replica names {protocol} ports over 65535 ({octets} octets); is it one of ours?")]
    TooMany {
        /// Of which protocol.
        protocol: Protocol,
        /// So many octets of bits.
        octets: usize,
    },
    /// Port 0.
    #[error("a replica names {0} port 0; is it one of ours?")]
    Zero(Protocol),
}

/// Why bytes were refused; the session ends.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The announced length is over the cap.
    #[error("a message announces more than {MAX_MESSAGE_BYTES} bytes; is the replica one of ours?")]
    TooLong,
    /// The bytes are no message.
    #[error("a message cannot be decoded ({0}); is the replica one of ours?")]
    Malformed(#[source] prost::DecodeError),
}

/// Appends a message, its length before it.
pub fn encode(body: Body, out: &mut BytesMut) {
    let envelope = Envelope { body: Some(body) };
    envelope.encode_length_delimited(out).expect("a growing buffer always has room");
}

/// Cuts a stream of bytes into messages. Memory is bounded by the cap plus one read.
#[derive(Debug, Default)]
pub struct Decoder {
    messages: Delimited,
}

impl Decoder {
    /// Where the next bytes are to be appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.messages.buffer()
    }

    /// Takes the next whole message, if there is one: the inner `None` is one that we do not
    /// know, to be skipped. After an error nothing more can be read.
    pub fn next_message(&mut self) -> Result<Option<Option<Body>>, DecodeError> {
        let next = self.messages.next(MAX_MESSAGE_BYTES).map_err(|_| DecodeError::TooLong)?;
        let Some(raw) = next else { return Ok(None) };
        Ok(Some(Envelope::decode(raw).map_err(DecodeError::Malformed)?.body))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ports(tcp: &[u16], udp: &[u16]) -> BTreeSet<(Protocol, PortNumber)> {
        let of = |protocol, numbers: &[u16]| {
            let number = |n: &u16| PortNumber::new((*n).into()).unwrap();
            numbers.iter().map(|n| (protocol, number(n))).collect::<Vec<_>>()
        };
        of(Protocol::Tcp, tcp).into_iter().chain(of(Protocol::Udp, udp)).collect()
    }

    proptest! {
        #[test]
        fn open_ports_arrive_as_they_were_sent(
            tcp in proptest::collection::vec(1_u16.., 0..50),
            udp in proptest::collection::vec(1_u16.., 0..50),
            draining: bool,
        ) {
            let open = ports(&tcp, &udp);
            let mut bytes = BytesMut::new();
            encode(Body::State(State::new(&open, draining)), &mut bytes);
            let mut decoder = Decoder::default();
            decoder.buffer().extend_from_slice(&bytes);
            let Ok(Some(Some(Body::State(state)))) = decoder.next_message() else {
                panic!("a state")
            };
            prop_assert_eq!(state.draining, draining);
            prop_assert_eq!(state.open().unwrap().collect::<BTreeSet<_>>(), open);
        }

        #[test]
        fn any_bytes_are_refused_or_read_and_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let mut decoder = Decoder::default();
            decoder.buffer().extend_from_slice(&bytes);
            while let Ok(Some(body)) = decoder.next_message() {
                if let Some(Body::State(state)) = body
                    && let Ok(open) = state.open()
                {
                    prop_assert!(open.count() <= 2 * 65_535);
                }
            }
        }
    }

    #[test]
    fn every_port_at_once_fits_in_a_message() {
        let all: Vec<u16> = (1..=u16::MAX).collect();
        let open = ports(&all, &all);
        let mut bytes = BytesMut::new();
        encode(Body::State(State::new(&open, false)), &mut bytes);
        assert!(bytes.len() < MAX_MESSAGE_BYTES / 2, "{}", bytes.len());
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&bytes);
        let Ok(Some(Some(Body::State(state)))) = decoder.next_message() else { panic!("a state") };
        assert_eq!(state.open().unwrap().count(), 2 * 65_535);
    }

    #[test]
    fn ports_that_do_not_exist_are_refused() {
        let zero = State { udp: vec![1], ..State::default() };
        assert_eq!(zero.open().err(), Some(BadPorts::Zero(Protocol::Udp)));
        let beyond = State { tcp: vec![0; MAX_BITS_BYTES + 1], ..State::default() };
        let octets = MAX_BITS_BYTES + 1;
        let refused = BadPorts::TooMany { protocol: Protocol::Tcp, octets };
        assert_eq!(beyond.open().err(), Some(refused));
    }

    #[test]
    fn a_message_over_the_cap_is_refused_before_it_is_buffered() {
        let mut decoder = Decoder::default();
        let mut prefix = BytesMut::new();
        prost::encoding::encode_varint((MAX_MESSAGE_BYTES + 1) as u64, &mut prefix);
        decoder.buffer().extend_from_slice(&prefix);
        assert_eq!(decoder.next_message(), Err(DecodeError::TooLong));
    }

    #[test]
    fn what_a_newer_replica_adds_is_skipped() {
        // An unknown message, then a PING with an unknown field.
        let bytes = [3, 0x4a, 1, 0, 7, 0x1a, 5, 0x08, 9, 0x22, 1, 0];
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&bytes);
        assert_eq!(decoder.next_message(), Ok(Some(None)));
        assert_eq!(decoder.next_message(), Ok(Some(Some(Body::Ping(Ping { number: 9 })))));
        assert_eq!(decoder.next_message(), Ok(None));
    }
}
