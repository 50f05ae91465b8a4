//! What a publisher has told one subscriber: the exports that cluster may import, and the digest
//! of their records.
//!
//! Nothing is encoded before it is sent, and nothing is kept after: a slow subscriber costs
//! references to two catalogs, however many revisions it sleeps through.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::convert;
use super::digest::{CatalogDigest, RecordHash};
use crate::catalog::{Export, ExportedEndpoint, LocalCatalog};
use crate::model::{ClusterId, ServiceKey};
use crate::wire::control::{CHUNK_BYTES, Delta, MAX_RECORD_BYTES, Removal};

type Exports = BTreeMap<ServiceKey, Arc<Export>>;

/// What one subscriber holds, once all that was sent has arrived.
#[derive(Debug, Clone)]
pub(super) struct View {
    exports: Exports,
    digest: CatalogDigest,
    revision: u64,
}

/// The exports that a cluster may import.
fn importable(local: &LocalCatalog, subscriber: &ClusterId) -> Exports {
    local
        .exports
        .iter()
        .filter(|(_, export)| export.clusters.allows(subscriber) && fits(&export.export))
        .map(|(key, export)| (key.clone(), Arc::clone(&export.export)))
        .collect()
}

/// Whether the service's own record stays below [`MAX_RECORD_BYTES`]: a larger one could not be
/// read by anybody, so it is not published. Counts generously instead of encoding.
fn fits(export: &Export) -> bool {
    /// Names, numbers and settings of a record, or of one of its ports or texts, at most.
    const FIXED_BYTES: usize = 16 * 1024;
    const ITEM_BYTES: usize = 32;
    let texts = export.labels.iter().chain(&export.annotations);
    let texts: usize = texts.map(|(key, value)| key.len() + value.len() + ITEM_BYTES).sum();
    let ports = export.ports.iter().map(|port| {
        port.spec.name.len() + port.spec.app_protocol.as_ref().map_or(0, |p| p.len()) + ITEM_BYTES
    });
    FIXED_BYTES + texts + ports.sum::<usize>() <= MAX_RECORD_BYTES
}

/// The records of one service: its own, then those of its endpoints that `other` lacks.
fn records(export: &Export, other: Option<&Export>) -> impl Iterator<Item = Bytes> {
    let known: BTreeSet<&ExportedEndpoint> =
        other.into_iter().flat_map(|other| &other.endpoints).collect();
    let tails = export
        .endpoints
        .iter()
        .filter(move |endpoint| !known.contains(endpoint))
        .map(|endpoint| convert::endpoint_record(&export.key, endpoint));
    std::iter::once(convert::export_record(export)).chain(tails)
}

impl View {
    /// What that cluster may see of our catalog.
    pub(super) fn of(local: &LocalCatalog, subscriber: &ClusterId) -> Self {
        let exports = importable(local, subscriber);
        let mut digest = CatalogDigest::default();
        for record in exports.values().flat_map(|export| records(export, None)) {
            digest.add(RecordHash::of(&record));
        }
        Self { exports, digest, revision: local.revision }
    }

    pub(super) fn digest(&self) -> CatalogDigest {
        self.digest
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// All its records, encoded one by one.
    pub(super) fn records(&self) -> impl Iterator<Item = Bytes> {
        self.exports.values().flat_map(|export| records(export, None))
    }

    /// Moves on to `local`; what has to be told. Empty when nothing that concerns this subscriber
    /// changed.
    pub(super) fn advance(&mut self, local: &LocalCatalog, subscriber: &ClusterId) -> Change {
        let next = importable(local, subscriber);
        let mut steps = Vec::new();
        for (key, old) in &self.exports {
            match next.get(key) {
                Some(new) if Arc::ptr_eq(old, new) || old == new => {}
                new => steps.push(Step { old: Some(Arc::clone(old)), new: new.cloned() }),
            }
        }
        let added = next.iter().filter(|(key, _)| !self.exports.contains_key(*key));
        steps.extend(added.map(|(_, new)| Step { old: None, new: Some(Arc::clone(new)) }));
        self.exports = next;
        self.revision = local.revision;
        let steps = steps.into_iter();
        Change { steps, removals: Vec::new(), upserts: Vec::new(), revision: self.revision }
    }
}

#[derive(Debug)]
struct Step {
    old: Option<Arc<Export>>,
    new: Option<Arc<Export>>,
}

/// What has to be told, encoded piece by piece.
#[derive(Debug)]
pub(super) struct Change {
    steps: std::vec::IntoIter<Step>,
    removals: Vec<Removal>,
    upserts: Vec<Bytes>,
    revision: u64,
}

impl Change {
    pub(super) fn is_empty(&self) -> bool {
        self.steps.len() == 0 && self.removals.is_empty() && self.upserts.is_empty()
    }

    /// The next message, of about [`CHUNK_BYTES`]; the last carries the digest. `view` is the one
    /// that this is a change of.
    pub(super) fn next_part(&mut self, view: &mut View) -> Option<Delta> {
        if self.is_empty() {
            return None;
        }
        let mut size = 0;
        let mut removals = Vec::new();
        let mut upserts = Vec::new();
        loop {
            // What is left of a service is sent before the next one is encoded.
            while let Some(removal) = self.removals.pop() {
                size += removal.namespace.len() + removal.name.len() + removal.hash.len() + 12;
                removals.push(removal);
                if size >= CHUNK_BYTES {
                    break;
                }
            }
            while size < CHUNK_BYTES {
                let Some(record) = self.upserts.pop() else { break };
                if size + record.len() > CHUNK_BYTES && size > 0 {
                    self.upserts.push(record);
                    break;
                }
                size += record.len() + 6;
                upserts.push(record);
            }
            let blocked = !self.removals.is_empty() || !self.upserts.is_empty();
            if blocked || size >= CHUNK_BYTES {
                break;
            }
            let Some(step) = self.steps.next() else { break };
            self.encode(&step, view);
        }
        let digest = if self.is_empty() { view.digest.to_bytes() } else { Bytes::new() };
        Some(Delta { revision: self.revision, removals, upserts, digest })
    }

    /// Encodes one service's part of the change and brings the digest along.
    fn encode(&mut self, step: &Step, view: &mut View) {
        let (old, new) = (step.old.as_deref(), step.new.as_deref());
        let mut gone: BTreeMap<RecordHash, &ServiceKey> = BTreeMap::new();
        if let Some(export) = old {
            let hashes = records(export, new).map(|record| RecordHash::of(&record));
            gone.extend(hashes.map(|hash| (hash, &export.key)));
        }
        for record in new.into_iter().flat_map(|export| records(export, old)) {
            let hash = RecordHash::of(&record);
            // The same bytes on both sides are neither gone nor new.
            if gone.remove(&hash).is_none() {
                view.digest.add(hash);
                self.upserts.push(record);
            }
        }
        for (hash, key) in gone {
            view.digest.remove(hash);
            self.removals.push(Removal {
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                hash: hash.to_bytes(),
            });
        }
        self.upserts.reverse();
    }
}

#[cfg(test)]
mod tests;
