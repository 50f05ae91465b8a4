//! An object as it is kept: what is asked often beside the encoded rest.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::kinds::Kind;
use super::selector::labels_of;

/// Namespace (empty for those of the cluster) and name.
pub(super) type Key = (String, String);

/// One version of an object; never changed.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) version: u64,
    pub(super) labels: BTreeMap<String, String>,
    /// The uids of its owners.
    pub(super) owners: Vec<String>,
    /// Encoded without `apiVersion` and `kind`, which depend on who asks.
    inner: Vec<u8>,
}

/// How objects are shown to one client.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) metadata_only: bool,
}

impl Look {
    pub(super) fn new(kind: &Kind, version: &str, metadata_only: bool) -> Self {
        if metadata_only {
            return Self {
                api_version: "meta.k8s.io/v1".to_owned(),
                kind: "PartialObjectMetadata".to_owned(),
                metadata_only,
            };
        }
        let api_version = kind.api_version(version);
        Self { api_version, kind: kind.kind.clone(), metadata_only }
    }
}

impl Object {
    /// Takes an object whose metadata is complete.
    pub(super) fn new(mut value: Value, version: u64) -> Self {
        let metadata = &mut value["metadata"];
        metadata["resourceVersion"] = json!(version.to_string());
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let owners = metadata["ownerReferences"].as_array().map_or_else(Vec::new, |owners| {
            owners.iter().filter_map(|o| Some(o["uid"].as_str()?.to_owned())).collect()
        });
        let key = (text("namespace"), text("name"));
        let uid = text("uid");
        let labels = labels_of(metadata);
        if let Some(object) = value.as_object_mut() {
            object.remove("apiVersion");
            object.remove("kind");
        }
        let inner = serde_json::to_vec(&value).expect("a JSON value is encodable");
        Self { key, uid, version, labels, owners, inner }
    }

    /// In octets, encoded.
    pub(super) fn size(&self) -> usize {
        self.inner.len()
    }

    /// Without `apiVersion` and `kind`.
    pub(super) fn inner_json(&self) -> Value {
        serde_json::from_slice(&self.inner).expect("encoded by `new`")
    }

    /// Whole.
    pub(super) fn to_json(&self, api_version: &str, kind: &str) -> Value {
        let mut value = self.inner_json();
        value["apiVersion"] = json!(api_version);
        value["kind"] = json!(kind);
        value
    }

    /// The same object with another `resourceVersion`.
    pub(super) fn at_version(&self, version: u64) -> Self {
        Self::new(self.inner_json(), version)
    }

    /// Appends the object as a client sees it.
    pub(super) fn write(&self, look: &Look, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"apiVersion\":\"");
        out.extend_from_slice(look.api_version.as_bytes());
        out.extend_from_slice(b"\",\"kind\":\"");
        out.extend_from_slice(look.kind.as_bytes());
        out.extend_from_slice(b"\",");
        self.write_rest(look, out);
    }

    /// Appends the object as an item of a typed list: without `apiVersion` and `kind`.
    pub(super) fn write_item(&self, look: &Look, out: &mut Vec<u8>) {
        out.push(b'{');
        self.write_rest(look, out);
    }

    /// All behind the opening brace; there is always metadata, so it is not empty.
    fn write_rest(&self, look: &Look, out: &mut Vec<u8>) {
        if look.metadata_only {
            let mut metadata = Map::new();
            metadata.insert("metadata".to_owned(), self.inner_json()["metadata"].take());
            let text = Value::Object(metadata).to_string();
            out.extend_from_slice(&text.as_bytes()[1..]);
        } else {
            out.extend_from_slice(&self.inner[1..]);
        }
    }
}
