//! What should exist, and per object what that means against what does.
//!
//! Holds the last [`Desired`] of every name. Pure: the mirror's content and `now` are arguments.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::change::Change;
use super::target::Rank;
use crate::kubernetes::mirror::Existing;
use crate::model::ServiceKey;
use crate::objects::{
    Desired, ExportStatus, Kept, Kind, Object, ObjectId, Pruned, SERVICE_LINGERS, derived_name,
};

/// How long a name that should have nothing is remembered, so that a late object of it, from a
/// writer that did not know yet, is taken away again.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How long what the server does not keep of imports is left out before all of it is tried again:
/// a webhook that altered one answer, or a schema that was replaced since, is no older schema.
const PRUNED_FOR: Duration = Duration::from_secs(600);

/// What should exist, by name.
#[derive(Debug, Default)]
pub(super) struct Plan {
    names: BTreeMap<ServiceKey, Name>,
    /// To which name an object that should exist belongs.
    owners: BTreeMap<ObjectId, ServiceKey>,
    /// What the server does not keep of imports, and since when nothing was learned of that.
    pruned: Pruned,
    learned: Option<Instant>,
    /// All that was ever learned of that.
    told: Pruned,
}

#[derive(Debug, Default)]
struct Name {
    objects: BTreeMap<ObjectId, Arc<Object>>,
    /// The import before anything of it was left out.
    whole: Option<(ObjectId, Arc<Object>)>,
    export: Option<ExportStatus>,
    /// What is not taken away yet.
    kept: Kept,
    /// The derived Service of the name itself, if there is to be one: then slices follow it. Which
    /// ports of the gateway they may name is decided with the objects, from what it records.
    service: Option<ObjectId>,
    /// Since when it has no such Service.
    without_service: Option<Instant>,
    /// Since when it should have nothing at all.
    empty_since: Option<Instant>,
    /// Derived Services of pods that are no more, and since when.
    lingering: BTreeMap<ObjectId, Instant>,
    /// Since when anything is known of the name, or the term began: what was left behind before
    /// that lingers from here.
    since: Option<Instant>,
}

/// A look at one object.
#[derive(Debug, PartialEq)]
pub(super) enum Look<'a> {
    /// It is as it should be.
    Settled,
    /// Another write comes first; its end brings the next look.
    Blocked,
    /// It is to be changed, not before this moment.
    Change(Change<'a>, Instant),
}

impl Look<'_> {
    /// How urgent it is and from when, if anything is to be done.
    pub(super) fn place(&self) -> Option<(Rank, Instant)> {
        match self {
            Self::Change(change, from) => Some((change.rank(), *from)),
            Self::Settled | Self::Blocked => None,
        }
    }
}

impl Plan {
    /// Takes what should exist for a name, in place of what it said before.
    pub(super) fn accept(&mut self, desired: Desired, now: Instant) {
        let name = self.names.entry(desired.key.clone()).or_default();
        name.since.get_or_insert(now);
        for id in name.objects.keys() {
            self.owners.remove(id);
        }
        let before = std::mem::take(&mut name.objects).into_keys();
        name.lingering.extend(before.filter(|id| id.kind == Kind::Service).map(|id| (id, now)));
        name.objects =
            desired.objects.into_iter().map(|object| (object.id(), Arc::new(object))).collect();
        name.lingering.retain(|id, _| !name.objects.contains_key(id));
        let import = name.objects.iter().find(|(id, _)| id.kind == Kind::Import);
        name.whole = import.map(|(id, object)| (id.clone(), Arc::clone(object)));
        prune(name, self.pruned);
        for id in name.objects.keys() {
            self.owners.insert(id.clone(), desired.key.clone());
        }
        name.export = desired.export;
        if name.kept != desired.kept {
            // What is not kept any more lingers from now.
            name.kept = desired.kept;
            name.since = Some(now);
        }
        name.empty_since =
            if name.objects.is_empty() { name.empty_since.or(Some(now)) } else { None };
        let own = own_service(&desired.key);
        let has_service = name.objects.contains_key(&own);
        name.service = has_service.then_some(own);
        name.without_service = if has_service { None } else { name.without_service.or(Some(now)) };
    }

    /// The server does not keep these fields of imports either; whether that is news.
    pub(super) fn prune(&mut self, more: Pruned, now: Instant) -> bool {
        (self.pruned, self.learned) = (self.pruned.and(more), Some(now));
        for name in self.names.values_mut() {
            prune(name, more);
        }
        let told = self.told.and(more);
        std::mem::replace(&mut self.told, told) != told
    }

    /// The names of which something was said.
    pub(super) fn keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.names.keys()
    }

    /// The objects that should exist for a name.
    pub(super) fn wanted(&self, key: &ServiceKey) -> impl Iterator<Item = &ObjectId> {
        self.names.get(key).into_iter().flat_map(|name| name.objects.keys())
    }

    /// The name that an object which should exist belongs to.
    pub(super) fn owner(&self, id: &ObjectId) -> Option<&ServiceKey> {
        self.owners.get(id)
    }

    /// The derived Service that should exist for a name.
    pub(super) fn service(&self, key: &ServiceKey) -> Option<&ObjectId> {
        self.names.get(key)?.service.as_ref()
    }

    /// An object that should exist.
    pub(super) fn object(&self, key: &ServiceKey, id: &ObjectId) -> Option<&Arc<Object>> {
        self.names.get(key)?.objects.get(id)
    }

    /// What the status of the ServiceExport should be.
    pub(super) fn export(&self, key: &ServiceKey) -> Option<&ExportStatus> {
        self.names.get(key)?.export.as_ref()
    }

    /// What is to be done about one object of a name, of which `exists` is there and `service` is
    /// the derived Service. Of names that were never spoken of nothing is known, so nothing is
    /// done.
    pub(super) fn look<'a>(
        &'a self,
        key: &ServiceKey,
        id: &ObjectId,
        exists: Option<&'a Existing>,
        service: Option<&Existing>,
        now: Instant,
    ) -> Look<'a> {
        let Some(name) = self.names.get(key) else { return Look::Settled };
        if self.owners.get(id).is_some_and(|owner| owner != key) {
            return Look::Settled;
        }
        let wanted = name.objects.get(id).map(Arc::as_ref);
        match Change::between(wanted, exists) {
            None => Look::Settled,
            Some(Change::Delete(_)) if exists.is_some_and(|e| name.kept.holds(&e.object)) => {
                Look::Settled
            }
            Some(change @ Change::Delete(_)) if id.kind == Kind::Service => {
                Look::Change(change, name.lingers_since(key, id).unwrap_or(now) + SERVICE_LINGERS)
            }
            Some(Change::Create(_) | Change::Replace(..))
                if id.kind == Kind::Slice && service.is_none() && name.service.is_some() =>
            {
                Look::Blocked
            }
            Some(change) => Look::Change(change, now),
        }
    }

    /// A new term begins at `now`: what lingers does so from now.
    pub(super) fn begin(&mut self, now: Instant) {
        for name in self.names.values_mut() {
            name.without_service = name.without_service.map(|_| now);
            name.empty_since = name.empty_since.map(|_| now);
            name.since = Some(now);
            name.lingering.values_mut().for_each(|since| *since = now);
        }
    }

    /// Forgets names that have had nothing for long enough, and what was learned long ago of what
    /// the server does not keep.
    pub(super) fn tidy(&mut self, now: Instant) {
        let old = |learned| now.saturating_duration_since(learned) >= PRUNED_FOR;
        if self.learned.is_some_and(old) {
            (self.pruned, self.learned) = (Pruned::default(), None);
            for name in self.names.values_mut() {
                name.objects.extend(name.whole.clone());
            }
        }
        self.names.retain(|_, name| {
            name.lingering.retain(|_, since| now.saturating_duration_since(*since) < REMEMBERED);
            let over = |since| now.saturating_duration_since(since) >= REMEMBERED;
            name.export.is_some() || !name.empty_since.is_some_and(over)
        });
    }
}

fn prune(name: &mut Name, pruned: Pruned) {
    if pruned == Pruned::default() {
        return;
    }
    for object in name.objects.values_mut() {
        if let Object::Import(import) = Arc::make_mut(object) {
            pruned.apply(import);
        }
    }
}

impl Name {
    /// Since when a derived Service that should not be there lingers.
    fn lingers_since(&self, key: &ServiceKey, id: &ObjectId) -> Option<Instant> {
        if *id == own_service(key) {
            return self.without_service;
        }
        self.lingering.get(id).copied().or(self.since)
    }
}

/// The derived Service of the name itself; for those of its pods nothing waits.
fn own_service(key: &ServiceKey) -> ObjectId {
    let name = derived_name(key).into();
    ObjectId { kind: Kind::Service, namespace: key.namespace.clone(), name }
}
