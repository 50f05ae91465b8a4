//! What the server refused, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::model::ServiceKey;
use crate::objects::ObjectId;

/// The refusals in force.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    by_object: BTreeMap<ObjectId, (ServiceKey, Box<str>)>,
    changed: bool,
}

impl Refusals {
    /// The last write of that object was refused.
    pub(super) fn note(&mut self, id: &ObjectId, key: &ServiceKey, message: &str) {
        let new = (key.clone(), Box::from(message));
        if self.by_object.get(id) != Some(&new) {
            self.by_object.insert(id.clone(), new);
            self.changed = true;
        }
    }

    /// It was written, or need not be.
    pub(super) fn lift(&mut self, id: &ObjectId) {
        self.changed |= self.by_object.remove(id).is_some();
    }

    /// Whoever writes next has its own.
    pub(super) fn clear(&mut self) {
        self.changed |= !self.by_object.is_empty();
        self.by_object.clear();
    }

    /// Tells, if anything changed: of several objects of one name the first.
    pub(super) fn publish(&mut self, to: &watch::Sender<Arc<BTreeMap<ServiceKey, Box<str>>>>) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let mut by_key: BTreeMap<ServiceKey, Box<str>> = BTreeMap::new();
        for (id, (key, message)) in &self.by_object {
            by_key.entry(key.clone()).or_insert_with(|| format!("{id}: {message}").into());
        }
        to.send_if_modified(|before| {
            let changed = **before != by_key;
            if changed {
                *before = Arc::new(by_key);
            }
            changed
        });
    }
}
