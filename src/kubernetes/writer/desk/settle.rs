//! What the end of a request means.

use std::time::{Duration, Instant};

use super::super::job::{Aim, Ended, Outcome};
use super::super::queue::REST;
use super::super::target::{Rank, Target};
use super::Desk;
use crate::kubernetes::calls::Fault;
use crate::kubernetes::events::{Event, Severity, Subject};
use crate::kubernetes::kinds::Resource;
use crate::kubernetes::mirror::Existing;
use crate::model::ServiceKey;
use crate::objects::{Kind, Object, ObjectId, Pruned};

/// How long an object is left alone after a write met a newer version.
const CONFLICT: Duration = Duration::from_millis(100);
/// How long one is left alone that was not answered in time while the server answers others, at
/// first; twice as long each time, up to [`REST`].
const LATE: Duration = Duration::from_secs(2);
/// A lost Service gives its addresses back some moments after it is gone: what asks for them again
/// before that is refused, and tried again this soon, so often. Then somebody else has them.
const FREED: Duration = Duration::from_millis(200);
const FREED_TRIES: u32 = 25;
/// What the API server says of an address that is not free (yet).
const NOT_FREE: &str = "already allocated";
/// What it says of one that never will be: its ranges are others than they were.
const NOT_IN_RANGE: [&str; 2] = ["not in the valid range", "does not match the current range"];
/// What is said of an object that was not answered while others were.
const HANGS: &str = "the API server answers, but not about this object; see whether an admission \
                     webhook that judges it hangs";
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
        match self.learn(&target, &aim, outcome, now) {
            Outcome::Failed(Fault::Away(why)) => self.pause(&why, now),
            // Whether the server is away the Lease tells, which a leader renews every second.
            Outcome::Failed(Fault::Late(why)) if self.leads && !self.may_write(now) => {
                self.pause(&why, now);
            }
            outcome => {
                self.away.reset();
                if let Some(pause) = self.pause_after(&target, &outcome) {
                    self.queue.rest(&target, now + pause);
                }
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
    }

    /// Of imports an older schema keeps less than was written: that is then wanted no more.
    fn learn(&mut self, target: &Target, aim: &Aim, outcome: Outcome, now: Instant) -> Outcome {
        let (Target::Object(id), Aim::Object(object) | Aim::WithStatus(object)) = (target, aim)
        else {
            return outcome;
        };
        let Object::Import(wanted) = &**object else { return outcome };
        let (pruned, learned) = match outcome {
            Outcome::Altered(existing) => {
                let Object::Import(kept) = &*existing.object else {
                    return Outcome::Altered(existing);
                };
                match Pruned::between(wanted, kept, matches!(aim, Aim::WithStatus(_))) {
                    Some(pruned) => (pruned, Outcome::Written(Some(existing))),
                    None => return Outcome::Altered(existing),
                }
            }
            Outcome::Failed(Fault::Refused(why))
                if wanted.spec.ips.len() > 1
                    && why.contains("spec.ips")
                    && why.contains("Too many") =>
            {
                (Pruned::to_one_ip(), Outcome::Unneeded)
            }
            other => return other,
        };
        // What waits is compared with what is kept, before it is written as it was.
        self.due = Some(now);
        if self.plan.prune(pruned, now) {
            let fields = pruned.fields().join(", ");
            let message = format!(
                "the CustomResourceDefinition serviceimports.multicluster.x-k8s.io is an older one that does not keep {fields}; they are left out: apply that of the Multi-Cluster Services API, which is noticed within 20 minutes"
            );
            tracing::warn!("{message}");
            self.say(id, "OldSchema", &message);
        }
        learned
    }

    fn may_write(&self, now: Instant) -> bool {
        self.leads && self.tenure.permit(now).is_some()
    }

    fn pause(&mut self, why: &str, now: Instant) {
        tracing::debug!(%why, "a write was not answered; nothing is written for a while");
        self.queue.pause(now + self.away.pause());
    }

    /// How long an object rests after a job about it ended so.
    fn pause_after(&mut self, target: &Target, outcome: &Outcome) -> Option<Duration> {
        let rest = match outcome {
            Outcome::Failed(Fault::Late(_)) => {
                return Some((LATE * (1 << (self.tried(target).min(6) - 1))).min(REST));
            }
            Outcome::Failed(Fault::Refused(message)) => {
                if let Target::Object(id) = target
                    && let Some(pause) = self.waits_for_address(id, message)
                {
                    return Some(pause);
                }
                Some(REST)
            }
            Outcome::Stale(_) | Outcome::Missing => Some(CONFLICT),
            Outcome::Altered(_) | Outcome::Foreign | Outcome::Failed(_) => Some(REST),
            Outcome::Written(_) | Outcome::Unneeded => None,
        };
        self.tries.remove(target);
        rest
    }

    /// Whether a Service that was refused is asked for again with the same addresses, or with others.
    fn asks_again(&self, id: &ObjectId) -> bool {
        self.tries.contains_key(&Target::Object(id.clone())) || self.anew.contains(id)
    }

    fn tried(&mut self, target: &Target) -> u32 {
        let tries = self.tries.entry(target.clone()).or_default();
        *tries += 1;
        *tries
    }

    /// How long a Service waits that is refused only because of the addresses it is to have again;
    /// `None`: that is not why. Where they cannot be had (another Service got them, or the
    /// cluster's ranges are new: it was restored from a backup) it gets others at once: an import
    /// that nobody can call is worse than one whose address changed.
    fn waits_for_address(&mut self, id: &ObjectId, message: &str) -> Option<Duration> {
        let never = NOT_IN_RANGE.iter().any(|sign| message.contains(sign));
        let concerns = id.kind == Kind::Service && (never || message.contains(NOT_FREE));
        if !concerns || self.anew.contains(id) {
            return None;
        }
        if !never && self.tried(&Target::Object(id.clone())) <= FREED_TRIES {
            return Some(FREED);
        }
        self.tries.remove(&Target::Object(id.clone()));
        self.anew.insert(id.clone());
        if let Some(ServiceKey { namespace, name }) = self.key(id) {
            let import = ObjectId { kind: Kind::Import, namespace, name: name.as_str().into() };
            let message = format!(
                "its addresses cannot be had again, so it gets others; clients learn them from DNS: {message}"
            );
            tracing::warn!(object = %import, "{message}");
            self.say(&import, "AddressLost", &message);
        }
        Some(Duration::ZERO)
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
                    self.queue.rest(&Target::Object(id.clone()), now + REST);
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
                self.refuse(id, "Altered", ALTERED);
            }
            Outcome::Foreign => {
                self.mirror.wait_for(id.clone());
                self.foreign.insert(id.clone());
                self.refuse(id, "NameTaken", FOREIGN);
            }
            // Its addresses are not free yet.
            Outcome::Failed(Fault::Refused(_)) if self.asks_again(id) => {}
            Outcome::Failed(fault) => {
                let message = match &fault {
                    Fault::Refused(message)
                    | Fault::Absent(message)
                    | Fault::Conflict(message)
                    | Fault::Away(message) => message,
                    Fault::Late(_) => HANGS,
                };
                self.refuse(id, "Refused", message);
            }
            Outcome::Unneeded => {}
        }
    }

    fn settle_status(&mut self, target: &Target, aim: Aim, outcome: Outcome, now: Instant) {
        if let Outcome::Failed(fault) = outcome {
            tracing::warn!(?target, %fault, "a status is not accepted; it is tried again in 1 min at most");
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
        self.anew.remove(id);
        // The leader keeps to it until it is told what should be there.
        if !self.leads {
            self.withdrawals.end(id);
        }
    }

    /// The object rests; who owns it is told why.
    fn refuse(&mut self, id: &ObjectId, reason: &'static str, message: &str) {
        self.withdrawals.end(id);
        if let Some(key) = self.key(id) {
            self.refusals.note(id, &key, message);
        }
        tracing::warn!(object = %id, reason, message, "an object is not written; it rests");
        self.say(id, reason, message);
    }

    fn say(&self, id: &ObjectId, reason: &'static str, message: &str) {
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
