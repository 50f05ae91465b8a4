//! Frames of datagram connections (`portolan-udp/1`): many sessions on each connection.
//!
//! Framed like data connections ([`frame`]): a payload frame is a session's number (4 octets,
//! big-endian, not 0) and one whole datagram of at most [`MAX_DATAGRAM`] octets. Of the control
//! frames `READY`, `OPEN`, `REPLY`, `RESET`, `PING`, `PONG` and `DRAIN` are legal; the stream they
//! name is the session. Datagrams follow an accepting `REPLY`; either side ends a session with
//! `RESET`.
//!
//! Invariants: what [`next`] accepts is within its caps; [`Opener`] and [`Acceptor`] decide,
//! without I/O, what is legal when. Whether a session that once began still lives is not known
//! here: words about one that has ended are legal and late.

#[cfg(test)]
mod tests;

use thiserror::Error;

use super::frame::{
    self, Control, HEADER_OCTETS, Header, Kind, MAX_PAYLOAD, Open, Ready, Reply, Verdict,
};

/// Octets of a session's number.
pub const SESSION_OCTETS: usize = 4;
/// Most octets of one datagram: what IPv4 can carry.
pub const MAX_DATAGRAM: usize = 65_507;
/// Most octets of one frame.
pub const MAX_FRAME: usize = HEADER_OCTETS + SESSION_OCTETS + MAX_DATAGRAM;

const _: () = assert!(SESSION_OCTETS + MAX_DATAGRAM <= MAX_PAYLOAD);

/// Why octets were refused; the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// They are no frame.
    #[error(transparent)]
    Frame(#[from] frame::Error),
    /// A payload frame without a session, or with more than a datagram holds.
    #[error(
        "payload frame of {0} octets; a session's number and at most {MAX_DATAGRAM} are allowed, update the peer"
    )]
    Datagram(usize),
    /// A frame that is not legal here or now.
    #[error("a {0:?} frame is not legal on a datagram connection in this state")]
    Illegal(Kind),
    /// A word about a session that never began.
    #[error("session {0} never began")]
    Unknown(u64),
    /// A session that began already, or has no number.
    #[error("session {0} does not follow the ones before it")]
    Number(u64),
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// One datagram of a session.
    Datagram(u32, &'a [u8]),
    /// A control frame.
    Control(Control),
    /// A frame of a later version, read over.
    Skipped,
}

/// The first frame in `octets`, and how many of them it took; `None`: more must come.
pub fn next(octets: &[u8]) -> Result<Option<(Frame<'_>, usize)>, Error> {
    let Some((word, rest)) = octets.split_first_chunk::<HEADER_OCTETS>() else { return Ok(None) };
    let header = Header::parse(*word)?;
    let (Header::Payload(length) | Header::Control(_, length) | Header::Skip(length)) = header;
    if let Header::Payload(length) = header
        && !(SESSION_OCTETS..=SESSION_OCTETS + MAX_DATAGRAM).contains(&length)
    {
        return Err(Error::Datagram(length));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let frame = match header {
        Header::Payload(length) => match body.split_first_chunk::<SESSION_OCTETS>() {
            Some((session, datagram)) => Frame::Datagram(u32::from_be_bytes(*session), datagram),
            None => return Err(Error::Datagram(length)),
        },
        Header::Control(kind, _) => Frame::Control(Control::decode(kind, body)?),
        Header::Skip(_) => Frame::Skipped,
    };
    Ok(Some((frame, HEADER_OCTETS + length)))
}

/// Octets of a datagram's frame.
#[must_use]
pub fn frame_octets(datagram: &[u8]) -> usize {
    HEADER_OCTETS + SESSION_OCTETS + datagram.len()
}

/// Appends the frame of a datagram, which the caller keeps within [`MAX_DATAGRAM`].
pub fn encode(session: u32, datagram: &[u8], out: &mut Vec<u8>) {
    out.reserve(frame_octets(datagram));
    out.extend_from_slice(&Header::payload(SESSION_OCTETS + datagram.len()));
    out.extend_from_slice(&session.to_be_bytes());
    out.extend_from_slice(datagram);
}

/// What the opener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenerEvent<'a> {
    /// The acceptor said who it is.
    Ready(Ready),
    /// The verdict on a session.
    Reply(u32, Verdict),
    /// One datagram.
    Datagram(u32, &'a [u8]),
    /// The session has ended.
    Ended(u32),
    /// No new sessions, please.
    Drain,
    /// To be answered.
    Ping(u64),
    /// Nothing to act on.
    Nothing,
}

/// The side that opens sessions.
#[derive(Debug, Default)]
pub struct Opener {
    ready: bool,
    last: u32,
}

impl Opener {
    /// The number of a new session; `None` before `READY` and once all are used up.
    #[must_use]
    pub fn open(&mut self) -> Option<u32> {
        if !self.ready {
            return None;
        }
        self.last = self.last.checked_add(1)?;
        Some(self.last)
    }

    /// What a received frame means.
    pub fn on<'a>(&mut self, frame: Frame<'a>) -> Result<OpenerEvent<'a>, Error> {
        let control = match frame {
            Frame::Skipped => return Ok(OpenerEvent::Nothing),
            Frame::Datagram(session, datagram) => {
                return Ok(OpenerEvent::Datagram(self.begun(session.into())?, datagram));
            }
            Frame::Control(control) => control,
        };
        let kind = control.kind();
        Ok(match control {
            Control::Ready(ready) if !self.ready => {
                self.ready = true;
                OpenerEvent::Ready(ready)
            }
            _ if !self.ready => return Err(Error::Illegal(kind)),
            Control::Reply(Reply { stream, verdict }) => {
                OpenerEvent::Reply(self.begun(stream)?, verdict)
            }
            Control::Reset(reset) => OpenerEvent::Ended(self.begun(reset.stream)?),
            Control::Drain => OpenerEvent::Drain,
            Control::Ping(number) => OpenerEvent::Ping(number),
            Control::Pong(_) => OpenerEvent::Nothing,
            Control::Ready(_) | Control::Open(_) | Control::Fin | Control::Cancel(_) => {
                return Err(Error::Illegal(kind));
            }
        })
    }

    fn begun(&self, session: u64) -> Result<u32, Error> {
        begun(session, self.last)
    }
}

/// What the acceptor hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcceptorEvent<'a> {
    /// A session of this number is asked for.
    Open(u32, Box<Open>),
    /// One datagram.
    Datagram(u32, &'a [u8]),
    /// The session has ended.
    Ended(u32),
    /// To be answered.
    Ping(u64),
    /// Nothing to act on.
    Nothing,
}

/// The side that accepts sessions.
#[derive(Debug, Default)]
pub struct Acceptor {
    last: u32,
}

impl Acceptor {
    /// What a received frame means.
    pub fn on<'a>(&mut self, frame: Frame<'a>) -> Result<AcceptorEvent<'a>, Error> {
        let control = match frame {
            Frame::Skipped => return Ok(AcceptorEvent::Nothing),
            Frame::Datagram(session, datagram) => {
                let session = begun(session.into(), self.last)?;
                return Ok(AcceptorEvent::Datagram(session, datagram));
            }
            Frame::Control(control) => control,
        };
        let kind = control.kind();
        Ok(match control {
            Control::Open(open) => {
                let rises = |number: &u32| *number > self.last;
                let number = u32::try_from(open.stream).ok().filter(rises);
                self.last = number.ok_or(Error::Number(open.stream))?;
                AcceptorEvent::Open(self.last, Box::new(open))
            }
            Control::Reset(reset) => AcceptorEvent::Ended(begun(reset.stream, self.last)?),
            Control::Ping(number) => AcceptorEvent::Ping(number),
            Control::Pong(_) => AcceptorEvent::Nothing,
            Control::Ready(_)
            | Control::Reply(_)
            | Control::Fin
            | Control::Cancel(_)
            | Control::Drain => return Err(Error::Illegal(kind)),
        })
    }
}

fn begun(session: u64, last: u32) -> Result<u32, Error> {
    let was = |number: &u32| *number > 0 && *number <= last;
    u32::try_from(session).ok().filter(was).ok_or(Error::Unknown(session))
}
