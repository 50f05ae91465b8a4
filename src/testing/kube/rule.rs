//! Rules: which requests meet which fault.

use std::time::Duration;

use super::refusal::{Refusal, reason_of};
use super::script::Request;

/// What a request is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Reads one object, or anything that is not an object.
    Get,
    /// Reads many.
    List,
    /// Follows the changes.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH.
    Patch,
    /// DELETE of one object.
    Delete,
    /// DELETE of many.
    DeleteCollection,
}

impl Verb {
    /// Whether it changes anything.
    #[must_use]
    pub fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    Refuse(Refusal),
    /// Waits for the rule to go, then is served.
    Stall,
    /// The connection breaks before anything is done.
    Reset,
    /// It is served, and the connection breaks before the answer.
    Lose,
    Delay(Duration),
}

#[derive(Debug, Clone, Copy)]
enum Verbs {
    All,
    Reads,
    Writes,
    One(Verb),
}

/// What a request meets, if it is one of those that are meant: all, until narrowed down.
#[derive(Debug, Clone)]
pub struct Rule {
    verbs: Verbs,
    resource: Option<String>,
    key: Option<String>,
    subresource: Option<String>,
    pub(super) times: Option<u64>,
    pub(super) lasting: Option<Duration>,
    pub(super) fault: Fault,
}

impl Rule {
    fn new(fault: Fault) -> Self {
        Self {
            verbs: Verbs::All,
            resource: None,
            key: None,
            subresource: None,
            times: None,
            lasting: None,
            fault,
        }
    }

    /// Answers with an HTTP status and a `Status` object.
    #[must_use]
    pub fn refuse(code: u16) -> Self {
        let reason = reason_of(code);
        Self::new(Fault::Refuse(Refusal::new(code, reason, format!("refused by the test: {code}"))))
    }

    /// Does not answer until the rule is taken back or over; then serves the request.
    #[must_use]
    pub fn stall() -> Self {
        Self::new(Fault::Stall)
    }

    /// Breaks the connection without doing anything.
    #[must_use]
    pub fn reset() -> Self {
        Self::new(Fault::Reset)
    }

    /// Does what was asked, and breaks the connection instead of answering.
    #[must_use]
    pub fn lose() -> Self {
        Self::new(Fault::Lose)
    }

    /// Takes so long before doing anything. Meets requests beside any other rule.
    #[must_use]
    pub fn delay(long: Duration) -> Self {
        Self::new(Fault::Delay(long))
    }

    /// Of this verb only.
    #[must_use]
    pub fn verb(mut self, verb: Verb) -> Self {
        self.verbs = Verbs::One(verb);
        self
    }

    /// Get, list and watch only.
    #[must_use]
    pub fn reads(mut self) -> Self {
        self.verbs = Verbs::Reads;
        self
    }

    /// Only what changes something.
    #[must_use]
    pub fn writes(mut self) -> Self {
        self.verbs = Verbs::Writes;
        self
    }

    /// Of this kind only: its plural.
    #[must_use]
    pub fn resource(mut self, plural: &str) -> Self {
        self.resource = Some(plural.to_owned());
        self
    }

    /// Of this object only: `shop/web`, or `web` without a namespace. A POST has its name in
    /// its body.
    #[must_use]
    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// Of this subresource only (`status`); an empty one: of the main path only.
    #[must_use]
    pub fn subresource(mut self, name: &str) -> Self {
        self.subresource = Some(name.to_owned());
        self
    }

    /// So many requests only.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// So long from now only.
    #[must_use]
    pub fn lasting(mut self, long: Duration) -> Self {
        self.lasting = Some(long);
        self
    }

    /// What a refusal says.
    #[must_use]
    pub fn message(mut self, message: &str) -> Self {
        if let Fault::Refuse(refusal) = &mut self.fault {
            message.clone_into(&mut refusal.message);
        }
        self
    }

    /// The reason of a refusal, where the usual one of its code is not meant.
    #[must_use]
    pub fn reason(mut self, reason: &str) -> Self {
        if let Fault::Refuse(refusal) = &mut self.fault {
            reason.clone_into(&mut refusal.reason);
        }
        self
    }

    /// `Retry-After` of a refusal, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        if let Fault::Refuse(refusal) = &mut self.fault {
            refusal.retry_after = Some(seconds);
        }
        self
    }

    pub(super) fn matches(&self, request: &Request) -> bool {
        let verb = match self.verbs {
            Verbs::All => true,
            Verbs::Reads => !request.verb.writes(),
            Verbs::Writes => request.verb.writes(),
            Verbs::One(verb) => verb == request.verb,
        };
        let subresource = request.subresource.as_deref().unwrap_or_default();
        verb && self.resource.as_ref().is_none_or(|resource| *resource == request.resource)
            && self.key.as_ref().is_none_or(|key| *key == request.key())
            && self.subresource.as_ref().is_none_or(|wanted| wanted == subresource)
    }
}
