//! Frames of data connections (`portolan-data/1`): one stream at a time on each connection.
//!
//! A frame begins with one big-endian 32-bit word. Top bit 0: that many payload octets follow, 1
//! to [`MAX_PAYLOAD`], so that word and payload fill whole TLS records. Top bit 1: a control
//! frame, 7 bits of kind and 24 bits of body length, at most [`MAX_BODY`]. Bodies are protobuf, so
//! unknown fields are skipped; unknown kinds from [`FIRST_SKIPPED_KIND`] on are skipped whole,
//! smaller ones are an error.
//!
//! Invariants: what [`Header::parse`] accepts is within its caps; [`Opener`] and [`Acceptor`]
//! decide, without I/O, which frame is legal when, and which one is a late word about a stream
//! that has ended and is to be discarded.

mod body;
mod protocol;
#[cfg(test)]
mod tests;

pub use body::{Asked, Client, Open, Ready, Reply, Reset, ResetReason, Verdict};
pub use protocol::{Acceptor, AcceptorEvent, Illegal, Opener, OpenerEvent, Payload};

use thiserror::Error;

/// Octets of the word that begins every frame.
pub const HEADER_OCTETS: usize = 4;
/// Most payload octets in one frame: with its word exactly four TLS records of 16 KiB.
pub const MAX_PAYLOAD: usize = 4 * 16_384 - HEADER_OCTETS;
/// Most payload octets that an opener may send before the `REPLY`, where its `OPEN` says that it
/// does: one TLS record.
pub const MAX_EARLY: usize = 16_384 - HEADER_OCTETS;
/// Most octets in the body of a control frame.
pub const MAX_BODY: usize = 4 * 1024;
/// Unknown kinds from here on are skipped, so that later versions can add some.
pub const FIRST_SKIPPED_KIND: u8 = 64;

const CONTROL_BIT: u32 = 1 << 31;

/// The control frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The acceptor's first frame: who it is.
    Ready = 1,
    /// The opener asks for a stream.
    Open = 2,
    /// The acceptor's verdict on an `OPEN`.
    Reply = 3,
    /// No more payload from this side.
    Fin = 4,
    /// The stream ended abnormally.
    Reset = 5,
    /// The opener no longer wants the stream it asked for.
    Cancel = 6,
    /// Asks for a `PONG`.
    Ping = 7,
    /// Answers a `PING`.
    Pong = 8,
    /// The acceptor asks for no new streams.
    Drain = 9,
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Ready,
            2 => Self::Open,
            3 => Self::Reply,
            4 => Self::Fin,
            5 => Self::Reset,
            6 => Self::Cancel,
            7 => Self::Ping,
            8 => Self::Pong,
            9 => Self::Drain,
            _ => return None,
        })
    }
}

/// Why bytes were refused; the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// A payload frame of no octets or too many.
    #[error("payload frame of {0} octets; 1 to {MAX_PAYLOAD} are allowed, update the peer")]
    PayloadLength(usize),
    /// A control body over its cap.
    #[error("control frame with a body of {0} octets; at most {MAX_BODY} are allowed")]
    BodyLength(usize),
    /// A kind that this version must know and does not.
    #[error("control frame of unknown kind {0}; update this gateway or the peer")]
    Kind(u8),
    /// A body that does not parse.
    #[error("the body of a {0:?} frame does not parse")]
    Body(Kind),
}

/// The word that begins a frame, checked against every cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// So many payload octets follow.
    Payload(usize),
    /// A control frame with a body of so many octets.
    Control(Kind, usize),
    /// A control frame of a later version: read over so many octets.
    Skip(usize),
}

impl Header {
    /// Reads the word.
    pub fn parse(word: [u8; HEADER_OCTETS]) -> Result<Self, Error> {
        let word = u32::from_be_bytes(word);
        if word & CONTROL_BIT == 0 {
            let length = word as usize;
            return if (1..=MAX_PAYLOAD).contains(&length) {
                Ok(Self::Payload(length))
            } else {
                Err(Error::PayloadLength(length))
            };
        }
        let [kind, ..] = (word & !CONTROL_BIT).to_be_bytes();
        let length = (word & 0x00ff_ffff) as usize;
        match Kind::from_code(kind) {
            None if kind < FIRST_SKIPPED_KIND => Err(Error::Kind(kind)),
            _ if length > MAX_BODY => Err(Error::BodyLength(length)),
            Some(kind) => Ok(Self::Control(kind, length)),
            None => Ok(Self::Skip(length)),
        }
    }

    /// The word of a payload frame of `length` octets, which the caller keeps within
    /// [`MAX_PAYLOAD`].
    #[must_use]
    pub fn payload(length: usize) -> [u8; HEADER_OCTETS] {
        debug_assert!((1..=MAX_PAYLOAD).contains(&length), "caller's chunk is within the cap");
        u32::try_from(length).unwrap_or(0).to_be_bytes()
    }
}

/// A control frame with its body read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// See [`Kind::Ready`].
    Ready(Ready),
    /// See [`Kind::Open`].
    Open(Open),
    /// See [`Kind::Reply`].
    Reply(Reply),
    /// See [`Kind::Fin`].
    Fin,
    /// See [`Kind::Reset`].
    Reset(Reset),
    /// See [`Kind::Cancel`]; the stream's number.
    Cancel(u64),
    /// See [`Kind::Ping`]; its number comes back in the `PONG`.
    Ping(u64),
    /// See [`Kind::Pong`].
    Pong(u64),
    /// See [`Kind::Drain`].
    Drain,
}

impl Control {
    /// Which frame it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Ready(_) => Kind::Ready,
            Self::Open(_) => Kind::Open,
            Self::Reply(_) => Kind::Reply,
            Self::Fin => Kind::Fin,
            Self::Reset(_) => Kind::Reset,
            Self::Cancel(_) => Kind::Cancel,
            Self::Ping(_) => Kind::Ping,
            Self::Pong(_) => Kind::Pong,
            Self::Drain => Kind::Drain,
        }
    }

    /// Reads the body of a frame of this kind; `None` where it does not parse.
    fn from_body(kind: Kind, octets: &[u8]) -> Option<Self> {
        Some(match kind {
            Kind::Ready => Self::Ready(Ready::decode(octets)?),
            Kind::Open => Self::Open(Open::decode(octets)?),
            Kind::Reply => Self::Reply(Reply::decode(octets)?),
            Kind::Fin => Self::Fin,
            Kind::Reset => Self::Reset(Reset::decode(octets)?),
            Kind::Cancel => Self::Cancel(body::decode_number(octets)?),
            Kind::Ping => Self::Ping(body::decode_number(octets)?),
            Kind::Pong => Self::Pong(body::decode_number(octets)?),
            Kind::Drain => Self::Drain,
        })
    }

    /// Reads the body of a frame of this kind.
    pub fn decode(kind: Kind, octets: &[u8]) -> Result<Self, Error> {
        Self::from_body(kind, octets).ok_or(Error::Body(kind))
    }

    /// Appends the whole frame. Its own bodies are far below the cap: names are at most 191
    /// octets and the fields an importing cluster vouches for are cut where they are made.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_OCTETS]);
        match self {
            Self::Ready(ready) => ready.encode(out),
            Self::Open(open) => open.encode(out),
            Self::Reply(reply) => reply.encode(out),
            Self::Reset(reset) => reset.encode(out),
            Self::Cancel(number) | Self::Ping(number) | Self::Pong(number) => {
                body::encode_number(*number, out);
            }
            Self::Fin | Self::Drain => {}
        }
        let length = out.len() - start - HEADER_OCTETS;
        debug_assert!(length <= MAX_BODY, "own bodies are within the cap");
        let word = CONTROL_BIT | (self.kind() as u32) << 24 | u32::try_from(length).unwrap_or(0);
        out[start..start + HEADER_OCTETS].copy_from_slice(&word.to_be_bytes());
    }
}
