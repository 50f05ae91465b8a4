//! One object as the API server sends it, to what it is to us.

mod custom;
mod service;
mod slice;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use self::custom::{export, import, namespace, property};
use super::text::{AddressType, BareHead, Conditions, Head, Metadata};
use super::{Name, Resource};
use crate::catalog::{Guidance, IpFamily, SourceEvent};
use crate::kubernetes::mirror::Existing;
use crate::kubernetes::view::{GatewayMember, PeerSpec, SecretData};
use crate::model::{
    Callee, ClusterId, Namespace, PeerAddress, PortNumber, Protocol, ServiceKey, ServiceName,
    canonical,
};
use crate::objects::{
    Condition, Kind, Object, ObjectId, ObservedExport, ObservedImport, ObservedService,
};

/// The largest object that is looked into, in octets: more than etcd holds by default (1.5 MiB),
/// and than the API server takes (3 MiB).
pub(in super::super) const MAX_OBJECT_OCTETS: usize = 4 << 20;
/// Longest text of an object that a refusal shows, in characters.
const SHOWN_CHARS: usize = 160;

/// One object of a list or an event.
#[derive(Debug)]
pub(in super::super) struct Item {
    /// Its name.
    pub(in super::super) name: Name,
    /// Its uid; empty where it could not be read.
    pub(in super::super) uid: Box<str>,
    /// Its `resourceVersion`.
    pub(in super::super) version: Box<str>,
    /// What it is to us, or why it is refused.
    pub(in super::super) state: Result<Decoded, String>,
}

/// What an object is to us; nothing at all is the usual case of other parties' objects.
#[derive(Debug, Default)]
pub(in super::super) struct Decoded {
    /// To the catalog.
    pub(in super::super) source: Option<SourceEvent>,
    /// To the writer: an object of ours.
    pub(in super::super) ours: Option<(ObjectId, Existing)>,
    /// To the view.
    pub(in super::super) seen: Option<Seen>,
    /// The families of a Service, which tell those of the cluster.
    pub(in super::super) families: Families,
}

/// What the view keeps of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Seen {
    /// A derived Service.
    Derived(Callee, ObservedService),
    /// A Service of somebody else under such a name.
    Taken(Namespace, ObservedService),
    /// The gateway's own Service.
    Gateway(Vec<PeerAddress>),
    /// The API server's own Service, with the default family.
    Default(IpFamily),
    /// A slice of the gateway's Service.
    Members(Vec<GatewayMember>),
    /// A namespace that stays.
    Namespace(Namespace, Guidance),
    /// A ServiceExport.
    Export(ServiceKey, ObservedExport),
    /// A ServiceImport.
    Import(ServiceKey, ObservedImport),
    /// A Peer.
    Peer(Box<PeerSpec>),
    /// The cluster's id.
    ClusterId(Box<str>),
    /// The own authority.
    Secret(Arc<SecretData>),
}

/// A set of IP families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct Families {
    pub(in super::super) v4: bool,
    pub(in super::super) v6: bool,
}

/// Knows which objects are the own ones.
#[derive(Debug)]
pub(in super::super) struct Decoder {
    pub(in super::super) cluster: ClusterId,
    pub(in super::super) namespace: Namespace,
    pub(in super::super) gateway_service: Box<str>,
    pub(in super::super) secret: Box<str>,
}

impl Decoder {
    /// Reads one object. An error is for an object that does not even say which one it is.
    pub(in super::super) fn item(
        &self,
        resource: Resource,
        raw: &RawValue,
    ) -> Result<Item, String> {
        let text = raw.get();
        let kind = resource.kind();
        let nameless = |error: &dyn fmt::Display| {
            format!("a {kind} has no readable name: {}", shown(&error.to_string()))
        };
        let head = if text.len() > MAX_OBJECT_OCTETS {
            Err(format!("is larger than {} MiB; make it smaller", MAX_OBJECT_OCTETS >> 20))
        } else {
            serde_json::from_str::<Head>(text).map_err(|error| unreadable(&error))
        };
        let (id, head) = match head {
            Ok(Head { mut metadata }) => (metadata.take_identity(), Ok(metadata)),
            Err(why) => {
                let bare: BareHead =
                    serde_json::from_str(text).map_err(|error| nameless(&error))?;
                (bare.metadata, Err(why))
            }
        };
        let Some(name) = id.name else { return Err(nameless(&"metadata.name is missing")) };
        let name = Name { namespace: id.namespace.unwrap_or_default(), name };
        let (uid, version) = (id.uid.unwrap_or_default(), id.resource_version.unwrap_or_default());
        let state = head.and_then(|head| {
            let mut object = Sent { name: &name, uid: &uid, version: &version, head, text };
            match resource {
                Resource::Service => self.service(object),
                Resource::Slice => self.slice(object),
                Resource::Namespace => namespace(object),
                Resource::Export => export(object),
                Resource::Import => import(object),
                Resource::Peer => self.peer(&mut object),
                Resource::Property => property(&object),
                Resource::Secret => self.secret(&object),
            }
        });
        Ok(Item { name, uid, version, state: state.map_err(clip) })
    }
}

impl From<Seen> for Decoded {
    fn from(seen: Seen) -> Self {
        Self { seen: Some(seen), ..Self::default() }
    }
}

/// An object whose metadata has been read.
struct Sent<'a> {
    name: &'a Name,
    uid: &'a str,
    version: &'a str,
    head: Metadata,
    text: &'a str,
}

impl Sent<'_> {
    fn parse<'de, T: Deserialize<'de>>(&'de self) -> Result<T, String> {
        serde_json::from_str(self.text).map_err(|error| unreadable(&error))
    }

    /// Whether it is a slice whose addresses are not IP addresses.
    fn is_of_names(&self) -> bool {
        self.parse::<AddressType>()
            .is_ok_and(|text| text.address_type.as_deref().and_then(family).is_none())
    }

    fn label(&self, label: &str) -> Option<&str> {
        self.head.labels.as_ref()?.get(label)
    }

    fn take_settings(&mut self) -> BTreeMap<Box<str>, Box<str>> {
        self.head.annotations.take().unwrap_or_default().0
    }

    fn namespace(&self) -> Result<Namespace, String> {
        Namespace::parse(&self.name.namespace)
            .map_err(|error| format!("metadata.namespace: {error}"))
    }

    fn service_key(&self) -> Result<ServiceKey, String> {
        let name = ServiceName::parse(&self.name.name)
            .map_err(|error| format!("metadata.name: {error}"))?;
        Ok(ServiceKey::new(self.namespace()?, name))
    }

    /// The object as one of ours.
    fn ours(&self, kind: Kind) -> Result<(ObjectId, Existing), String> {
        let value: Value = self.parse()?;
        let object = Object::parse(kind, &value)?;
        let existing = Existing {
            uid: self.uid.into(),
            version: self.version.into(),
            deleting: self.head.deletion_timestamp.is_some(),
            object: Arc::new(object),
        };
        Ok((existing.object.id(), existing))
    }
}

fn port_number(name: &str, number: u32) -> Result<PortNumber, String> {
    PortNumber::new(number).map_err(|error| format!("ports: '{}': {error}", shown(name)))
}

fn conditions(status: &Conditions) -> Vec<Condition> {
    Condition::list(&status.conditions)
}

fn family(text: &str) -> Option<IpFamily> {
    match text {
        "IPv4" => Some(IpFamily::V4),
        "IPv6" => Some(IpFamily::V6),
        _ => None,
    }
}

/// Absent is TCP; `None` is a protocol that we do not know.
fn protocol(text: Option<&str>) -> Option<Protocol> {
    text.map_or(Some(Protocol::Tcp), |text| text.parse().ok())
}

/// The addresses among these texts (`None` of a headless Service is none).
fn addresses(texts: &[Box<str>]) -> Vec<IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).map(canonical).collect()
}

/// The parser quotes what it met, which may be long or hostile.
fn unreadable(error: &serde_json::Error) -> String {
    format!("cannot be read: {}; correct or remove it", shown(&error.to_string()))
}

/// Cuts a long text in the middle: the field stands at its begin, the remedy at its end. (The
/// errors of some types quote what they met in full.)
fn clip(text: String) -> String {
    let length = text.chars().count();
    if length <= 3 * SHOWN_CHARS {
        return text;
    }
    let begin: String = text.chars().take(2 * SHOWN_CHARS).collect();
    let end: String = text.chars().skip(length - SHOWN_CHARS).collect();
    format!("{begin}…{end}")
}

fn shown(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN_CHARS).collect();
    cut.escape_debug().to_string()
}

#[cfg(test)]
mod tests;
