//! What the cluster holds of the objects that we write.
//!
//! Fed by the watches and by the writer's own replies, so that nobody waits for a watch to see
//! what he wrote. Invariants: an older version of an object never overwrites a newer one, and an
//! object whose end the writer saw does not come back from a late event. Not here: objects of
//! others, what should exist.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::model::ServiceKey;
use crate::objects::{Kind, Object, ObjectId};

/// An object as the cluster holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// Its uid.
    pub uid: Box<str>,
    /// Its `resourceVersion`, verbatim: what a write is conditional on.
    pub version: Box<str>,
    /// The fields of it that are ours, the status of an import included.
    pub object: Arc<Object>,
    /// Whether it is on its way out (`deletionTimestamp`).
    pub deleting: bool,
}

/// The objects of ours, by id and by the service they stand for.
#[derive(Debug)]
pub struct Mirror {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    objects: HashMap<ObjectId, Existing>,
    by_key: BTreeMap<ServiceKey, BTreeSet<ObjectId>>,
    /// The uid of objects whose end the writer saw before the watch told.
    ended: HashMap<ObjectId, Box<str>>,
    /// Names that somebody else's object has, whose end is waited for.
    taken: BTreeSet<ObjectId>,
    /// The kinds that were listed at least once.
    listed: BTreeSet<Kind>,
}

/// The order of two `resourceVersion`s of one kind. They are decimal numbers (KEP-5504); where
/// one is not, nothing is known and it counts as 0: the oldest.
pub(super) fn number(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

impl Default for Mirror {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Mirror {
    /// The object of that id.
    #[must_use]
    pub fn get(&self, id: &ObjectId) -> Option<Existing> {
        self.lock().objects.get(id).cloned()
    }

    /// Every object that carries the label of that service.
    #[must_use]
    pub fn of(&self, key: &ServiceKey) -> Vec<(ObjectId, Existing)> {
        let state = self.lock();
        let ids = state.by_key.get(key).into_iter().flatten();
        ids.filter_map(|id| Some((id.clone(), state.objects.get(id)?.clone()))).collect()
    }

    /// Every service that has an object here.
    #[must_use]
    pub fn keys(&self) -> Vec<ServiceKey> {
        self.lock().by_key.keys().cloned().collect()
    }

    /// Whether all three kinds were listed at least once: before that, what is not here may exist.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.lock().listed.len() == 3
    }

    /// Takes an object as the server has it now; whether that was news.
    pub fn put(&self, id: ObjectId, existing: Existing) -> bool {
        self.change(|state| state.put(id, existing))
    }

    /// The object of that id and uid is gone, as the reply to a deletion says.
    pub fn remove(&self, id: &ObjectId, uid: &str) -> bool {
        self.change(|state| {
            if state.objects.get(id).is_none_or(|existing| *existing.uid != *uid) {
                return false;
            }
            state.ended.insert(id.clone(), uid.into());
            state.take(id)
        })
    }

    /// Somebody else's object has this name: its end is told as a change.
    pub(super) fn wait_for(&self, id: ObjectId) {
        self.lock().taken.insert(id);
    }

    /// Only these names are of interest any more.
    pub(super) fn wait_only_for(&self, names: &BTreeSet<ObjectId>) {
        self.lock().taken.retain(|id| names.contains(id));
    }

    /// Whether somebody else's object has this name, as far as is known.
    pub(super) fn waits_for(&self, id: &ObjectId) -> bool {
        self.lock().taken.contains(id)
    }

    /// The names of one kind that are not `present` any more are free.
    pub(super) fn vacated(&self, kind: Kind, present: impl Fn(&ObjectId) -> bool) {
        self.change(|state| {
            let before = state.taken.len();
            state.taken.retain(|id| id.kind != kind || present(id));
            state.taken.len() < before
        });
    }

    /// Rises with every change of what is here.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The watch says that the object went at that version, or is ours no longer.
    pub(super) fn gone(&self, id: &ObjectId, version: u64) -> bool {
        self.change(|state| {
            state.ended.remove(id);
            let newer = |existing: &Existing| number(&existing.version) > version;
            if state.objects.get(id).is_some_and(newer) {
                return false;
            }
            state.take(id)
        })
    }

    /// Every object of one kind as listed at `version`; what is not listed is gone unless it is
    /// newer than the list. With `anew` the server's store was set back, and the list is all that
    /// counts.
    pub(super) fn listed(
        &self,
        kind: Kind,
        version: u64,
        objects: Vec<(ObjectId, Existing)>,
        anew: bool,
    ) {
        self.change(|state| {
            let first = state.listed.insert(kind);
            state.ended.retain(|id, _| id.kind != kind || !anew);
            let ids: BTreeSet<_> = objects.iter().map(|(id, _)| id.clone()).collect();
            let lost = |(id, existing): (&ObjectId, &Existing)| {
                let older = anew || number(&existing.version) <= version;
                (id.kind == kind && older && !ids.contains(id)).then(|| id.clone())
            };
            let lost: Vec<_> = state.objects.iter().filter_map(lost).collect();
            let mut news = first || !lost.is_empty();
            for id in lost {
                state.take(&id);
            }
            state.ended.retain(|id, _| id.kind != kind || ids.contains(id));
            for (id, existing) in objects {
                if anew {
                    state.take(&id);
                }
                news |= state.put(id, existing);
            }
            news
        });
    }

    fn change(&self, act: impl FnOnce(&mut State) -> bool) -> bool {
        let news = act(&mut self.lock());
        if news {
            self.changed.send_modify(|count| *count += 1);
        }
        news
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, id: ObjectId, existing: Existing) -> bool {
        match self.ended.get(&id) {
            Some(uid) if *uid == existing.uid => return false,
            _ => self.ended.remove(&id),
        };
        let version = number(&existing.version);
        if let Some(before) = self.objects.get(&id)
            && (before.version == existing.version || number(&before.version) > version)
        {
            return false;
        }
        self.take(&id);
        if let Some(key) = existing.object.key() {
            self.by_key.entry(key).or_default().insert(id.clone());
        }
        self.objects.insert(id, existing);
        true
    }

    fn take(&mut self, id: &ObjectId) -> bool {
        let Some(before) = self.objects.remove(id) else { return false };
        if let Some(key) = before.object.key()
            && let Some(ids) = self.by_key.get_mut(&key)
        {
            ids.remove(id);
            if ids.is_empty() {
                self.by_key.remove(&key);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
