//! One manifest as serde reads it: only the fields we need, of only the kinds we know.
//!
//! Every field is typed, so that YAML 1.1's guesses (`no` as a boolean) never reach us. An object
//! is checked while it is read: its errors then carry the place where it stands.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::de::{Error, IgnoredAny, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::object::{Object, ObjectId};
use crate::catalog::{IpFamily, ObjectKind};
use crate::model::{HostLabel, PortNumber, PortSpec, Protocol};

/// Prefix of the annotations that are ours.
const SETTINGS_PREFIX: &str = "portolan.dev/";
/// The label that ties an EndpointSlice to its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// What one document holds.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    /// Objects of the kinds we know; more than one comes from a `List`.
    pub(super) objects: Vec<(ObjectId, Object)>,
    /// How many objects of other kinds were passed over.
    pub(super) ignored: usize,
}

/// What an object says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// core/v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    Slice,
    /// multicluster.x-k8s.io ServiceExport.
    Export,
    /// `kind: List`, or a list of one kind whose items may leave theirs away.
    List(Option<&'static str>),
    /// Somebody else's.
    Other,
}

impl Kind {
    /// By group and kind; of a group and kind we know, an unknown version is an error.
    pub(super) fn of(api_version: &str, kind: &str) -> Result<Self, String> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let (found, versions): (_, &[&str]) = match (group, kind) {
            ("", "Service") => (Self::Service, &["v1"]),
            ("", "List") => (Self::List(None), &["v1"]),
            ("", "ServiceList") => (Self::List(Some("Service")), &["v1"]),
            ("discovery.k8s.io", "EndpointSlice") => (Self::Slice, &["v1"]),
            ("discovery.k8s.io", "EndpointSliceList") => {
                (Self::List(Some("EndpointSlice")), &["v1"])
            }
            ("multicluster.x-k8s.io", "ServiceExport") => (Self::Export, &["v1beta1", "v1alpha1"]),
            ("multicluster.x-k8s.io", "ServiceExportList") => {
                (Self::List(Some("ServiceExport")), &["v1beta1", "v1alpha1"])
            }
            _ => return Ok(Self::Other),
        };
        if versions.contains(&version) {
            return Ok(found);
        }
        let first = if group.is_empty() { String::new() } else { format!("{group}/") };
        Err(format!(
            "{kind} of version '{}' is not known; use apiVersion {first}{}",
            api_version.escape_default(),
            versions[0]
        ))
    }
}

/// Every field of every kind we know, as written; which of them count is decided by the kind.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
    pub(super) address_type: Option<Box<str>>,
    pub(super) ports: Vec<SlicePortText>,
    pub(super) endpoints: Vec<EndpointText>,
    items: Vec<RawItem>,
}

/// The part of `metadata` that we read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub(super) name: Option<Box<str>>,
    pub(super) namespace: Option<Box<str>>,
    pub(super) creation_timestamp: Option<Created>,
    labels: Option<Labels>,
    annotations: Option<Settings>,
}

impl Metadata {
    /// The label `kubernetes.io/service-name`.
    pub(super) fn service_name(&self) -> Option<&str> {
        self.labels.as_ref()?.service_name.as_deref()
    }

    /// The annotations that are ours, prefix removed.
    pub(super) fn take_settings(&mut self) -> BTreeMap<Box<str>, Box<str>> {
        self.annotations.take().unwrap_or_default().0
    }
}

/// `creationTimestamp` (RFC 3339) in Unix milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Created(pub(super) i64);

impl<'de> Deserialize<'de> for Created {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<str>::deserialize(deserializer)?;
        let at: jiff::Timestamp = text.parse().map_err(|_| {
            let shown = text.escape_default();
            D::Error::custom(format!("'{shown}' is not a time; write it as 2026-01-31T12:00:00Z"))
        })?;
        Ok(Self(at.as_millisecond()))
    }
}

#[derive(Debug, Default)]
struct Labels {
    service_name: Option<Box<str>>,
}

#[derive(Debug, Default)]
struct Settings(BTreeMap<Box<str>, Box<str>>);

/// `spec` of a Service and of a ServiceExport in one.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    #[serde(rename = "type")]
    pub(super) service_type: Option<TypeText>,
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip: Option<Box<str>>,
    pub(super) ports: Option<Vec<PortText>>,
    pub(super) session_affinity: Option<AffinityText>,
    pub(super) session_affinity_config: Option<AffinityConfig>,
    pub(super) ip_families: Option<Vec<IpFamily>>,
    pub(super) internal_traffic_policy: Option<Box<str>>,
    pub(super) traffic_distribution: Option<Box<str>>,
    pub(super) exported_labels: Option<BTreeMap<Box<str>, Option<Box<str>>>>,
    pub(super) exported_annotations: Option<BTreeMap<Box<str>, Option<Box<str>>>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) enum TypeText {
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

impl From<TypeText> for ObjectKind {
    fn from(text: TypeText) -> Self {
        match text {
            TypeText::ClusterIp | TypeText::NodePort | TypeText::LoadBalancer => Self::ClusterIp,
            TypeText::ExternalName => Self::ExternalName,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) enum AffinityText {
    None,
    #[serde(rename = "ClientIP")]
    ClientIp,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIpConfig>,
}

impl AffinityConfig {
    pub(super) fn timeout_seconds(&self) -> Option<u32> {
        self.client_ip.as_ref()?.timeout_seconds
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientIpConfig {
    timeout_seconds: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PortText {
    #[serde(default)]
    name: Option<Box<str>>,
    #[serde(default)]
    protocol: Option<Protocol>,
    port: PortValue,
    #[serde(default)]
    app_protocol: Option<Box<str>>,
}

/// A port's number, with an error that says which numbers there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct PortValue(pub(super) PortNumber);

impl<'de> Deserialize<'de> for PortValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = PortValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number from 1 to 65535")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<PortValue, E> {
                let number = u32::try_from(value).ok().and_then(|n| PortNumber::new(n).ok());
                let wrong = || E::invalid_value(Unexpected::Unsigned(value), &self);
                number.map(PortValue).ok_or_else(wrong)
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<PortValue, E> {
                match u64::try_from(value) {
                    Ok(value) => self.visit_u64(value),
                    Err(_) => Err(E::invalid_value(Unexpected::Signed(value), &self)),
                }
            }
        }
        deserializer.deserialize_any(Number)
    }
}

impl From<PortText> for PortSpec {
    fn from(text: PortText) -> Self {
        Self {
            name: text.name.unwrap_or_default(),
            protocol: text.protocol.unwrap_or_default(),
            port: text.port.0,
            app_protocol: text.app_protocol,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SlicePortText {
    pub(super) name: Option<Box<str>>,
    pub(super) protocol: Option<Protocol>,
    pub(super) port: Option<PortValue>,
}

#[derive(Debug, Deserialize)]
pub(super) struct EndpointText {
    pub(super) addresses: Vec<IpAddr>,
    #[serde(default)]
    pub(super) conditions: Option<Conditions>,
    #[serde(default)]
    pub(super) hostname: Option<HostLabel>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Conditions {
    pub(super) ready: Option<bool>,
}

/// What is read of a document that could not be read whole, to see whether it is ours at all.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Peek {
    api_version: Option<Box<str>>,
    kind: Option<Box<str>>,
    address_type: Option<Box<str>>,
}

impl Peek {
    /// Whether the document is none of our business after all.
    pub(super) fn is_foreign(&self) -> bool {
        let (Some(api_version), Some(kind)) = (&self.api_version, &self.kind) else { return false };
        match Kind::of(api_version, kind) {
            Ok(Kind::Other) => true,
            // Names instead of addresses: nothing for us to dial.
            Ok(Kind::Slice) => self.address_type.as_deref() == Some("FQDN"),
            _ => false,
        }
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Field {
    ApiVersion,
    Kind,
    Metadata,
    Spec,
    AddressType,
    Ports,
    Endpoints,
    Items,
    #[serde(other)]
    Other,
}

/// A manifest before its kind is checked: an item of a `ServiceList` may leave kind and version
/// to the list.
#[derive(Debug, Default)]
struct RawItem {
    api_version: Option<Box<str>>,
    kind: Option<Box<str>>,
    fields: Fields,
    /// An object checked where it stood; `None` when its kind was not written.
    checked: Option<Manifest>,
}

impl RawItem {
    /// The kind, once both of its halves have been read.
    fn known(&self) -> Result<Option<Kind>, String> {
        match (&self.api_version, &self.kind) {
            (Some(api_version), Some(kind)) => Kind::of(api_version, kind).map(Some),
            _ => Ok(None),
        }
    }

    fn check(&mut self) -> Result<(), String> {
        if let Some(kind) = self.known()? {
            let fields = std::mem::take(&mut self.fields);
            let api_version = self.api_version.as_deref().unwrap_or_default();
            self.checked = Some(fields.into_manifest(kind, api_version)?);
        }
        Ok(())
    }
}

impl Fields {
    fn into_manifest(mut self, kind: Kind, api_version: &str) -> Result<Manifest, String> {
        let Kind::List(of) = kind else {
            let object = Object::from_fields(kind, self)?;
            let ignored = usize::from(object.is_none());
            return Ok(Manifest { objects: object.into_iter().collect(), ignored });
        };
        let mut all = Manifest::default();
        for mut item in std::mem::take(&mut self.items) {
            if item.checked.is_none() {
                item.api_version.get_or_insert_with(|| api_version.into());
                item.kind = item.kind.take().or_else(|| of.map(Into::into));
                item.check()?;
            }
            let manifest = item.checked.ok_or("an item of the list has no 'kind'; give it one")?;
            all.objects.extend(manifest.objects);
            all.ignored += manifest.ignored;
        }
        Ok(all)
    }
}

impl<'de> Deserialize<'de> for Manifest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let item = RawItem::deserialize(deserializer)?;
        item.checked.ok_or_else(|| {
            D::Error::custom("this is not a manifest: give it an 'apiVersion' and a 'kind'")
        })
    }
}

impl<'de> Deserialize<'de> for RawItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = RawItem;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawItem, A::Error> {
        let mut item = RawItem::default();
        let mut foreign = false;
        while let Some(field) = map.next_key()? {
            let fields = &mut item.fields;
            match field {
                Field::ApiVersion => item.api_version = map.next_value()?,
                Field::Kind => item.kind = map.next_value()?,
                // Another kind's fields may have any shape.
                _ if foreign => _ = map.next_value::<IgnoredAny>()?,
                Field::Metadata => fields.metadata = or_default(&mut map)?,
                Field::Spec => fields.spec = or_default(&mut map)?,
                Field::AddressType => fields.address_type = map.next_value()?,
                Field::Ports => fields.ports = or_default(&mut map)?,
                Field::Endpoints => fields.endpoints = or_default(&mut map)?,
                Field::Items => fields.items = or_default(&mut map)?,
                Field::Other => _ = map.next_value::<IgnoredAny>()?,
            }
            foreign = item.known().map_err(A::Error::custom)? == Some(Kind::Other);
        }
        item.check().map_err(A::Error::custom)?;
        Ok(item)
    }
}

/// A value, or the default where `null` is written.
fn or_default<'de, A: MapAccess<'de>, T: Deserialize<'de> + Default>(
    map: &mut A,
) -> Result<T, A::Error> {
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pick = |key: &str| (key == SERVICE_NAME_LABEL).then(|| key.into());
        let mut found = deserializer.deserialize_map(Picked(pick))?;
        Ok(Self { service_name: found.pop_first().map(|(_, value)| value) })
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pick = |key: &str| key.strip_prefix(SETTINGS_PREFIX).map(Into::into);
        deserializer.deserialize_map(Picked(pick)).map(Self)
    }
}

/// Reads a map of strings and keeps the entries that it names; the others are skipped unread,
/// `kubectl`'s last-applied-configuration among them.
struct Picked<F>(F);

impl<'de, F: Fn(&str) -> Option<Box<str>>> Visitor<'de> for Picked<F> {
    type Value = BTreeMap<Box<str>, Box<str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = BTreeMap::new();
        while let Some(key) = map.next_key::<Box<str>>()? {
            match self.0(&key) {
                Some(key) => {
                    let value = map.next_value::<Option<Box<str>>>()?;
                    found.insert(key, value.unwrap_or_default());
                }
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(found)
    }
}
