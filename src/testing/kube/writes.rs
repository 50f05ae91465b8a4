//! Creating, changing and deleting, with what the real server checks and fills in.

use std::sync::Arc;

use serde_json::{Value, json};

use super::admit;
use super::kinds::{Kind, Scope};
use super::object::{Key, Object};
use super::refusal::Refusal;
use super::store::Store;
use crate::clock;

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// A client: all rules hold.
    Client,
    /// The test: sets status with the rest, makes namespaces on the way, needs no version.
    Test,
}

/// Which part is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Everything but status, where status has a path of its own.
    Main,
    /// Status alone.
    Status,
}

/// What a deletion insists on.
#[derive(Debug, Default)]
pub(super) struct Preconditions {
    pub(super) uid: Option<String>,
    pub(super) version: Option<String>,
}

/// Metadata that is the server's; never taken from an update.
const SYSTEM_FIELDS: [&str; 5] =
    ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"];

impl Store {
    /// `value` has its `metadata.namespace` already.
    pub(super) fn create(
        &mut self,
        table: usize,
        mut value: Value,
        writer: Writer,
    ) -> Result<Arc<Object>, Refusal> {
        let kind = Arc::clone(&self.tables[table].kind);
        let key = self.name(&mut value)?;
        self.check_namespace(&kind, &key, writer)?;
        if self.get(table, &key).is_some() {
            return Err(Refusal::exists(&kind, &key.1));
        }
        let metadata = &mut value["metadata"];
        if writer == Writer::Client {
            if !text(metadata, "resourceVersion").is_empty() {
                let why = "resourceVersion should not be set on objects to be created";
                return Err(Refusal::bad_request(why));
            }
            for field in SYSTEM_FIELDS {
                remove(metadata, field);
            }
            if kind.status {
                remove(&mut value, "status");
            }
        }
        self.stamp(&kind, &mut value["metadata"]);
        if kind.resource == "namespaces" && value["status"].is_null() {
            value["status"] = json!({ "phase": "Active" });
        }
        admit::admit(self, table, None, &mut value)?;
        self.prune(&kind, &mut value);
        Ok(self.commit(table, value))
    }

    /// Drops what the schema does not have.
    fn prune(&self, kind: &Kind, value: &mut Value) {
        let unknown = self.unknown.iter().filter(|(plural, _)| *plural == kind.resource);
        for pointer in unknown.flat_map(|(_, pointers)| pointers.iter()) {
            let Some((parent, field)) = pointer.rsplit_once('/') else { continue };
            if let Some(parent) = value.pointer_mut(parent) {
                remove(parent, field);
            }
        }
    }

    /// A test's words, as they are; only what a watch cannot do without is added.
    pub(super) fn put_raw(&mut self, table: usize, mut value: Value) -> Arc<Object> {
        let kind = Arc::clone(&self.tables[table].kind);
        let key = self.name(&mut value).expect("a raw object has a name");
        self.check_namespace(&kind, &key, Writer::Test).expect("a test may write anywhere");
        if let Some(old) = self.get(table, &key) {
            let old = old.inner_json();
            keep_system_fields(&old, &mut value);
        }
        self.stamp(&kind, &mut value["metadata"]);
        self.commit(table, value)
    }

    /// Name (made up where only a prefix is given) and namespace.
    fn name(&self, value: &mut Value) -> Result<Key, Refusal> {
        if !value["metadata"].is_object() {
            return Err(Refusal::bad_request("the object has no metadata"));
        }
        let metadata = &mut value["metadata"];
        if text(metadata, "name").is_empty() {
            let prefix = text(metadata, "generateName").to_owned();
            if prefix.is_empty() {
                return Err(Refusal::bad_request("name or generateName is required"));
            }
            metadata["name"] = json!(format!("{prefix}{:05}", self.version % 100_000));
        }
        Ok((text(metadata, "namespace").to_owned(), text(metadata, "name").to_owned()))
    }

    fn check_namespace(&mut self, kind: &Kind, key: &Key, writer: Writer) -> Result<(), Refusal> {
        if kind.scope == Scope::Cluster {
            return Ok(());
        }
        let namespaces = self.table_called("namespaces");
        let namespace = (String::new(), key.0.clone());
        if writer == Writer::Test && self.get(namespaces, &namespace).is_none() {
            let made = json!({ "metadata": { "name": key.0 } });
            self.create(namespaces, made, Writer::Test)?;
        }
        let found = self.found(namespaces, &namespace)?;
        if writer == Writer::Client && found.inner_json()["status"]["phase"] == "Terminating" {
            return Err(Refusal::terminating(kind, &key.1, &key.0));
        }
        Ok(())
    }

    /// What the server alone says of an object; what a test said stays.
    fn stamp(&mut self, kind: &Kind, metadata: &mut Value) {
        if text(metadata, "uid").is_empty() {
            metadata["uid"] = json!(self.next_uid());
        }
        if text(metadata, "creationTimestamp").is_empty() {
            metadata["creationTimestamp"] = json!(timestamp());
        }
        if kind.generation && metadata["generation"].is_null() {
            metadata["generation"] = json!(1);
        }
    }

    /// `value` is the whole object as the writer wants it.
    pub(super) fn update(
        &mut self,
        table: usize,
        key: &Key,
        mut value: Value,
        part: Part,
        writer: Writer,
    ) -> Result<Arc<Object>, Refusal> {
        let kind = Arc::clone(&self.tables[table].kind);
        let current = self.found(table, key)?;
        let old = current.inner_json();
        if writer == Writer::Client {
            check_version(&kind, &current, &value["metadata"])?;
        }
        let mut new = match part {
            Part::Status => {
                let mut new = old.clone();
                set(&mut new, "status", value["status"].take());
                new
            }
            Part::Main => {
                keep_system_fields(&old, &mut value);
                let keeps = writer == Writer::Client || value["status"].is_null();
                if kind.status && keeps {
                    set(&mut value, "status", old["status"].clone());
                }
                admit::admit(self, table, Some(&old), &mut value)?;
                value
            }
        };
        self.prune(&kind, &mut new);
        remove(&mut new, "apiVersion");
        remove(&mut new, "kind");
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        if new == old {
            return Ok(current);
        }
        if kind.generation && is_counted(&kind, &old, &new) {
            let count = old["metadata"]["generation"].as_u64().unwrap_or(0);
            new["metadata"]["generation"] = json!(count + 1);
        }
        let deleted = !new["metadata"]["deletionTimestamp"].is_null();
        let written = self.commit(table, new);
        if deleted && finalizers(&written.inner_json()) == 0 && kind.resource != "namespaces" {
            self.remove(table, key);
        }
        Ok(written)
    }

    /// The object that stays until its finalizers are done; `None` when it is gone.
    pub(super) fn delete(
        &mut self,
        table: usize,
        key: &Key,
        wanted: &Preconditions,
    ) -> Result<Option<Arc<Object>>, Refusal> {
        let kind = Arc::clone(&self.tables[table].kind);
        let current = self.found(table, key)?;
        let version = current.version.to_string();
        for (what, asked, found) in
            [("UID", &wanted.uid, &current.uid), ("ResourceVersion", &wanted.version, &version)]
        {
            if let Some(asked) = asked.as_ref().filter(|asked| *asked != found) {
                return Err(Refusal::precondition(&kind, &key.1, what, asked, found));
            }
        }
        let mut value = current.inner_json();
        if finalizers(&value) > 0 {
            if !value["metadata"]["deletionTimestamp"].is_null() {
                return Ok(Some(current));
            }
            value["metadata"]["deletionTimestamp"] = json!(timestamp());
            value["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            return Ok(Some(self.commit(table, value)));
        }
        if kind.resource == "namespaces" {
            self.terminate(table, key)?;
            self.empty(&key.1);
        }
        self.remove(table, key);
        Ok(None)
    }

    /// Marks a namespace as about to go; what is in it stays.
    pub(super) fn terminate(&mut self, namespaces: usize, key: &Key) -> Result<(), Refusal> {
        let current = self.found(namespaces, key)?;
        let mut value = current.inner_json();
        if value["status"]["phase"] == "Terminating" {
            return Ok(());
        }
        value["metadata"]["deletionTimestamp"] = json!(timestamp());
        value["status"] = json!({ "phase": "Terminating" });
        self.commit(namespaces, value);
        Ok(())
    }

    fn empty(&mut self, namespace: &str) {
        for table in 0..self.tables.len() {
            let inside: Vec<Key> = self.tables[table]
                .objects
                .range((namespace.to_owned(), String::new())..)
                .take_while(|(key, _)| key.0 == namespace)
                .map(|(key, _)| key.clone())
                .collect();
            for key in inside.iter().filter(|key| !key.0.is_empty()) {
                self.remove(table, key);
            }
        }
    }
}

/// Nobody overwrites what they have not seen.
fn check_version(kind: &Kind, current: &Object, metadata: &Value) -> Result<(), Refusal> {
    let name = &current.key.1;
    let uid = text(metadata, "uid");
    if !uid.is_empty() && uid != current.uid {
        return Err(Refusal::precondition(kind, name, "UID", uid, &current.uid));
    }
    match text(metadata, "resourceVersion") {
        "" | "0" if kind.unconditional => Ok(()),
        "" | "0" => {
            let why = "Invalid value: 0x0: must be specified for an update";
            Err(Refusal::invalid(kind, name, "metadata.resourceVersion", why))
        }
        version if version == current.version.to_string() => Ok(()),
        _ => Err(Refusal::stale(kind, name)),
    }
}

fn keep_system_fields(old: &Value, new: &mut Value) {
    for field in SYSTEM_FIELDS {
        let kept = old["metadata"][field].clone();
        set(&mut new["metadata"], field, kept);
    }
}

/// Whether anything changed that `generation` counts.
fn is_counted(kind: &Kind, old: &Value, new: &Value) -> bool {
    let counts = |field: &str| field != "metadata" && !(kind.status && field == "status");
    let differ = |one: &Value, other: &Value| {
        let mut fields = one.as_object().into_iter().flatten();
        fields.any(|(field, value)| counts(field) && other[field] != *value)
    };
    differ(old, new) || differ(new, old)
}

fn finalizers(value: &Value) -> usize {
    value["metadata"]["finalizers"].as_array().map_or(0, Vec::len)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Absent rather than `null`.
fn set(value: &mut Value, field: &str, to: Value) {
    if to.is_null() {
        remove(value, field);
    } else {
        value[field] = to;
    }
}

fn remove(value: &mut Value, field: &str) {
    if let Some(object) = value.as_object_mut() {
        object.remove(field);
    }
}

/// As the API server writes times: whole seconds.
fn timestamp() -> String {
    let now = jiff::Timestamp::from_millisecond(clock::wall_ms()).unwrap_or_default();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
