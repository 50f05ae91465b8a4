//! What is legal when: one small machine per role and connection, without I/O.
//!
//! Frames are handled in order, so whatever follows the end of stream n (`CANCEL`, `RESET`, a
//! refusal, `FIN` both ways) belongs to n until the next `OPEN` (at the acceptor) or the next
//! `REPLY` (at the opener), and is discarded. A `CANCEL` or `RESET` that names an ended stream
//! crossed its end and is ignored.

use thiserror::Error;

use super::{Control, Kind, Open, Ready, Reply, Reset, ResetReason, Verdict};

/// A frame that the state of the connection does not allow; the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{frame} is illegal while the stream is {state}; update this gateway or the peer")]
pub struct Illegal {
    frame: Frame,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    Payload,
    Control(Kind),
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Payload => f.write_str("payload"),
            Self::Control(kind) => write!(f, "{kind:?}"),
        }
    }
}

/// Where the one stream of a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No stream, or the last one has ended.
    Idle,
    /// `OPEN` sent or received, no `REPLY` yet.
    Opening,
    /// `CANCEL` sent, the end not yet seen (opener only).
    Cancelling,
    /// Accepted.
    Open(Ends),
    /// Reset: nothing more is sent, all that comes is discarded.
    Closing,
}

/// Which directions of an open stream have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Ends {
    sent: bool,
    received: bool,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Opening => "opening",
            Self::Cancelling => "being cancelled",
            Self::Open(_) => "open",
            Self::Closing => "reset",
        })
    }
}

/// What to do with a payload frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// It belongs to the open stream.
    Deliver,
    /// It belongs to a stream that has ended.
    Discard,
}

/// What a received control frame means to the opener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenerEvent {
    /// The acceptor said who it is; from now on the connection is usable as a spare.
    Ready(Ready),
    /// The verdict on the current `OPEN`; after anything but `Accepted` the stream has ended.
    Reply(Verdict),
    /// The acceptor sends no more; the stream has ended if this side has sent `FIN` too.
    Fin,
    /// The current stream ended abnormally; close the connection.
    Reset,
    /// The `CANCEL` is answered; the connection is idle again.
    Cancelled,
    /// Start no new stream to that replica while there is another candidate.
    Drain,
    /// Answer with a `PONG` of this number.
    Ping(u64),
    /// The `PING` of this number is answered.
    Pong(u64),
    /// A late word about a stream that has ended.
    Stale,
}

/// The protocol as the side that opens streams sees it.
#[derive(Debug)]
pub struct Opener {
    state: State,
    ready: Option<Ready>,
    stream: u64,
}

impl Default for Opener {
    fn default() -> Self {
        Self { state: State::Idle, ready: None, stream: 0 }
    }
}

impl Opener {
    /// Who accepted, once it has said so.
    #[must_use]
    pub fn ready(&self) -> Option<Ready> {
        self.ready
    }

    /// Whether an `OPEN` may be sent now.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Whether payload may be sent now.
    #[must_use]
    pub fn may_send(&self) -> bool {
        matches!(self.state, State::Open(Ends { sent: false, .. }))
    }

    /// Begins a stream: the number for its `OPEN`; `None` unless idle.
    #[must_use]
    pub fn open(&mut self) -> Option<u64> {
        if self.state != State::Idle {
            return None;
        }
        self.stream += 1;
        self.state = State::Opening;
        Some(self.stream)
    }

    /// Gives the stream up before its `REPLY`: the `CANCEL` to send; `None` if it is not asked
    /// for, or answered already.
    #[must_use]
    pub fn cancel(&mut self) -> Option<Control> {
        if self.state != State::Opening {
            return None;
        }
        self.state = State::Cancelling;
        Some(Control::Cancel(self.stream))
    }

    /// Ends our direction: the `FIN` to send; `None` unless the stream is open and unended.
    #[must_use]
    pub fn fin(&mut self) -> Option<Control> {
        fin(&mut self.state)
    }

    /// Ends the stream abnormally: the `RESET` to send; `None` if there is none.
    #[must_use]
    pub fn reset(&mut self) -> Option<Control> {
        reset(&mut self.state, self.stream)
    }

    /// What a received payload frame is.
    pub fn on_payload(&self) -> Result<Payload, Illegal> {
        let earlier = match self.state {
            State::Opening => self.stream > 1,
            _ => self.stream > 0,
        };
        on_payload(self.state, self.ready.is_some() && earlier)
    }

    /// What a received control frame means.
    pub fn on_control(&mut self, frame: &Control) -> Result<OpenerEvent, Illegal> {
        let illegal = Illegal { frame: Frame::Control(frame.kind()), state: self.state };
        if let Control::Ready(ready) = frame {
            let first = self.ready.replace(*ready).is_none();
            return if first { Ok(OpenerEvent::Ready(*ready)) } else { Err(illegal) };
        }
        if self.ready.is_none() {
            return Err(illegal);
        }
        match frame {
            Control::Ping(number) => Ok(OpenerEvent::Ping(*number)),
            Control::Pong(number) => Ok(OpenerEvent::Pong(*number)),
            Control::Drain => Ok(OpenerEvent::Drain),
            Control::Reply(reply) => self.on_reply(*reply).ok_or(illegal),
            Control::Reset(reset) => self.on_reset(*reset).ok_or(illegal),
            Control::Fin => match self.on_payload() {
                Ok(Payload::Discard) => Ok(OpenerEvent::Stale),
                _ => on_fin(&mut self.state).map(|()| OpenerEvent::Fin).ok_or(illegal),
            },
            Control::Ready(_) | Control::Open(_) | Control::Cancel(_) => Err(illegal),
        }
    }

    fn on_reply(&mut self, reply: Reply) -> Option<OpenerEvent> {
        let accepted = reply.verdict == Verdict::Accepted;
        match self.state {
            State::Closing => Some(OpenerEvent::Stale),
            _ if reply.stream != self.stream => None,
            State::Opening => {
                self.state = if accepted { State::Open(Ends::default()) } else { State::Idle };
                Some(OpenerEvent::Reply(reply.verdict))
            }
            // It crossed our CANCEL; only a refusal ends the stream.
            State::Cancelling if accepted => Some(OpenerEvent::Stale),
            State::Cancelling => {
                self.state = State::Idle;
                Some(OpenerEvent::Cancelled)
            }
            State::Idle | State::Open(_) => None,
        }
    }

    fn on_reset(&mut self, reset: Reset) -> Option<OpenerEvent> {
        match self.state {
            State::Closing => Some(OpenerEvent::Stale),
            _ if reset.stream > self.stream || reset.stream == 0 => None,
            State::Idle => Some(OpenerEvent::Stale),
            _ if reset.stream < self.stream => Some(OpenerEvent::Stale),
            State::Cancelling if reset.reason == ResetReason::Cancelled => {
                self.state = State::Idle;
                Some(OpenerEvent::Cancelled)
            }
            State::Opening | State::Cancelling | State::Open(_) => {
                self.state = State::Closing;
                Some(OpenerEvent::Reset)
            }
        }
    }
}

/// What a received control frame means to the acceptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcceptorEvent {
    /// A stream is asked for.
    Open(Box<Open>),
    /// The current stream is no longer wanted: drop the backend and send this `RESET`; the
    /// connection is idle again.
    Cancelled(Reset),
    /// The opener sends no more; the stream has ended if this side has sent `FIN` too.
    Fin,
    /// The current stream ended abnormally; close the connection.
    Reset,
    /// Answer with a `PONG` of this number.
    Ping(u64),
    /// The `PING` of this number is answered.
    Pong(u64),
    /// A late word about a stream that has ended.
    Stale,
}

/// The protocol as the side that serves streams sees it. Its first frame is `READY`.
#[derive(Debug)]
pub struct Acceptor {
    state: State,
    stream: u64,
    /// The current `OPEN` said that payload comes before its `REPLY`.
    early: bool,
}

impl Default for Acceptor {
    fn default() -> Self {
        Self { state: State::Idle, stream: 0, early: false }
    }
}

impl Acceptor {
    /// Whether no stream is asked for or open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Whether payload may be sent now.
    #[must_use]
    pub fn may_send(&self) -> bool {
        matches!(self.state, State::Open(Ends { sent: false, .. }))
    }

    /// Answers the current `OPEN`: the `REPLY` to send; `None` if none waits for one.
    #[must_use]
    pub fn reply(&mut self, verdict: Verdict) -> Option<Control> {
        if self.state != State::Opening {
            return None;
        }
        let accepted = verdict == Verdict::Accepted;
        self.state = if accepted { State::Open(Ends::default()) } else { State::Idle };
        Some(Control::Reply(Reply { stream: self.stream, verdict }))
    }

    /// Ends our direction: the `FIN` to send; `None` unless the stream is open and unended.
    #[must_use]
    pub fn fin(&mut self) -> Option<Control> {
        fin(&mut self.state)
    }

    /// Ends the stream abnormally: the `RESET` to send; `None` if there is none.
    #[must_use]
    pub fn reset(&mut self) -> Option<Control> {
        reset(&mut self.state, self.stream)
    }

    /// What a received payload frame is. How much comes before the `REPLY` is for the caller to
    /// limit.
    pub fn on_payload(&self) -> Result<Payload, Illegal> {
        if self.state == State::Opening && self.early {
            return Ok(Payload::Deliver);
        }
        let earlier = self.stream > 0 && self.state != State::Opening;
        on_payload(self.state, earlier)
    }

    /// What a received control frame means.
    pub fn on_control(&mut self, frame: Control) -> Result<AcceptorEvent, Illegal> {
        let illegal = Illegal { frame: Frame::Control(frame.kind()), state: self.state };
        match frame {
            Control::Ping(number) => Ok(AcceptorEvent::Ping(number)),
            Control::Pong(number) => Ok(AcceptorEvent::Pong(number)),
            Control::Open(open) => self.on_open(open).ok_or(illegal),
            Control::Cancel(stream) => self.on_cancel(stream).ok_or(illegal),
            Control::Reset(reset) => match self.on_end(reset.stream).ok_or(illegal)? {
                Late::Yes => Ok(AcceptorEvent::Stale),
                Late::No => {
                    self.state = State::Closing;
                    Ok(AcceptorEvent::Reset)
                }
            },
            Control::Fin => match self.on_payload() {
                Ok(Payload::Discard) => Ok(AcceptorEvent::Stale),
                _ => on_fin(&mut self.state).map(|()| AcceptorEvent::Fin).ok_or(illegal),
            },
            Control::Ready(_) | Control::Reply(_) | Control::Drain => Err(illegal),
        }
    }

    fn on_open(&mut self, open: Open) -> Option<AcceptorEvent> {
        match self.state {
            State::Closing => Some(AcceptorEvent::Stale),
            State::Idle if open.stream > self.stream => {
                self.stream = open.stream;
                self.early = open.early;
                self.state = State::Opening;
                Some(AcceptorEvent::Open(Box::new(open)))
            }
            _ => None,
        }
    }

    fn on_cancel(&mut self, stream: u64) -> Option<AcceptorEvent> {
        match self.on_end(stream)? {
            Late::Yes => Some(AcceptorEvent::Stale),
            Late::No => {
                self.state = State::Idle;
                let reason = ResetReason::Cancelled;
                Some(AcceptorEvent::Cancelled(Reset { stream, reason }))
            }
        }
    }

    /// Whether a word that ends `stream` came after its end; `None` if it never began.
    fn on_end(&self, stream: u64) -> Option<Late> {
        match self.state {
            State::Closing => Some(Late::Yes),
            _ if stream > self.stream || stream == 0 => None,
            State::Idle => Some(Late::Yes),
            _ if stream < self.stream => Some(Late::Yes),
            _ => Some(Late::No),
        }
    }
}

/// Whether a word about a stream came after the stream's end.
enum Late {
    Yes,
    No,
}

fn fin(state: &mut State) -> Option<Control> {
    match state {
        State::Open(ends) if !ends.sent => {
            ends.sent = true;
            if ends.received {
                *state = State::Idle;
            }
            Some(Control::Fin)
        }
        _ => None,
    }
}

fn on_fin(state: &mut State) -> Option<()> {
    match state {
        State::Open(ends) if !ends.received => {
            ends.received = true;
            if ends.sent {
                *state = State::Idle;
            }
            Some(())
        }
        _ => None,
    }
}

fn reset(state: &mut State, stream: u64) -> Option<Control> {
    if matches!(state, State::Idle | State::Closing) {
        return None;
    }
    *state = State::Closing;
    Some(Control::Reset(Reset { stream, reason: ResetReason::Aborted }))
}

fn on_payload(state: State, earlier: bool) -> Result<Payload, Illegal> {
    match state {
        State::Open(Ends { received: false, .. }) => Ok(Payload::Deliver),
        State::Closing | State::Cancelling => Ok(Payload::Discard),
        State::Idle | State::Opening if earlier => Ok(Payload::Discard),
        _ => Err(Illegal { frame: Frame::Payload, state }),
    }
}
