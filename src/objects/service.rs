//! The derived Service: its ClusterIP is the clusterset address, of an import or of one remote
//! pod of a headless one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::json::{self, RawAffinity, RawMeta, RawPort, or_default};
use super::labels::{
    ANNOTATION_PORTS, LABEL_MANAGED_BY, LABEL_POD, LABEL_POD_CLUSTER, LABEL_SERVICE,
};
use super::object::Meta;
use crate::catalog::{IpFamily, SessionAffinity};
use crate::model::PortSpec;

/// A Service without selector, of type ClusterIP.
#[derive(Debug, Clone)]
pub struct DerivedService {
    /// Its metadata.
    pub meta: Meta,
    /// Its ports, named `<proto>-<number>`.
    pub ports: Vec<PortSpec>,
    /// Its affinity.
    pub session_affinity: SessionAffinity,
    /// The families to ask for when it is created, the first is the primary one. The address is
    /// constant for the life of an import, so they are never changed, read back or compared.
    pub families: Vec<IpFamily>,
    /// The addresses to ask for when it is created again; empty: any. As `families`.
    pub ips: Vec<IpAddr>,
    /// Somebody changed what is the same in all of ours (type, selector, traffic policy): then it
    /// differs from every desired one, and is put right.
    pub tampered: bool,
}

impl PartialEq for DerivedService {
    fn eq(&self, other: &Self) -> bool {
        let Self { meta, ports, session_affinity, families: _, ips: _, tampered } = self;
        *meta == other.meta
            && *ports == other.ports
            && *session_affinity == other.session_affinity
            && *tampered == other.tampered
    }
}

impl Eq for DerivedService {}

impl DerivedService {
    pub(super) fn to_json(&self) -> Value {
        let mut spec = self.mutable();
        // With PreferDualStack the API server adds the family that was not asked for.
        let policy = if self.families.len() == 1 { "SingleStack" } else { "PreferDualStack" };
        spec.insert("ipFamilyPolicy".into(), policy.into());
        let families: Vec<_> = self.families.iter().map(|family| json::family(*family)).collect();
        if !families.is_empty() {
            spec.insert("ipFamilies".into(), json!(families));
        }
        if let Some(first) = self.ips.first() {
            spec.insert("clusterIP".into(), json!(first));
            spec.insert("clusterIPs".into(), json!(self.ips));
        }
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": json::metadata(&self.meta),
            "spec": spec,
        })
    }

    pub(super) fn patch_json(&self) -> Value {
        let mut spec = self.mutable();
        // In a merge patch, null takes a field away.
        spec.entry("sessionAffinityConfig").or_insert(Value::Null);
        spec.insert("selector".into(), Value::Null);
        spec.insert("trafficDistribution".into(), Value::Null);
        let mut annotations = json!(self.meta.annotations);
        if !self.meta.annotations.contains_key(ANNOTATION_PORTS) {
            annotations[ANNOTATION_PORTS] = Value::Null;
        }
        let mut labels = json!(self.meta.labels);
        for of_pods in [LABEL_POD, LABEL_POD_CLUSTER] {
            if !self.meta.labels.contains_key(of_pods) {
                labels[of_pods] = Value::Null;
            }
        }
        json!({
            "metadata": { "labels": labels, "annotations": annotations },
            "spec": spec,
        })
    }

    /// What may change in an existing Service.
    fn mutable(&self) -> Map<String, Value> {
        let mut spec = Map::new();
        spec.insert("type".into(), "ClusterIP".into());
        spec.insert("internalTrafficPolicy".into(), "Cluster".into());
        spec.insert("ports".into(), self.ports.iter().map(json::port).collect());
        json::affinity(self.session_affinity, &mut spec);
        spec
    }

    pub(super) fn parse(value: &Value) -> Result<Self, serde_json::Error> {
        let Raw { metadata, spec } = Raw::deserialize(value)?;
        let tampered = !matches!(spec.kind.as_deref(), None | Some("ClusterIP"))
            || !spec.selector.is_empty()
            || !matches!(spec.internal_traffic_policy.as_deref(), None | Some("Cluster"))
            || spec.traffic_distribution.is_some();
        Ok(Self {
            meta: metadata.keep(
                |key| {
                    matches!(key, LABEL_MANAGED_BY | LABEL_SERVICE | LABEL_POD | LABEL_POD_CLUSTER)
                },
                |key| key == ANNOTATION_PORTS,
            ),
            ports: spec.ports.into_iter().map(Into::into).collect(),
            session_affinity: json::to_affinity(
                spec.session_affinity.as_deref(),
                spec.session_affinity_config,
            ),
            families: Vec::new(),
            ips: Vec::new(),
            tampered,
        })
    }
}

#[derive(Deserialize)]
struct Raw {
    metadata: RawMeta,
    spec: RawSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    #[serde(rename = "type")]
    kind: Option<Box<str>>,
    #[serde(default, deserialize_with = "or_default")]
    selector: BTreeMap<Box<str>, Box<str>>,
    internal_traffic_policy: Option<Box<str>>,
    traffic_distribution: Option<Box<str>>,
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<RawPort>,
    session_affinity: Option<Box<str>>,
    session_affinity_config: Option<RawAffinity>,
}
