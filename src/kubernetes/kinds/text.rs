//! The fields that we read, as serde sees them. Unknown fields are skipped unread, unknown values
//! of enumerations are kept as text for the decoder to pass over, `null` is as good as absent, and
//! every list has a cap that is checked while it is read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::model::HostLabel;
use crate::objects::{
    LABEL_MANAGED_BY, LABEL_SERVICE, LABEL_SLICE_MANAGED_BY, LABEL_SLICE_SERVICE,
};

/// Prefix of the annotations that are ours.
const SETTINGS_PREFIX: &str = "portolan.dev/";
/// The API server's own limit for all annotations of one object, in octets of keys and values.
pub(super) const MAX_ANNOTATION_OCTETS: usize = 256 << 10;
/// The API server's own limit for the endpoints of one slice.
pub(super) const MAX_ENDPOINTS: usize = 1_000;
/// Most entries of any other list in an object.
pub(super) const MAX_ENTRIES: usize = 1_000;

/// What every object has.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    pub(super) metadata: Metadata,
}

/// The part of `metadata` that we read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub(super) name: Option<Box<str>>,
    pub(super) namespace: Option<Box<str>>,
    pub(super) uid: Option<Box<str>>,
    pub(super) resource_version: Option<Box<str>>,
    pub(super) generation: Option<i64>,
    pub(super) creation_timestamp: Option<Box<str>>,
    pub(super) deletion_timestamp: Option<Box<str>>,
    pub(super) labels: Option<Labels>,
    pub(super) annotations: Option<Annotations>,
}

impl Metadata {
    pub(super) fn take_identity(&mut self) -> Identity {
        Identity {
            name: self.name.take(),
            namespace: self.namespace.take(),
            uid: self.uid.take(),
            resource_version: self.resource_version.take(),
        }
    }
}

/// What is read of an object whose metadata cannot be read whole.
#[derive(Debug, Deserialize)]
pub(super) struct BareHead {
    pub(super) metadata: Identity,
}

/// What tells one object from another.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Identity {
    pub(super) name: Option<Box<str>>,
    pub(super) namespace: Option<Box<str>>,
    pub(super) uid: Option<Box<str>>,
    pub(super) resource_version: Option<Box<str>>,
}

/// The labels that decide what an object is to us.
#[derive(Debug, Default)]
pub(super) struct Labels(BTreeMap<Box<str>, Box<str>>);

impl Labels {
    pub(super) fn get(&self, label: &str) -> Option<&str> {
        self.0.get(label).map(|value| &**value)
    }
}

/// The annotations that are ours, prefix removed.
#[derive(Debug, Default)]
pub(super) struct Annotations(pub(super) BTreeMap<Box<str>, Box<str>>);

/// `spec` and `status` of a Service.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceText {
    #[serde(deserialize_with = "or_default")]
    pub(super) spec: ServiceSpec,
    #[serde(deserialize_with = "or_default")]
    pub(super) status: ServiceStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(super) kind: Option<Box<str>>,
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip: Option<Box<str>>,
    #[serde(rename = "clusterIPs", deserialize_with = "capped")]
    pub(super) cluster_ips: Vec<Box<str>>,
    #[serde(deserialize_with = "capped")]
    pub(super) ports: Vec<ServicePort>,
    pub(super) session_affinity: Option<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) session_affinity_config: AffinityConfig,
    #[serde(deserialize_with = "capped")]
    pub(super) ip_families: Vec<Box<str>>,
    pub(super) internal_traffic_policy: Option<Box<str>>,
    pub(super) traffic_distribution: Option<Box<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AffinityConfig {
    #[serde(rename = "clientIP", deserialize_with = "or_default")]
    pub(super) client_ip: ClientIpConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ClientIpConfig {
    pub(super) timeout_seconds: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServicePort {
    #[serde(default)]
    pub(super) name: Option<Box<str>>,
    #[serde(default)]
    pub(super) protocol: Option<Box<str>>,
    pub(super) port: u32,
    #[serde(default)]
    pub(super) app_protocol: Option<Box<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServiceStatus {
    #[serde(deserialize_with = "or_default")]
    pub(super) load_balancer: LoadBalancer,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LoadBalancer {
    #[serde(deserialize_with = "capped")]
    pub(super) ingress: Vec<Ingress>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ingress {
    pub(super) ip: Option<Box<str>>,
    pub(super) hostname: Option<Box<str>>,
}

/// An EndpointSlice.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SliceText {
    pub(super) address_type: Option<Box<str>>,
    #[serde(deserialize_with = "capped")]
    pub(super) ports: Vec<SlicePortText>,
    #[serde(deserialize_with = "capped_endpoints")]
    pub(super) endpoints: Vec<EndpointText>,
}

/// What tells a slice of names, whose addresses cannot be read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct AddressType {
    pub(super) address_type: Option<Box<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SlicePortText {
    pub(super) name: Option<Box<str>>,
    pub(super) protocol: Option<Box<str>>,
    pub(super) port: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointText {
    #[serde(default, deserialize_with = "capped")]
    pub(super) addresses: Vec<IpAddr>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) conditions: EndpointConditions,
    #[serde(default)]
    pub(super) hostname: Option<HostLabel>,
    #[serde(default)]
    pub(super) node_name: Option<Box<str>>,
    #[serde(default)]
    pub(super) zone: Option<Box<str>>,
    #[serde(default)]
    pub(super) target_ref: Option<TargetRef>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EndpointConditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TargetRef {
    pub(super) name: Option<Box<str>>,
    pub(super) uid: Option<Box<str>>,
}

/// A ServiceExport.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ExportText {
    #[serde(deserialize_with = "or_default")]
    pub(super) spec: ExportSpec,
    #[serde(deserialize_with = "or_default")]
    pub(super) status: Conditions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ExportSpec {
    #[serde(deserialize_with = "or_default")]
    pub(super) exported_labels: Strings,
    #[serde(deserialize_with = "or_default")]
    pub(super) exported_annotations: Strings,
}

/// A map of strings; as many octets as an object's annotations may have.
#[derive(Debug, Default)]
pub(super) struct Strings(pub(super) BTreeMap<Box<str>, Box<str>>);

/// The conditions of a status.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Conditions {
    #[serde(deserialize_with = "capped")]
    pub(super) conditions: Vec<Value>,
}

/// What a ServiceImport of somebody else shows.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ImportText {
    #[serde(deserialize_with = "or_default")]
    pub(super) spec: ImportSpecText,
    #[serde(deserialize_with = "or_default")]
    pub(super) status: Conditions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ImportSpecText {
    #[serde(deserialize_with = "capped")]
    pub(super) ips: Vec<Box<str>>,
}

/// A Namespace.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NamespaceText {
    #[serde(deserialize_with = "or_default")]
    pub(super) status: NamespaceStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NamespaceStatus {
    pub(super) phase: Option<Box<str>>,
}

/// A Peer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PeerText {
    #[serde(deserialize_with = "or_default")]
    pub(super) spec: PeerSpecText,
    #[serde(deserialize_with = "or_default")]
    pub(super) status: Conditions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PeerSpecText {
    pub(super) cluster: Option<Box<str>>,
    #[serde(deserialize_with = "capped")]
    pub(super) addresses: Vec<Box<str>>,
    #[serde(deserialize_with = "capped")]
    pub(super) networks: Vec<Box<str>>,
    pub(super) bundle: Option<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) import: PeerImport,
    pub(super) trust_policy: Option<bool>,
    pub(super) dial_out: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PeerImport {
    pub(super) namespaces: Option<Vec<Box<str>>>,
}

/// A ClusterProperty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PropertyText {
    #[serde(deserialize_with = "or_default")]
    pub(super) spec: PropertySpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PropertySpec {
    pub(super) value: Option<Box<str>>,
}

/// A Secret; the values in base64.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SecretText {
    #[serde(deserialize_with = "or_default")]
    pub(super) data: BTreeMap<Box<str>, k8s_openapi::ByteString>,
}

/// A value, or the default where `null` is written.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn capped<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_option(Capped::<T>::new(MAX_ENTRIES))
}

fn capped_endpoints<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_option(Capped::<T>::new(MAX_ENDPOINTS))
}

/// Reads a list, or `null`, of at most so many entries.
struct Capped<T> {
    most: usize,
    of: std::marker::PhantomData<T>,
}

impl<T> Capped<T> {
    fn new(most: usize) -> Self {
        Self { most, of: std::marker::PhantomData }
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Capped<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_none<E: Error>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut found = Vec::new();
        while let Some(entry) = list.next_element()? {
            if found.len() == self.most {
                return Err(A::Error::custom(format!(
                    "a list has more than {} entries; split the object",
                    self.most
                )));
            }
            found.push(entry);
        }
        Ok(found)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pick = |key: &str| {
            let known =
                [LABEL_MANAGED_BY, LABEL_SLICE_MANAGED_BY, LABEL_SLICE_SERVICE, LABEL_SERVICE];
            known.contains(&key).then(|| key.into())
        };
        deserializer.deserialize_map(Picked { what: "labels", pick }).map(Self)
    }
}

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pick = |key: &str| key.strip_prefix(SETTINGS_PREFIX).map(Into::into);
        deserializer.deserialize_map(Picked { what: "annotations", pick }).map(Self)
    }
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pick = |key: &str| Some(key.into());
        deserializer.deserialize_map(Picked { what: "exported strings", pick }).map(Self)
    }
}

/// Reads a map of strings and keeps the entries that it names; all count against the cap.
struct Picked<F> {
    what: &'static str,
    pick: F,
}

impl<'de, F: Fn(&str) -> Option<Box<str>>> Visitor<'de> for Picked<F> {
    type Value = BTreeMap<Box<str>, Box<str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = BTreeMap::new();
        let mut octets = 0_usize;
        while let Some(Text(key)) = map.next_key()? {
            let Text(value) = map.next_value::<Option<Text<'_>>>()?.unwrap_or_default();
            octets += key.len() + value.len();
            if octets > MAX_ANNOTATION_OCTETS {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Err(A::Error::custom(format!(
                    "the {} have more than {} KiB; shorten them",
                    self.what,
                    MAX_ANNOTATION_OCTETS >> 10
                )));
            }
            if let Some(key) = (self.pick)(&key) {
                found.insert(key, value.into());
            }
        }
        Ok(found)
    }
}

/// A string that is copied only where it has escapes.
#[derive(Default, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
