//! The objects, the history of their changes, and the one counter of versions.
//!
//! Knows nothing of HTTP, of what is admitted (`writes`) or of who may see what (`selector`).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::addresses::Addresses;
use super::kinds::{self, Kind};
use super::object::{Key, Object};
use super::refusal::Refusal;
use super::selector::Selector;
use crate::catalog::IpFamily;

/// Real versions have many digits; sorting them as text would be noticed.
const FIRST_VERSION: u64 = 998;
/// A table's history; whoever is further behind starts over.
const MAX_LOG_EVENTS: usize = 100_000;
const MAX_LOG_BYTES: usize = 128 << 20;
/// Lists that are being paged through.
const MAX_SNAPSHOTS: usize = 64;

/// A change of one object.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) old: Option<Arc<Object>>,
    /// For a removed one its last state, at the version of the removal.
    pub(super) new: Arc<Object>,
    pub(super) removed: bool,
}

/// The objects of a kind.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) kind: Arc<Kind>,
    /// Whether its paths exist.
    pub(super) served: bool,
    pub(super) objects: BTreeMap<Key, Arc<Object>>,
    log: VecDeque<Event>,
    log_bytes: usize,
    /// Changes up to here are not in the log any more.
    trimmed: u64,
    /// Watches do not start below.
    pub(super) floor: u64,
    /// Wakes the watches.
    pub(super) signal: watch::Sender<()>,
}

/// A list as it was when its first page was asked for.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) version: u64,
    pub(super) objects: Arc<Vec<Arc<Object>>>,
}

/// Everything that the server holds.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) tables: Vec<Table>,
    pub(super) version: u64,
    pub(super) addresses: Addresses,
    /// Fields that the schema of a kind does not have: its plural, and JSON pointers.
    pub(super) unknown: Vec<(String, &'static [&'static str])>,
    uids: u64,
    snapshots: VecDeque<(u64, Snapshot)>,
    snapshot_ids: u64,
    /// Objects by the uid of an owner.
    dependents: HashMap<String, BTreeSet<(usize, Key)>>,
    /// The uids of all that is there.
    living: HashMap<String, (usize, Key)>,
}

impl Table {
    fn new(kind: Kind, version: u64) -> Self {
        Self {
            kind: Arc::new(kind),
            served: true,
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            log_bytes: 0,
            trimmed: version,
            floor: version,
            signal: watch::Sender::new(()),
        }
    }

    fn push(&mut self, event: Event) {
        self.log_bytes += event.new.size();
        self.log.push_back(event);
        while self.log.len() > MAX_LOG_EVENTS
            || (self.log_bytes > MAX_LOG_BYTES && self.log.len() > 1)
        {
            let Some(oldest) = self.log.pop_front() else { break };
            self.log_bytes -= oldest.new.size();
            self.trimmed = oldest.new.version;
            self.floor = self.floor.max(self.trimmed);
        }
        self.signal.send_replace(());
    }

    /// At most `limit` changes after `version`, oldest first; `None` when some are forgotten.
    pub(super) fn after(&self, version: u64, limit: usize) -> Option<Vec<Event>> {
        if version < self.trimmed {
            return None;
        }
        let start = self.log.partition_point(|event| event.new.version <= version);
        Some(self.log.range(start..).take(limit).cloned().collect())
    }

    pub(super) fn matching(&self, selector: &Selector) -> Vec<Arc<Object>> {
        let all = |object: &&Arc<Object>| selector.matches(object);
        match &selector.namespace {
            Some(namespace) => self
                .objects
                .range((namespace.clone(), String::new())..)
                .take_while(|(key, _)| key.0 == *namespace)
                .map(|(_, object)| object)
                .filter(all)
                .cloned()
                .collect(),
            None => self.objects.values().filter(all).cloned().collect(),
        }
    }
}

impl Store {
    pub(super) fn new(families: Vec<IpFamily>) -> Self {
        let version = FIRST_VERSION;
        Self {
            tables: kinds::all().into_iter().map(|kind| Table::new(kind, version)).collect(),
            version,
            addresses: Addresses::new(families),
            unknown: Vec::new(),
            uids: 0,
            snapshots: VecDeque::new(),
            snapshot_ids: 0,
            dependents: HashMap::new(),
            living: HashMap::new(),
        }
    }

    /// Serves one more kind, or serves it differently; its objects stay.
    pub(super) fn install(&mut self, kind: Kind) {
        let known = self
            .tables
            .iter_mut()
            .find(|table| table.kind.group == kind.group && table.kind.resource == kind.resource);
        match known {
            Some(table) => {
                table.kind = Arc::new(kind);
                table.served = true;
            }
            None => self.tables.push(Table::new(kind, self.version)),
        }
    }

    /// The table that people mean by `resource`.
    pub(super) fn table_called(&self, resource: &str) -> usize {
        let found = self.tables.iter().position(|table| table.kind.is_called(resource));
        found.unwrap_or_else(|| panic!("the fake API server does not know {resource}"))
    }

    /// The table at a path; `None` where the version is not served either.
    pub(super) fn table_at(&self, group: &str, version: &str, resource: &str) -> Option<usize> {
        self.tables.iter().position(|table| {
            table.served
                && table.kind.group == group
                && table.kind.resource == resource
                && table.kind.versions.iter().any(|v| v == version)
        })
    }

    /// The table of objects that say this of themselves.
    pub(super) fn table_of(&self, api_version: &str, kind: &str) -> Option<usize> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        self.tables.iter().position(|table| {
            table.kind.group == group
                && table.kind.kind == kind
                && table.kind.versions.iter().any(|v| v == version)
        })
    }

    pub(super) fn get(&self, table: usize, key: &Key) -> Option<&Arc<Object>> {
        self.tables[table].objects.get(key)
    }

    pub(super) fn found(&self, table: usize, key: &Key) -> Result<Arc<Object>, Refusal> {
        let missing = || Refusal::not_found(&self.tables[table].kind, &key.1);
        self.get(table, key).cloned().ok_or_else(missing)
    }

    pub(super) fn next_uid(&mut self) -> String {
        self.uids += 1;
        format!("00000000-0000-4000-8000-{:012x}", self.uids)
    }

    /// Keeps a new state; its metadata is complete but for the version.
    pub(super) fn commit(&mut self, table: usize, value: Value) -> Arc<Object> {
        self.version += 1;
        let new = Arc::new(Object::new(value, self.version));
        let old = self.tables[table].objects.insert(new.key.clone(), Arc::clone(&new));
        if let Some(old) = &old {
            self.unlink(table, old);
        }
        self.living.insert(new.uid.clone(), (table, new.key.clone()));
        for owner in &new.owners {
            let dependents = self.dependents.entry(owner.clone()).or_default();
            dependents.insert((table, new.key.clone()));
        }
        self.tables[table].push(Event { old, new: Arc::clone(&new), removed: false });
        new
    }

    /// Takes an object out, and whatever it was the last owner of.
    pub(super) fn remove(&mut self, table: usize, key: &Key) {
        let mut waiting = vec![(table, key.clone())];
        while let Some((table, key)) = waiting.pop() {
            let Some(old) = self.tables[table].objects.remove(&key) else { continue };
            self.version += 1;
            self.unlink(table, &old);
            self.addresses.release(table, &key);
            let new = Arc::new(old.at_version(self.version));
            let orphans = self.dependents.get(&old.uid).cloned().unwrap_or_default();
            self.tables[table].push(Event { old: Some(old), new, removed: true });
            let is_orphan = |(table, key): &(usize, Key)| {
                let owners = self.get(*table, key).map_or(&[][..], |object| &object.owners);
                !owners.iter().any(|owner| self.living.contains_key(owner))
            };
            waiting.extend(orphans.into_iter().filter(is_orphan));
        }
    }

    fn unlink(&mut self, table: usize, old: &Object) {
        self.living.remove(&old.uid);
        for owner in &old.owners {
            if let Some(dependents) = self.dependents.get_mut(owner) {
                dependents.remove(&(table, old.key.clone()));
                if dependents.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }

    /// Forgets the past: every version handed out so far is too old for a watch to start from,
    /// and lists in the middle of their pages cannot go on.
    pub(super) fn compact(&mut self) {
        self.version += 1;
        for table in &mut self.tables {
            table.floor = self.version;
        }
        self.snapshots.clear();
    }

    /// Keeps a list for its further pages; the number is for [`Store::snapshot`].
    pub(super) fn keep_snapshot(&mut self, snapshot: Snapshot) -> u64 {
        if self.snapshots.len() == MAX_SNAPSHOTS {
            self.snapshots.pop_front();
        }
        self.snapshot_ids += 1;
        self.snapshots.push_back((self.snapshot_ids, snapshot));
        self.snapshot_ids
    }

    pub(super) fn snapshot(&self, id: u64) -> Option<Snapshot> {
        self.snapshots.iter().find(|(kept, _)| *kept == id).map(|(_, list)| list.clone())
    }
}
