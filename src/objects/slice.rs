//! EndpointSlices: those of the derived Service, which kube-proxy reads, and those of the import,
//! which say where each cluster's endpoints are (KEP-1645).

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::json::{self, RawMeta, or_default};
use super::labels::{
    LABEL_MCS_SERVICE, LABEL_SERVICE, LABEL_SLICE_MANAGED_BY, LABEL_SLICE_SERVICE,
    LABEL_SOURCE_CLUSTER,
};
use super::object::Meta;
use crate::catalog::{IpFamily, SliceEndpoint, SlicePort};
use crate::model::{HostLabel, PortNumber, Protocol, canonical};

/// An EndpointSlice of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its metadata.
    pub meta: Meta,
    /// The family of its addresses.
    pub family: IpFamily,
    /// Its ports.
    pub ports: Vec<SlicePort>,
    /// Its endpoints, each with one address.
    pub endpoints: Vec<SliceEndpoint>,
}

impl EndpointSlice {
    pub(super) fn to_json(&self) -> Value {
        let port = |port: &SlicePort| json!({ "name": port.name, "protocol": port.protocol.as_str(), "port": port.port });
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": json::metadata(&self.meta),
            "addressType": json::family(self.family),
            "ports": self.ports.iter().map(port).collect::<Value>(),
            "endpoints": self.endpoints.iter().map(endpoint).collect::<Value>(),
        })
    }

    pub(super) fn parse(value: &Value) -> Result<Self, serde_json::Error> {
        let raw = Raw::deserialize(value)?;
        let meta = raw.metadata.keep(
            |key| {
                matches!(
                    key,
                    LABEL_SLICE_MANAGED_BY
                        | LABEL_SERVICE
                        | LABEL_SLICE_SERVICE
                        | LABEL_MCS_SERVICE
                        | LABEL_SOURCE_CLUSTER
                )
            },
            |_| false,
        );
        Ok(Self {
            meta,
            family: raw.address_type,
            ports: raw.ports.into_iter().map(Into::into).collect(),
            endpoints: raw.endpoints.into_iter().map(Into::into).collect(),
        })
    }
}

fn endpoint(endpoint: &SliceEndpoint) -> Value {
    let mut value = Map::new();
    value.insert("addresses".into(), json!(endpoint.addresses));
    let conditions = json!({
        "ready": endpoint.ready,
        "serving": endpoint.serving,
        "terminating": endpoint.terminating,
    });
    value.insert("conditions".into(), conditions);
    if let Some(hostname) = &endpoint.hostname {
        value.insert("hostname".into(), json!(hostname));
    }
    if let Some(node) = &endpoint.node {
        value.insert("nodeName".into(), json!(node));
    }
    if let Some(zone) = &endpoint.zone {
        value.insert("zone".into(), json!(zone));
    }
    Value::Object(value)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    metadata: RawMeta,
    address_type: IpFamily,
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<RawPort>,
    #[serde(default, deserialize_with = "or_default")]
    endpoints: Vec<RawEndpoint>,
}

#[derive(Deserialize)]
struct RawPort {
    #[serde(default, deserialize_with = "or_default")]
    name: Box<str>,
    #[serde(default)]
    protocol: Protocol,
    port: PortNumber,
}

impl From<RawPort> for SlicePort {
    fn from(raw: RawPort) -> Self {
        Self { name: raw.name, protocol: raw.protocol, port: raw.port }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    addresses: Vec<IpAddr>,
    #[serde(default, deserialize_with = "or_default")]
    conditions: RawConditions,
    hostname: Option<HostLabel>,
    node_name: Option<Box<str>>,
    zone: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

impl From<RawEndpoint> for SliceEndpoint {
    fn from(raw: RawEndpoint) -> Self {
        let ready = raw.conditions.ready.unwrap_or(true);
        Self {
            addresses: raw.addresses.into_iter().map(canonical).collect(),
            ready,
            serving: raw.conditions.serving.unwrap_or(ready),
            terminating: raw.conditions.terminating.unwrap_or(false),
            hostname: raw.hostname,
            node: raw.node_name,
            zone: raw.zone,
        }
    }
}
