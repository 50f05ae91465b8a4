//! What the end of a request means.

use std::time::{Duration, Instant};

use super::super::job::{Aim, Ended, Outcome};
use super::super::target::{Rank, Target};
use super::Desk;
use crate::kubernetes::calls::Fault;
use crate::kubernetes::events::{Event, Severity, Subject};
use crate::kubernetes::kinds::Resource;
use crate::kubernetes::mirror::Existing;
use crate::objects::{Kind, ObjectId};

/// How long an object is left alone after a write met a newer version.
const CONFLICT: Duration = Duration::from_millis(100);
/// A lost Service gives its addresses back some moments after it is gone: what asks for them again
/// before that is refused, and tried again this soon, so often.
const FREED: Duration = Duration::from_millis(200);
const FREED_TRIES: u32 = 25;
/// What the API server says of an address that is not free (yet).
const NOT_FREE: &str = "already allocated";
/// What is said of an object that has a name of ours but not our label.
const FOREIGN: &str = "an object of this name exists that Portolan did not make; it is left alone: \
                       delete or rename it, or rename the exported Service";
/// What is said of an object that is not kept as it was written.
const ALTERED: &str = "the API server keeps something else than was written; exclude objects of \
                       Portolan (label portolan.dev/service) from the admission webhook or policy \
                       that changes them";

impl Desk {
    /// A job is over.
    pub(in super::super) fn finish(&mut self, ended: Ended, now: Instant) {
        let Ended { target, aim, uid, outcome } = ended;
        self.metrics.count(&target, &outcome);
        let soon = match (&target, &outcome) {
            (_, Outcome::Stale(_) | Outcome::Missing) => Some(CONFLICT),
            (Target::Object(id), Outcome::Failed(Fault::Refused(message)))
                if self.waits_for_address(id, message) =>
            {
                Some(FREED)
            }
            _ => None,
        };
        match outcome {
            Outcome::Failed(Fault::Refused(why)) if soon.is_some() => {
                tracing::debug!(?target, %why, "its addresses are not free yet");
            }
            Outcome::Failed(Fault::Away(why)) => {
                tracing::debug!(%why, "a write was not answered; nothing is written for a while");
                self.queue.pause(now + self.away.pause());
            }
            outcome => {
                self.away.reset();
                match &target {
                    Target::Object(id) => self.settle(id, uid.as_deref(), outcome, now),
                    Target::Export(_) | Target::Peer(_) => {
                        self.settle_status(&target, aim, outcome, now);
                    }
                }
            }
        }
        self.queue.done(&target);
        match &target {
            Target::Object(id) => self.look_again(id, now),
            Target::Export(key) => self.look(key, now),
            Target::Peer(_) => self.look_at_peers(now),
        }
        if let Some(pause) = soon {
            self.queue.delay(&target, now + pause);
        }
    }

    /// Whether a Service is refused only because its addresses are not free yet.
    fn waits_for_address(&mut self, id: &ObjectId, message: &str) -> bool {
        if id.kind != Kind::Service || !message.contains(NOT_FREE) {
            return false;
        }
        let tries = self.freed.entry(id.clone()).or_default();
        *tries += 1;
        *tries <= FREED_TRIES
    }

    /// What the end of a write about one object of ours, computed from the one with `uid`, means.
    fn settle(&mut self, id: &ObjectId, uid: Option<&str>, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Written(Some(existing)) => {
                let kept = existing.clone();
                self.put(id, existing);
                self.settled(id);
                if self.mirror.get(id).is_some_and(|of| of.version == kept.version && of != kept) {
                    // A write that changed nothing, though the watch showed a difference: never
                    // mind who is wrong, it would be repeated for ever.
                    self.queue.rest(&Target::Object(id.clone()), now);
                }
            }
            Outcome::Written(None) | Outcome::Missing => {
                if uid.is_some_and(|uid| self.mirror.remove(id, uid)) {
                    self.known += 1;
                }
                self.settled(id);
            }
            Outcome::Stale(existing) => self.put(id, existing),
            Outcome::Altered(existing) => {
                self.put(id, existing);
                self.refuse(id, "Altered", ALTERED, now);
            }
            Outcome::Foreign => self.refuse(id, "NameTaken", FOREIGN, now),
            Outcome::Failed(fault) => {
                let message = match &fault {
                    Fault::Refused(message)
                    | Fault::Absent(message)
                    | Fault::Conflict(message)
                    | Fault::Away(message) => message,
                };
                self.refuse(id, "Refused", message, now);
            }
            Outcome::Unneeded => {}
        }
    }

    fn settle_status(&mut self, target: &Target, aim: Aim, outcome: Outcome, now: Instant) {
        if let Outcome::Failed(fault) = outcome {
            tracing::warn!(?target, %fault, "a status is not accepted; it is tried again in 1 min");
            self.queue.rest(target, now);
            return;
        }
        match (aim, target) {
            (Aim::Export(status), _) => self.statuses.wrote_export(status, now),
            (Aim::Peer(status), Target::Peer(name)) => {
                self.statuses.wrote_peer(name, status, now);
            }
            _ => {}
        }
    }

    fn put(&mut self, id: &ObjectId, existing: Existing) {
        if self.mirror.put(id.clone(), existing) {
            self.known += 1;
        }
    }

    pub(super) fn settled(&mut self, id: &ObjectId) {
        self.refusals.lift(id);
        self.freed.remove(id);
        // The leader keeps to it until it is told what should be there.
        if !self.leads {
            self.withdrawals.end(id);
        }
    }

    /// The object rests; who owns it is told why.
    fn refuse(&mut self, id: &ObjectId, reason: &'static str, message: &str, now: Instant) {
        let target = Target::Object(id.clone());
        self.queue.rest(&target, now);
        self.withdrawals.end(id);
        if let Some(key) = self.key(id) {
            self.refusals.note(id, &key, message);
        }
        tracing::warn!(object = %id, reason, message, "an object is not written; it rests for 1 min");
        let api_version = match id.kind {
            Kind::Service => "v1",
            Kind::Slice => "discovery.k8s.io/v1",
            Kind::Import => self.clients.mcs(Resource::Import).api_version(),
        };
        let subject = Subject {
            api_version: api_version.into(),
            kind: id.kind.as_str().into(),
            namespace: id.namespace.as_str().into(),
            name: id.name.clone(),
            uid: self.mirror.get(id).map(|existing| existing.uid),
        };
        let message = message.into();
        self.events.say(Event { subject, severity: Severity::Warning, reason, message });
    }

    /// After a write: the object itself may need another, and what depends on it may go on.
    fn look_again(&mut self, id: &ObjectId, now: Instant) {
        if self.withdrawals.concerns(id) {
            let more =
                self.mirror.get(id).is_some_and(|of| self.withdrawals.wanted(id, &of).is_some());
            if more {
                self.queue.push(Target::Object(id.clone()), Rank::Removal, now);
            }
        } else if let Some(key) = self.key(id) {
            self.look(&key, now);
        }
    }
}
