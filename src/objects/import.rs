//! The ServiceImport, as in `multicluster.x-k8s.io` (KEP-1645).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::condition::Condition;
use super::json::{self, RawAffinity, RawMeta, RawPort, or_default};
use super::labels::{ANNOTATION_EXPORTED, LABEL_MANAGED_BY, LABEL_SERVICE};
use super::object::{McsVersion, Meta};
use crate::catalog::{IpFamily, ServiceType, SessionAffinity};
use crate::model::{ClusterId, PortSpec};

type Texts = BTreeMap<Box<str>, Box<str>>;

/// An import with its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceImport {
    /// Its metadata; exported labels and annotations stand in it.
    pub meta: Meta,
    /// What it is.
    pub spec: ImportSpec,
    /// How it does.
    pub status: ImportStatus,
}

/// `spec` of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportSpec {
    /// The type.
    pub service_type: ServiceType,
    /// The ports, verbatim.
    pub ports: Vec<PortSpec>,
    /// The clusterset addresses, at most one per family; empty for headless.
    pub ips: Vec<IpAddr>,
    /// The families, in the order of `ips`.
    pub families: Vec<IpFamily>,
    /// The affinity.
    pub session_affinity: SessionAffinity,
    /// `internalTrafficPolicy`, verbatim.
    pub internal_traffic_policy: Option<Box<str>>,
    /// `trafficDistribution`, verbatim.
    pub traffic_distribution: Option<Box<str>>,
}

/// `status` of an import.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportStatus {
    /// The exporting clusters.
    pub clusters: BTreeSet<ClusterId>,
    /// `Ready`.
    pub conditions: Vec<Condition>,
    /// Whether EndpointSlices of the import exist; `None` before anybody said so.
    pub endpoint_slices: Option<bool>,
}

impl ImportStatus {
    /// As under `status`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let clusters: Vec<_> =
            self.clusters.iter().map(|cluster| json!({ "cluster": cluster })).collect();
        let conditions: Vec<_> = self.conditions.iter().map(Condition::to_json).collect();
        let mut value = json!({ "clusters": clusters, "conditions": conditions });
        if let Some(present) = self.endpoint_slices {
            value["endpointSliceObjects"] = if present { "Present" } else { "Absent" }.into();
        }
        value
    }
}

/// Which labels and annotations of the import were exported, so that those of others are left
/// out when it is read.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ExportedKeys {
    pub(super) annotations: BTreeSet<Box<str>>,
    pub(super) labels: BTreeSet<Box<str>>,
}

impl ServiceImport {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "apiVersion": McsVersion::V1beta1.api_version(),
            "kind": "ServiceImport",
            "metadata": json::metadata(&self.meta),
            "spec": self.spec.to_json(),
        })
    }

    pub(super) fn patch_json(&self, before: &Self) -> Value {
        let mut spec = self.spec.to_json();
        // In a merge patch, null takes a field away.
        for optional in OPTIONAL {
            if spec[optional].is_null() {
                spec[optional] = Value::Null;
            }
        }
        json!({
            "metadata": {
                "labels": instead_of(&before.meta.labels, &self.meta.labels),
                "annotations": instead_of(&before.meta.annotations, &self.meta.annotations),
            },
            "spec": spec,
        })
    }

    pub(super) fn parse(value: &Value) -> Result<Self, serde_json::Error> {
        let Raw { metadata, spec, status } = Raw::deserialize(value)?;
        let exported: ExportedKeys = metadata
            .annotations
            .get(ANNOTATION_EXPORTED)
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let meta = metadata.keep(
            |key| matches!(key, LABEL_MANAGED_BY | LABEL_SERVICE) || exported.labels.contains(key),
            |key| key == ANNOTATION_EXPORTED || exported.annotations.contains(key),
        );
        // We give it none, so one that it has is somebody else's.
        let meta = Meta { owner: None, ..meta };
        let spec = ImportSpec {
            service_type: spec.kind,
            ports: spec.ports.into_iter().map(Into::into).collect(),
            ips: spec.ips,
            families: spec.ip_families,
            session_affinity: json::to_affinity(
                spec.session_affinity.as_deref(),
                spec.session_affinity_config,
            ),
            internal_traffic_policy: spec.internal_traffic_policy,
            traffic_distribution: spec.traffic_distribution,
        };
        let status = ImportStatus {
            clusters: status.clusters.into_iter().map(|of| of.cluster).collect(),
            conditions: Condition::list(&status.conditions),
            endpoint_slices: match status.endpoint_slice_objects.as_deref() {
                Some("Present") => Some(true),
                Some("Absent") => Some(false),
                _ => None,
            },
        };
        Ok(Self { meta, spec, status })
    }
}

/// What may be absent in the spec of an import.
const OPTIONAL: [&str; 5] =
    ["ips", "ipFamilies", "sessionAffinityConfig", "internalTrafficPolicy", "trafficDistribution"];

/// Labels or annotations of ours in place of those before.
fn instead_of(before: &Texts, now: &Texts) -> Value {
    let gone = before.keys().filter(|key| !now.contains_key(*key));
    let mut all: Map<String, Value> = gone.map(|key| (key.to_string(), Value::Null)).collect();
    all.extend(now.iter().map(|(key, value)| (key.to_string(), json!(value))));
    Value::Object(all)
}

impl ImportSpec {
    fn to_json(&self) -> Value {
        let mut spec = Map::new();
        spec.insert("type".into(), json!(self.service_type));
        spec.insert("ports".into(), self.ports.iter().map(json::port).collect());
        if !self.ips.is_empty() {
            spec.insert("ips".into(), json!(self.ips));
        }
        if !self.families.is_empty() {
            spec.insert("ipFamilies".into(), json!(self.families));
        }
        json::affinity(self.session_affinity, &mut spec);
        if let Some(policy) = &self.internal_traffic_policy {
            spec.insert("internalTrafficPolicy".into(), json!(policy));
        }
        if let Some(distribution) = &self.traffic_distribution {
            spec.insert("trafficDistribution".into(), json!(distribution));
        }
        Value::Object(spec)
    }
}

#[derive(Deserialize)]
struct Raw {
    metadata: RawMeta,
    spec: RawSpec,
    #[serde(default, deserialize_with = "or_default")]
    status: RawStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    #[serde(rename = "type")]
    kind: ServiceType,
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<RawPort>,
    #[serde(default, deserialize_with = "or_default")]
    ips: Vec<IpAddr>,
    #[serde(default, deserialize_with = "or_default")]
    ip_families: Vec<IpFamily>,
    session_affinity: Option<Box<str>>,
    session_affinity_config: Option<RawAffinity>,
    internal_traffic_policy: Option<Box<str>>,
    traffic_distribution: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawStatus {
    #[serde(default, deserialize_with = "or_default")]
    clusters: Vec<RawCluster>,
    #[serde(default, deserialize_with = "or_default")]
    conditions: Vec<Value>,
    endpoint_slice_objects: Option<Box<str>>,
}

#[derive(Deserialize)]
struct RawCluster {
    cluster: ClusterId,
}
