//! What is known of every kind, and what follows from what the watches tell.
//!
//! Invariants: what is told onward is the difference to what was told before, each object at most
//! once; nothing is told before the kinds that make an export were all listed; what a refused
//! object was before stays. Memory is bounded by what the cluster holds: changes that nobody has
//! taken yet replace one another. Pure but for the log: the loop is in `source`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::kinds::{Decoded, Families, Item, Name, Resource};
use super::mirror::{Mirror, number};
use super::view::{ClusterView, Held, Refused, View};
use super::watch::{Change, Heard};
use super::{Metrics, Reason};
use crate::catalog::{IpFamily, SliceObjectKey, SourceEvent, SourceUpdate};
use crate::model::{Namespace, ServiceKey, ServiceName};
use crate::objects::{Kind, ObjectId};

/// The kinds that exports are made from.
const CATALOG: [Resource; 3] = [Resource::Service, Resource::Slice, Resource::Export];
/// Most troubles that one text names.
const MAX_NAMED: usize = 10;
/// Most refused objects that are remembered by name.
const MAX_REFUSED: usize = 1_000;

/// Everything that is known.
#[derive(Debug)]
pub(super) struct State {
    kinds: BTreeMap<Resource, Known>,
    view: View,
    mirror: Arc<Mirror>,
    metrics: Metrics,
    /// Changes not told yet.
    pending: BTreeMap<(Resource, Name), SourceEvent>,
    /// Kinds that cannot be read now, and why.
    down: BTreeMap<Resource, String>,
    /// Those of them that the API server does not answer for, as it does for one that is not
    /// installed.
    away: BTreeSet<Resource>,
    refused: BTreeMap<(Resource, Name), Refused>,
    /// The last complaint that was told, and whether the source was away.
    told: Option<(String, bool)>,
    synced: bool,
    /// Namespaces on their way out: what they export is withdrawn at once, not when the last of
    /// their objects is gone (seconds later).
    ending: BTreeSet<Box<str>>,
    /// What every export last said: of a namespace that is made anew they count after all,
    /// whenever each was heard of.
    exports: BTreeMap<Name, SourceEvent>,
    /// How many Services have an address of each family.
    families: (usize, usize),
}

/// What is known of one kind.
#[derive(Debug, Default)]
struct Known {
    /// Listed, or found not to be installed, at least once.
    answered: bool,
    /// The highest version that was heard of.
    version: u64,
    objects: HashMap<Name, Entry>,
}

/// What an object was to us, so that it can be taken back.
#[derive(Debug, Default)]
struct Entry {
    version: u64,
    in_catalog: bool,
    ours: bool,
    held: Option<Held>,
    families: Families,
}

impl State {
    /// Nothing is known.
    pub(super) fn new(mirror: Arc<Mirror>, metrics: Metrics) -> Self {
        Self {
            kinds: Resource::ALL.into_iter().map(|resource| (resource, Known::default())).collect(),
            view: View::default(),
            mirror,
            metrics,
            pending: BTreeMap::new(),
            down: BTreeMap::new(),
            away: BTreeSet::new(),
            refused: BTreeMap::new(),
            told: None,
            synced: false,
            ending: BTreeSet::new(),
            exports: BTreeMap::new(),
            families: (0, 0),
        }
    }

    /// Takes what a watch tells.
    pub(super) fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Listed { resource, version, items } => {
                self.listed(resource, number(&version), items);
            }
            Heard::Changed { resource, changes } => {
                for change in changes {
                    match change {
                        Change::Put(item) => self.put(resource, *item),
                        Change::Gone { name, version } => {
                            self.gone(resource, &name, number(&version));
                        }
                    }
                }
            }
            Heard::Absent { resource } => {
                self.answered(resource);
                self.away.remove(&resource);
                let what = format!(
                    "{}.{} is not installed; apply its CustomResourceDefinition (we look again every 30 s)",
                    resource.plural(),
                    resource.group()
                );
                self.complain(resource, what);
            }
            Heard::Down { resource, what } => {
                self.away.insert(resource);
                self.complain(resource, what);
            }
            Heard::Up { resource } => {
                self.away.remove(&resource);
                if self.down.remove(&resource).is_some() {
                    tracing::info!(kind = resource.kind(), "watched again");
                }
            }
        }
    }

    /// What to tell the catalog next: the changes, that it knows everything, what is wrong.
    /// Nothing but the last before everything was listed.
    pub(super) fn update(&mut self, changes: bool) -> Option<SourceUpdate> {
        let ready = self.is_listed(&CATALOG);
        if ready && changes && !self.pending.is_empty() {
            let events = std::mem::take(&mut self.pending).into_values().collect();
            return Some(SourceUpdate::Changed(events));
        }
        if ready && !self.synced {
            self.synced = true;
            tracing::info!("all Services, EndpointSlices and ServiceExports are known");
            return Some(SourceUpdate::Synced);
        }
        let away = CATALOG.iter().any(|kind| self.away.contains(kind));
        let complaint = self.complaint().map(|error| (error, away));
        if complaint == self.told {
            return None;
        }
        self.told.clone_from(&complaint);
        Some(match complaint {
            Some((error, away)) => SourceUpdate::Failed { error, away },
            None => SourceUpdate::Recovered,
        })
    }

    /// The view as it is now.
    pub(super) fn view(&mut self, mcs: crate::objects::McsVersion) -> ClusterView {
        let core: Vec<_> = Resource::ALL.into_iter().filter(|resource| resource.core()).collect();
        let synced = self.is_listed(&core);
        let mut families = BTreeSet::new();
        families.extend((self.families.0 > 0).then_some(IpFamily::V4));
        families.extend((self.families.1 > 0).then_some(IpFamily::V6));
        let refused = self.refused.values().cloned().collect();
        self.view.publish(synced, &families, mcs, refused)
    }

    fn is_listed(&self, kinds: &[Resource]) -> bool {
        kinds.iter().all(|kind| self.kinds.get(kind).is_some_and(|known| known.answered))
    }

    fn answered(&mut self, resource: Resource) {
        self.kinds.entry(resource).or_default().answered = true;
    }

    fn complain(&mut self, resource: Resource, what: String) {
        if self.down.get(&resource) != Some(&what) {
            match resource {
                // An optional kind that nobody has installed is no matter.
                Resource::Property => tracing::info!("{what}"),
                _ => tracing::warn!("{what}"),
            }
            self.down.insert(resource, what);
        }
    }

    /// What is wrong now, as one text.
    fn complaint(&self) -> Option<String> {
        let down = self.down.iter().filter(|(resource, _)| **resource != Resource::Property);
        let mut lines: Vec<String> = down.map(|(_, what)| what.clone()).collect();
        lines.extend(self.refused.values().take(MAX_NAMED).map(Refused::to_string));
        if let Some(more) = self.refused.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
            lines.push(format!("and {more} more"));
        }
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// Replaces what is known of a kind by a whole list.
    fn listed(&mut self, resource: Resource, version: u64, items: Vec<Item>) {
        let known = self.kinds.entry(resource).or_default();
        // The list is a quorum read: a version below an earlier one is no lagging replica.
        let anew = version < known.version;
        known.version = version;
        known.answered = true;
        if anew {
            self.metrics.count(Reason::SetBack);
            tracing::warn!(
                kind = resource.kind(),
                version,
                "the API server's store was set back; what it holds now is taken"
            );
            for entry in known.objects.values_mut() {
                entry.version = 0;
            }
        }
        let present: BTreeSet<Name> = items.iter().map(|item| item.name.clone()).collect();
        if let Some(kind) = ours(resource) {
            let of_item = |item: &Item| item.state.as_ref().ok()?.ours.clone();
            let existing = items.iter().filter_map(of_item).collect();
            self.mirror.listed(kind, version, existing, anew);
            self.mirror.vacated(kind, |id| {
                let namespace = id.namespace.as_str().into();
                present.contains(&Name { namespace, name: id.name.clone() })
            });
        }
        let known = self.kinds.entry(resource).or_default();
        let lost = known.objects.keys().filter(|name| !present.contains(name));
        let lost: Vec<Name> = lost.cloned().collect();
        for name in lost {
            self.gone(resource, &name, version);
        }
        let stale = |(of, name): &(Resource, Name)| *of == resource && !present.contains(name);
        self.refused.retain(|key, _| !stale(key));
        for item in items {
            self.put(resource, item);
        }
    }

    /// Takes one object as it is now.
    fn put(&mut self, resource: Resource, item: Item) {
        let Item { name, uid, version, state } = item;
        let version = number(&version);
        let known = self.kinds.entry(resource).or_default();
        known.version = known.version.max(version);
        let known_newer = |entry: &Entry| version != 0 && entry.version >= version;
        if known.objects.get(&name).is_some_and(known_newer) {
            return;
        }
        let decoded = match state {
            Ok(decoded) => decoded,
            Err(why) => {
                // Its last good state stays, and with it the version that state has.
                self.refuse(resource, name, uid, why.into());
                return;
            }
        };
        self.refused.remove(&(resource, name.clone()));
        let entry = self.take_in(resource, &name, version, decoded);
        let known = self.kinds.entry(resource).or_default();
        if entry.is_nothing() {
            known.objects.remove(&name);
        } else {
            known.objects.insert(name, entry);
        }
    }

    /// Tells everybody what the object is now, and takes back what it is no more.
    fn take_in(
        &mut self,
        resource: Resource,
        name: &Name,
        version: u64,
        decoded: Decoded,
    ) -> Entry {
        let Decoded { source, ours, seen, families } = decoded;
        if resource == Resource::Namespace {
            match seen {
                Some(_) => self.admit_from(&name.name),
                None => self.withdraw_from(&name.name),
            }
        }
        let ends = resource == Resource::Export && self.ending.contains(&name.namespace);
        if resource == Resource::Export {
            match &source {
                Some(event) => self.exports.insert(name.clone(), event.clone()),
                None => self.exports.remove(name),
            };
        }
        let source = source.filter(|_| !ends);
        let known = self.kinds.entry(resource).or_default();
        let before = known.objects.remove(name).unwrap_or_default();
        let entry = Entry {
            version,
            in_catalog: source.is_some(),
            ours: ours.is_some(),
            held: seen.as_ref().map(Held::of),
            families,
        };
        self.take_back(resource, name, &before, &entry, version);
        if let Some(event) = source {
            self.pending.insert((resource, name.clone()), event);
        }
        if let Some((id, existing)) = ours {
            self.mirror.put(id, existing);
        }
        if let Some(seen) = seen {
            self.view.put(name, seen);
        }
        entry
    }

    /// A namespace is on its way out, and so are its exports.
    fn withdraw_from(&mut self, namespace: &str) {
        if !self.ending.insert(namespace.into()) {
            return;
        }
        let exports = &mut self.kinds.entry(Resource::Export).or_default().objects;
        let there = exports
            .iter_mut()
            .filter(|(name, entry)| *name.namespace == *namespace && entry.in_catalog);
        for (name, entry) in there {
            entry.in_catalog = false;
            if let Some(event) = absence(Resource::Export, name) {
                self.pending.insert((Resource::Export, name.clone()), event);
            }
        }
    }

    /// A namespace that was on its way out is gone or made anew.
    fn admit_from(&mut self, namespace: &str) {
        if !self.ending.remove(namespace) {
            return;
        }
        let exports = &mut self.kinds.entry(Resource::Export).or_default().objects;
        for (name, event) in self.exports.iter().filter(|(name, _)| *name.namespace == *namespace) {
            if let Some(entry) = exports.get_mut(name).filter(|entry| !entry.in_catalog) {
                entry.in_catalog = true;
                self.pending.insert((Resource::Export, name.clone()), event.clone());
            }
        }
    }

    /// The object is gone, as of that version.
    fn gone(&mut self, resource: Resource, name: &Name, version: u64) {
        self.refused.remove(&(resource, name.clone()));
        if resource == Resource::Namespace {
            self.admit_from(&name.name);
        }
        let known = self.kinds.entry(resource).or_default();
        known.version = known.version.max(version);
        if known.objects.get(name).is_some_and(|entry| entry.version > version) {
            return;
        }
        if resource == Resource::Export {
            self.exports.remove(name);
        }
        if let Some(id) = object_id(resource, name) {
            self.mirror.vacated(id.kind, |taken| *taken != id);
        }
        let known = self.kinds.entry(resource).or_default();
        if let Some(before) = known.objects.remove(name) {
            self.take_back(resource, name, &before, &Entry::default(), version);
        }
    }

    /// Takes back what an object was and is no more.
    fn take_back(
        &mut self,
        resource: Resource,
        name: &Name,
        before: &Entry,
        now: &Entry,
        version: u64,
    ) {
        if before.in_catalog
            && !now.in_catalog
            && let Some(event) = absence(resource, name)
        {
            self.pending.insert((resource, name.clone()), event);
        }
        if before.ours
            && !now.ours
            && let Some(id) = object_id(resource, name)
        {
            self.mirror.gone(&id, version);
        }
        if let Some(held) = before.held
            && now.held != Some(held)
        {
            self.view.take(held, name);
        }
        let count = |of: &mut usize, before: bool, now: bool| match (before, now) {
            (false, true) => *of += 1,
            (true, false) => *of = of.saturating_sub(1),
            _ => {}
        };
        count(&mut self.families.0, before.families.v4, now.families.v4);
        count(&mut self.families.1, before.families.v6, now.families.v6);
    }

    fn refuse(&mut self, resource: Resource, name: Name, uid: Box<str>, why: Box<str>) {
        let refused = Refused {
            kind: resource.kind(),
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            uid,
            why,
        };
        let key = (resource, name);
        if self.refused.get(&key) == Some(&refused) {
            return;
        }
        self.metrics.count(Reason::Object);
        tracing::warn!("{refused}");
        if self.refused.len() < MAX_REFUSED || self.refused.contains_key(&key) {
            self.refused.insert(key, refused);
        }
    }
}

impl Entry {
    fn is_nothing(&self) -> bool {
        !self.in_catalog
            && !self.ours
            && self.held.is_none()
            && self.families == Families::default()
    }
}

/// The kind of our objects that a watched kind may hold.
fn ours(resource: Resource) -> Option<Kind> {
    match resource {
        Resource::Service => Some(Kind::Service),
        Resource::Slice => Some(Kind::Slice),
        Resource::Import => Some(Kind::Import),
        _ => None,
    }
}

fn object_id(resource: Resource, name: &Name) -> Option<ObjectId> {
    let namespace = Namespace::parse(&name.namespace).ok()?;
    Some(ObjectId { kind: ours(resource)?, namespace, name: name.name.clone() })
}

/// The event that says that an object of the catalog is gone.
fn absence(resource: Resource, name: &Name) -> Option<SourceEvent> {
    let namespace = Namespace::parse(&name.namespace).ok()?;
    if resource == Resource::Slice {
        let key = SliceObjectKey { namespace, name: name.name.clone() };
        return Some(SourceEvent::Slice(key, None));
    }
    let key = ServiceKey::new(namespace, ServiceName::parse(&name.name).ok()?);
    match resource {
        Resource::Service => Some(SourceEvent::Service(key, None)),
        Resource::Export => Some(SourceEvent::Export(key, None)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
