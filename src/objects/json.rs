//! The shapes that all our objects share on their way to and from JSON.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::object::{Meta, Owner};
use crate::catalog::{IpFamily, SessionAffinity};
use crate::model::{Namespace, PortNumber, PortSpec, Protocol};

/// Unix seconds in the spelling of the Kubernetes API (RFC 3339, UTC).
pub(super) fn time(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// RFC 3339 to Unix seconds.
pub(super) fn to_seconds(text: &str) -> Option<i64> {
    text.parse().ok().map(Timestamp::as_second)
}

/// Takes `null` for what is left out: Go writes empty lists and maps so.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `metadata`, as far as any kind of ours needs it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawMeta {
    pub(super) namespace: Namespace,
    pub(super) name: Box<str>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<Box<str>, Box<str>>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) annotations: BTreeMap<Box<str>, Box<str>>,
    #[serde(default, deserialize_with = "or_default")]
    owner_references: Vec<RawOwner>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawOwner {
    api_version: Box<str>,
    kind: Box<str>,
    name: Box<str>,
    uid: Box<str>,
}

impl RawMeta {
    /// Keeps the labels and annotations that are ours.
    pub(super) fn keep(
        mut self,
        label: impl Fn(&str) -> bool,
        annotation: impl Fn(&str) -> bool,
    ) -> Meta {
        self.labels.retain(|key, _| label(key));
        self.annotations.retain(|key, _| annotation(key));
        // We give at most one owner, always an import or a Service.
        let ours = |owner: &RawOwner| matches!(&*owner.kind, "ServiceImport" | "Service");
        let owner = self.owner_references.into_iter().find(ours).map(|owner| Owner {
            api_version: owner.api_version,
            kind: owner.kind,
            name: owner.name,
            uid: owner.uid,
        });
        Meta {
            namespace: self.namespace,
            name: self.name,
            labels: self.labels,
            annotations: self.annotations,
            owner,
        }
    }
}

/// `metadata` to write.
pub(super) fn metadata(meta: &Meta) -> Value {
    let mut value = json!({
        "namespace": meta.namespace,
        "name": meta.name,
        "labels": meta.labels,
    });
    if !meta.annotations.is_empty() {
        value["annotations"] = json!(meta.annotations);
    }
    if let Some(owner) = &meta.owner {
        value["ownerReferences"] = json!([{
            "apiVersion": owner.api_version,
            "kind": owner.kind,
            "name": owner.name,
            "uid": owner.uid,
        }]);
    }
    value
}

/// One port of an import or a Service.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawPort {
    #[serde(default)]
    name: Box<str>,
    #[serde(default)]
    protocol: Protocol,
    port: PortNumber,
    app_protocol: Option<Box<str>>,
}

impl From<RawPort> for PortSpec {
    fn from(raw: RawPort) -> Self {
        Self {
            name: raw.name,
            protocol: raw.protocol,
            port: raw.port,
            app_protocol: raw.app_protocol,
        }
    }
}

/// One port to write; the protocol is always written out, an absent `appProtocol` stays absent.
pub(super) fn port(spec: &PortSpec) -> Value {
    let mut value = json!({ "protocol": spec.protocol.as_str(), "port": spec.port });
    if !spec.name.is_empty() {
        value["name"] = json!(spec.name);
    }
    if let Some(protocol) = &spec.app_protocol {
        value["appProtocol"] = json!(protocol);
    }
    value
}

/// `sessionAffinityConfig`.
#[derive(Deserialize)]
pub(super) struct RawAffinity {
    #[serde(rename = "clientIP")]
    client_ip: Option<RawClientIp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawClientIp {
    timeout_seconds: Option<u32>,
}

/// Reads `sessionAffinity` with its configuration; the default timeout is filled in.
pub(super) fn to_affinity(kind: Option<&str>, config: Option<RawAffinity>) -> SessionAffinity {
    let timeout = || config?.client_ip?.timeout_seconds;
    match kind {
        Some("ClientIP") => SessionAffinity::ClientIp {
            timeout_seconds: timeout().unwrap_or(SessionAffinity::DEFAULT_SECONDS),
        },
        _ => SessionAffinity::None,
    }
}

/// Writes `sessionAffinity` and its configuration into a spec.
pub(super) fn affinity(affinity: SessionAffinity, spec: &mut Map<String, Value>) {
    match affinity {
        SessionAffinity::None => {
            spec.insert("sessionAffinity".into(), "None".into());
        }
        SessionAffinity::ClientIp { timeout_seconds } => {
            spec.insert("sessionAffinity".into(), "ClientIP".into());
            let config = json!({ "clientIP": { "timeoutSeconds": timeout_seconds } });
            spec.insert("sessionAffinityConfig".into(), config);
        }
    }
}

/// The spelling of a family.
pub(super) fn family(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}
