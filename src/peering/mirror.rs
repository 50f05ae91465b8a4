//! What a subscriber holds of one publisher: every record that travelled, read or refused.
//!
//! Cheap to clone (services are shared), so that a session can hand out what it holds and go on
//! changing its own copy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use thiserror::Error;

use super::convert::{self, BadRecord, Parsed};
use super::digest::{CatalogDigest, RecordHash};
use crate::catalog::{Export, ExportedEndpoint};
use crate::model::ServiceKey;

/// How much of one peer is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caps {
    /// Services.
    pub(super) services: usize,
    /// Endpoints of all services.
    pub(super) endpoints: usize,
    /// Bytes of all records.
    pub(super) bytes: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { services: 10_000, endpoints: 100_000, bytes: 64 * 1024 * 1024 }
    }
}

/// Which cap was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum OverCap {
    #[error("it exports more than {0} services; what was known before stays in force")]
    Services(usize),
    #[error("it exports more than {0} endpoints; what was known before stays in force")]
    Endpoints(usize),
    #[error("its catalog has more than {0} bytes; what was known before stays in force")]
    Bytes(usize),
    #[error(
        "its replicas tell different catalogs of more than {0} bytes together; what was known before stays in force"
    )]
    Together(usize),
}

/// What all sessions to one peer may hold together, beyond what they share: two catalogs at
/// their cap, so that one can be replaced.
const BUDGET_BYTES: usize = 2 * 64 * 1024 * 1024;

/// The bytes held by all sessions to one peer. Replicas of one cluster tell the same, and share
/// it; a peer whose replicas all tell something else, and much, is cut here.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget(Arc<AtomicUsize>);

/// One session's share of a [`Budget`], given back when it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Budget,
    bytes: usize,
}

impl Charge {
    pub(super) fn new(budget: Budget) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Changes the share; refused when all shares together would be too much.
    pub(super) fn set(&mut self, bytes: usize) -> Result<(), OverCap> {
        let others = self.budget.0.fetch_add(bytes, Ordering::Relaxed).saturating_sub(self.bytes);
        if bytes > self.bytes && others + bytes > BUDGET_BYTES {
            self.budget.0.fetch_sub(bytes, Ordering::Relaxed);
            return Err(OverCap::Together(BUDGET_BYTES));
        }
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// One service of a mirror.
#[derive(Debug, Clone, Default)]
pub(super) struct Entry {
    /// Its records by hash: one, unless the publisher contradicts itself.
    heads: BTreeMap<RecordHash, Head>,
    endpoints: BTreeMap<RecordHash, Tail>,
    /// The service with its endpoints.
    export: Option<Arc<Export>>,
}

#[derive(Debug, Clone)]
struct Head {
    export: Arc<Export>,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Tail {
    endpoint: ExportedEndpoint,
    bytes: usize,
}

impl Entry {
    /// The service as claimed; absent while only endpoints of it are known.
    pub(super) fn export(&self) -> Option<&Arc<Export>> {
        self.export.as_ref()
    }

    fn settle(&mut self) {
        // Of contradicting records always the same one, in whatever order they came.
        self.export = self.heads.values().next().map(|head| {
            let mut endpoints: Vec<_> =
                self.endpoints.values().map(|tail| tail.endpoint.clone()).collect();
            endpoints.sort();
            Arc::new(Export { endpoints, ..Export::clone(&head.export) })
        });
    }
}

/// All records of one publisher.
#[derive(Debug, Clone, Default)]
pub(super) struct Mirror {
    entries: BTreeMap<ServiceKey, Arc<Entry>>,
    /// Records that could not be read: part of the digest, and believed of nobody.
    refused: BTreeMap<RecordHash, usize>,
    /// Services whose records changed since the last [`Mirror::settle`].
    touched: BTreeSet<ServiceKey>,
    digest: CatalogDigest,
    services: usize,
    endpoints: usize,
    bytes: usize,
    caps: Caps,
}

/// What became of an added record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    /// It is held.
    Held {
        /// It had fields that we do not know.
        skipped_fields: bool,
    },
    /// It was there already.
    Known,
    /// It cannot be read.
    Refused(BadRecord),
}

impl Mirror {
    pub(super) fn new(caps: Caps) -> Self {
        Self { caps, ..Self::default() }
    }

    pub(super) fn digest(&self) -> CatalogDigest {
        self.digest
    }

    /// The bytes of all records.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Every service, settled.
    pub(super) fn entries(&self) -> &BTreeMap<ServiceKey, Arc<Entry>> {
        &self.entries
    }

    /// Adds a record. Over a cap nothing is added, and the mirror is no longer what the publisher
    /// holds.
    pub(super) fn add(&mut self, record: &Bytes) -> Result<Added, OverCap> {
        let hash = RecordHash::of(record);
        let size = record.len();
        if self.bytes + size > self.caps.bytes {
            return Err(OverCap::Bytes(self.caps.bytes));
        }
        let (parsed, skipped_fields) = match convert::parse(record) {
            Ok(parsed) => parsed,
            Err(bad) => return self.refuse(hash, size, bad),
        };
        match &parsed {
            Parsed::Export(_) if self.services >= self.caps.services => {
                return Err(OverCap::Services(self.caps.services));
            }
            Parsed::Endpoint(..) if self.endpoints >= self.caps.endpoints => {
                return Err(OverCap::Endpoints(self.caps.endpoints));
            }
            Parsed::Export(_) | Parsed::Endpoint(..) => {}
        }
        let key = parsed.key().clone();
        let entry = Arc::make_mut(self.entries.entry(key.clone()).or_default());
        if entry.heads.contains_key(&hash) || entry.endpoints.contains_key(&hash) {
            return Ok(Added::Known);
        }
        match parsed {
            Parsed::Export(export) => {
                entry.heads.insert(hash, Head { export: Arc::new(export), bytes: size });
                self.services += 1;
            }
            Parsed::Endpoint(_, endpoint) => {
                entry.endpoints.insert(hash, Tail { endpoint, bytes: size });
                self.endpoints += 1;
            }
        }
        self.bytes += size;
        self.digest.add(hash);
        self.touched.insert(key);
        Ok(Added::Held { skipped_fields })
    }

    fn refuse(&mut self, hash: RecordHash, size: usize, bad: BadRecord) -> Result<Added, OverCap> {
        // Refused records are held by hash; as many as could be good ones.
        if self.refused.len() >= self.caps.services + self.caps.endpoints {
            return Err(OverCap::Services(self.caps.services));
        }
        if self.refused.insert(hash, size).is_none() {
            self.digest.add(hash);
            self.bytes += size;
        }
        Ok(Added::Refused(bad))
    }

    /// Takes a record away; whether it was there.
    pub(super) fn remove(&mut self, key: Option<&ServiceKey>, hash: RecordHash) -> bool {
        let held = key.and_then(|key| self.remove_from(key, hash));
        let Some(bytes) = held.or_else(|| self.refused.remove(&hash)) else {
            return false;
        };
        self.bytes -= bytes;
        self.digest.remove(hash);
        true
    }

    fn remove_from(&mut self, key: &ServiceKey, hash: RecordHash) -> Option<usize> {
        let shared = self.entries.get_mut(key)?;
        if !shared.heads.contains_key(&hash) && !shared.endpoints.contains_key(&hash) {
            return None;
        }
        let entry = Arc::make_mut(shared);
        let bytes = if let Some(head) = entry.heads.remove(&hash) {
            self.services -= 1;
            head.bytes
        } else {
            self.endpoints -= 1;
            entry.endpoints.remove(&hash)?.bytes
        };
        self.touched.insert(key.clone());
        Some(bytes)
    }

    /// Puts services and their endpoints together again where records changed.
    pub(super) fn settle(&mut self) {
        for key in std::mem::take(&mut self.touched) {
            let Some(shared) = self.entries.get_mut(&key) else { continue };
            if shared.heads.is_empty() && shared.endpoints.is_empty() {
                self.entries.remove(&key);
            } else {
                Arc::make_mut(shared).settle();
            }
        }
    }
}

#[cfg(test)]
mod tests;
