//! The two roles behind one face, so that connection and pump are written once.

use crate::wire::frame::{
    Acceptor, AcceptorEvent, Control, Illegal, Open, Opener, OpenerEvent, Payload, Reset, Verdict,
};

/// What came, as far as the role's protocol lets it through.
#[derive(Debug)]
pub(super) enum Event {
    /// So many octets of the open stream.
    Payload(usize),
    /// The acceptor said who it is (opener).
    Ready,
    /// A stream is asked for (acceptor).
    Open(Box<Open>),
    /// The verdict on the current `OPEN` (opener).
    Reply(Verdict),
    /// The other side sends no more.
    Fin,
    /// The stream ended abnormally.
    Reset,
    /// The stream was given up before it began; the acceptor answers with this `RESET`.
    Cancelled(Option<Reset>),
    /// No new streams, please (opener).
    Drain,
    /// A `PING` of this number was answered.
    Pong(u64),
    /// To be answered.
    Ping(u64),
    /// About a stream that has ended.
    Stale,
}

/// One side's protocol machine.
pub(super) trait Role: Default + Send + 'static {
    /// Whether a reset after the other side's `FIN` was delivered ends the stream without
    /// resetting the application: a client that has everything need not know.
    const QUIET_AFTER_FIN: bool;
    fn is_idle(&self) -> bool;
    fn on_payload(&self) -> Result<Payload, Illegal>;
    fn on_control(&mut self, frame: Control) -> Result<Event, Illegal>;
    fn fin(&mut self) -> Option<Control>;
    fn reset(&mut self) -> Option<Control>;
}

impl Role for Opener {
    const QUIET_AFTER_FIN: bool = true;

    fn is_idle(&self) -> bool {
        Self::is_idle(self)
    }

    fn on_payload(&self) -> Result<Payload, Illegal> {
        Self::on_payload(self)
    }

    fn on_control(&mut self, frame: Control) -> Result<Event, Illegal> {
        Ok(match Self::on_control(self, &frame)? {
            OpenerEvent::Ready(_) => Event::Ready,
            OpenerEvent::Reply(verdict) => Event::Reply(verdict),
            OpenerEvent::Fin => Event::Fin,
            OpenerEvent::Reset => Event::Reset,
            OpenerEvent::Cancelled => Event::Cancelled(None),
            OpenerEvent::Drain => Event::Drain,
            OpenerEvent::Ping(number) => Event::Ping(number),
            OpenerEvent::Pong(number) => Event::Pong(number),
            OpenerEvent::Stale => Event::Stale,
        })
    }

    fn fin(&mut self) -> Option<Control> {
        Self::fin(self)
    }

    fn reset(&mut self) -> Option<Control> {
        Self::reset(self)
    }
}

impl Role for Acceptor {
    const QUIET_AFTER_FIN: bool = false;

    fn is_idle(&self) -> bool {
        Self::is_idle(self)
    }

    fn on_payload(&self) -> Result<Payload, Illegal> {
        Self::on_payload(self)
    }

    fn on_control(&mut self, frame: Control) -> Result<Event, Illegal> {
        Ok(match Self::on_control(self, frame)? {
            AcceptorEvent::Open(open) => Event::Open(open),
            AcceptorEvent::Cancelled(reset) => Event::Cancelled(Some(reset)),
            AcceptorEvent::Fin => Event::Fin,
            AcceptorEvent::Reset => Event::Reset,
            AcceptorEvent::Ping(number) => Event::Ping(number),
            AcceptorEvent::Pong(number) => Event::Pong(number),
            AcceptorEvent::Stale => Event::Stale,
        })
    }

    fn fin(&mut self) -> Option<Control> {
        Self::fin(self)
    }

    fn reset(&mut self) -> Option<Control> {
        Self::reset(self)
    }
}
