//! The status of objects that others made: ServiceExports and Peers.
//!
//! The object is read first, so that what is written is computed from its present state: our
//! conditions are put beside those of others, keep their time of transition while their status
//! stays, and nothing is written where all of that is there already.

use std::time::Instant;

use kube::Client;
use serde_json::{Map, Value, json};

use super::change::fenced;
use super::job::Outcome;
use crate::kubernetes::calls::{Call, Fault, Verb};
use crate::model::ServiceKey;
use crate::objects::{Condition, ExportStatus, McsVersion, PeerStatus};

/// The conditions of a ServiceExport that are ours.
const EXPORT_CONDITIONS: [&str; 3] = ["Valid", "Ready", "Conflict"];
/// How often a conflict is answered with another look before the next turn.
const ATTEMPTS: usize = 3;

/// A status to be brought to what it should be.
#[derive(Debug, Clone)]
pub(super) struct StatusJob {
    path: String,
    /// The object it is meant for; `None`: whichever has the name.
    uid: Option<Box<str>>,
    /// The fields to be set; null: absent.
    fields: Map<String, Value>,
    /// The conditions that are ours.
    conditions: Vec<Value>,
}

impl StatusJob {
    /// For a ServiceExport.
    pub(super) fn export(status: &ExportStatus, mcs: McsVersion) -> Self {
        let ServiceKey { namespace, name } = &status.key;
        let version = mcs.api_version();
        let ours = status.conditions.iter().filter(|of| EXPORT_CONDITIONS.contains(&&*of.kind));
        Self {
            path: format!("/apis/{version}/namespaces/{namespace}/serviceexports/{name}"),
            uid: Some(status.uid.clone()),
            fields: Map::new(),
            conditions: ours.map(Condition::to_json).collect(),
        }
    }

    /// For the Peer of that name.
    pub(super) fn peer(name: &str, status: &PeerStatus) -> Self {
        let mut fields = Map::new();
        // In a merge patch, null takes away what stood there before.
        fields.insert("rtt".into(), Value::Null);
        fields.insert("observedGeneration".into(), Value::Null);
        if let Value::Object(set) = status.to_json() {
            fields.extend(set);
        }
        fields.remove("conditions");
        Self {
            path: format!("/apis/portolan.dev/v1alpha1/peers/{name}"),
            uid: None,
            fields,
            conditions: status.conditions.iter().map(Condition::to_json).collect(),
        }
    }

    /// Reads, compares, and writes on the version that was read.
    pub(super) async fn run(self, client: &Client, deadline: Instant) -> Outcome {
        for _ in 0..ATTEMPTS {
            let read = Call { verb: Verb::Read, path: self.path.clone(), body: Value::Null };
            let now = match read.send(client, deadline).await {
                Ok(now) => now,
                Err(Fault::Absent(_)) => return Outcome::Unneeded,
                Err(fault) => return Outcome::Failed(fault),
            };
            let Some(body) = self.patch(&now) else { return Outcome::Unneeded };
            let path = format!("{}/status", self.path);
            match (Call { verb: Verb::Merge, path, body }).send(client, deadline).await {
                Ok(_) => return Outcome::Written(None),
                Err(Fault::Conflict(_)) => {}
                Err(Fault::Absent(_)) => return Outcome::Unneeded,
                Err(fault) => return Outcome::Failed(fault),
            }
        }
        Outcome::Failed(Fault::Conflict("it changes faster than it can be written".into()))
    }

    /// The patch that makes the status of `object` what it should be; `None`: it is.
    pub(super) fn patch(&self, object: &Value) -> Option<Value> {
        let uid = object["metadata"]["uid"].as_str()?;
        let version = object["metadata"]["resourceVersion"].as_str()?;
        if self.uid.as_deref().is_some_and(|wanted| wanted != uid) {
            return None;
        }
        let status = &object["status"];
        let conditions = self.merged(&status["conditions"]);
        let set = self.fields.iter().all(|(field, value)| status[field] == *value);
        if set && status["conditions"] == conditions {
            return None;
        }
        let mut fields = self.fields.clone();
        fields.insert("conditions".into(), conditions);
        Some(fenced(json!({ "status": fields }), uid, version))
    }

    /// Our conditions in place of those of the same type; those of others stay as they are.
    fn merged(&self, present: &Value) -> Value {
        let mut merged = present.as_array().cloned().unwrap_or_default();
        for condition in &self.conditions {
            let mut condition = condition.clone();
            match merged.iter_mut().find(|before| before["type"] == condition["type"]) {
                Some(before) => {
                    let since = &before["lastTransitionTime"];
                    if before["status"] == condition["status"] && since.is_string() {
                        condition["lastTransitionTime"] = since.clone();
                    }
                    *before = condition;
                }
                None => merged.push(condition),
            }
        }
        Value::Array(merged)
    }
}
