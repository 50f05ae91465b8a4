//! One object as the API server sends it, to what it is to us.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::text::{
    AddressType, BareHead, Conditions, EndpointText, ExportText, Head, ImportText, Ingress,
    Metadata, NamespaceText, PeerText, PropertyText, SecretText, ServicePort, ServiceSpec,
    ServiceStatus, ServiceText, SliceText,
};
use super::{Name, Resource};
use crate::catalog::{
    ExportObject, IpFamily, NamespaceRules, ObjectKind, ServiceObject, SessionAffinity,
    SliceEndpoint, SliceObject, SliceObjectKey, SlicePort, SourceEvent,
};
use crate::kubernetes::mirror::Existing;
use crate::kubernetes::view::{GatewayMember, NamespaceSettings, PeerSpec, SecretData};
use crate::model::{
    ClusterId, Namespace, PeerAddress, PortNumber, PortSpec, Protocol, ServiceKey, ServiceName,
    canonical,
};
use crate::objects::{
    Condition, Kind, LABEL_MANAGED_BY, LABEL_SLICE_MANAGED_BY, LABEL_SLICE_SERVICE, MANAGER,
    Object, ObjectId, ObservedExport, ObservedImport, ObservedService, derived_name, parse_ports,
};

/// The largest object that is looked into, in octets: more than etcd holds by default (1.5 MiB),
/// and than the API server takes (3 MiB).
pub(in super::super) const MAX_OBJECT_OCTETS: usize = 4 << 20;
/// The API server's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
/// The longest affinity that the API server accepts: a day.
const MAX_AFFINITY_SECONDS: u32 = 86_400;
/// The ClusterProperty that names the cluster (KEP-2149).
const PROPERTY_CLUSTER_ID: &str = "cluster.clusterset.k8s.io";
/// So the names of derived Services begin.
const DERIVED_PREFIX: &str = "portolan-";
/// Longest text of an object that a refusal shows, in characters.
const SHOWN_CHARS: usize = 60;

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
    Derived(ServiceKey, ObservedService),
    /// A Service of somebody else under such a name.
    Taken(Namespace, ObservedService),
    /// The gateway's own Service.
    Gateway(Vec<PeerAddress>),
    /// The API server's own Service, with the default family.
    Default(IpFamily),
    /// A slice of the gateway's Service.
    Members(Vec<GatewayMember>),
    /// A namespace that stays.
    Namespace(Namespace, NamespaceSettings),
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
        let nameless = |error: &dyn fmt::Display| format!("a {kind} has no readable name: {error}");
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
            let object = Sent { name: &name, uid: &uid, version: &version, head, text };
            match resource {
                Resource::Service => self.service(object),
                Resource::Slice => self.slice(object),
                Resource::Namespace => namespace(object),
                Resource::Export => export(object),
                Resource::Import => import(object),
                Resource::Peer => self.peer(&object),
                Resource::Property => property(&object),
                Resource::Secret => self.secret(&object),
            }
        });
        Ok(Item { name, uid, version, state })
    }

    fn service(&self, mut object: Sent<'_>) -> Result<Decoded, String> {
        let ServiceText { spec, status } = object.parse()?;
        let namespace = object.namespace()?;
        let listed: Vec<IpFamily> = spec.ip_families.iter().filter_map(|f| family(f)).collect();
        let families =
            Families { v4: listed.contains(&IpFamily::V4), v6: listed.contains(&IpFamily::V6) };
        let mut observed = ObservedService {
            uid: object.uid.into(),
            ips: addresses(&spec.cluster_ips),
            families: listed.clone(),
            ports: BTreeMap::new(),
            foreign: true,
        };
        if object.label(LABEL_MANAGED_BY) == Some(MANAGER) {
            let settings = object.take_settings();
            observed.foreign = false;
            observed.ports =
                settings.get("ports").map(|text| parse_ports(text)).unwrap_or_default();
            let (id, existing) = object.ours(Kind::Service)?;
            let key = existing.object.key().filter(|key| *derived_name(key) == *id.name);
            let seen = key.map(|key| Seen::Derived(key, observed));
            return Ok(Decoded { ours: Some((id, existing)), seen, families, source: None });
        }
        let name = &*object.name.name;
        let is_default = namespace.as_str() == "default" && name == "kubernetes";
        let seen = if namespace == self.namespace && *name == *self.gateway_service {
            Some(Seen::Gateway(advertised(&spec, &status)))
        } else if is_default {
            listed.first().map(|family| Seen::Default(*family))
        } else if name.starts_with(DERIVED_PREFIX) {
            Some(Seen::Taken(namespace, observed))
        } else {
            None
        };
        let key = object.service_key()?;
        let source = SourceEvent::Service(key, Some(service(spec, listed)?));
        Ok(Decoded { source: Some(source), ours: None, seen, families })
    }

    /// A slice without a Service, of names instead of addresses, or of a kind of address that is
    /// not known is nothing to us.
    fn slice(&self, object: Sent<'_>) -> Result<Decoded, String> {
        if object.label(LABEL_SLICE_MANAGED_BY) == Some(MANAGER) {
            let ours = object.ours(Kind::Slice)?;
            return Ok(Decoded { ours: Some(ours), ..Decoded::default() });
        }
        let Some(service) = object.label(LABEL_SLICE_SERVICE) else {
            return Ok(Decoded::default());
        };
        let service = ServiceName::parse(service)
            .map_err(|error| format!("label {LABEL_SLICE_SERVICE}: {error}"))?;
        let namespace = object.namespace()?;
        let is_gateway = namespace == self.namespace && *service.as_str() == *self.gateway_service;
        let slice: SliceText = match object.parse() {
            Ok(slice) => slice,
            Err(_) if object.is_of_names() => return Ok(Decoded::default()),
            Err(why) => return Err(why),
        };
        if slice.address_type.as_deref().and_then(family).is_none() {
            return Ok(Decoded::default());
        }
        let members = slice.endpoints.iter().filter_map(member);
        let seen = is_gateway.then(|| Seen::Members(members.collect()));
        let key = SliceObjectKey { namespace: namespace.clone(), name: object.name.name.clone() };
        let mut ports = Vec::with_capacity(slice.ports.len());
        for port in slice.ports {
            let (Some(number), Some(protocol)) = (port.port, protocol(port.protocol.as_deref()))
            else {
                continue;
            };
            let name = port.name.unwrap_or_default();
            let number = port_number(&name, number)?;
            ports.push(SlicePort { name, protocol, port: number });
        }
        let endpoints = slice.endpoints.into_iter().map(endpoint).collect();
        let object = SliceObject { service: ServiceKey::new(namespace, service), ports, endpoints };
        Ok(Decoded {
            source: Some(SourceEvent::Slice(key, Some(object))),
            seen,
            ..Decoded::default()
        })
    }

    fn peer(&self, object: &Sent<'_>) -> Result<Decoded, String> {
        let PeerText { spec, status } = object.parse()?;
        let cluster = spec.cluster.as_deref().unwrap_or(&object.name.name);
        let cluster =
            ClusterId::parse(cluster).map_err(|error| format!("spec.cluster: {error}"))?;
        if cluster == self.cluster {
            return Err(format!("'{cluster}' is this cluster; remove the Peer"));
        }
        let namespaces = match spec.import.namespaces {
            Some(listed) if listed.iter().all(|name| **name != *"*") => NamespaceRules::Only(
                each("import.namespaces", &listed, Namespace::parse)?.into_iter().collect(),
            ),
            _ => NamespaceRules::Any,
        };
        let peer = PeerSpec {
            name: object.name.name.clone(),
            uid: object.uid.into(),
            generation: object.head.generation,
            cluster,
            addresses: each("addresses", &spec.addresses, PeerAddress::parse)?,
            networks: each("networks", &spec.networks, str::parse)?,
            bundle: spec.bundle.filter(|pem| !pem.trim().is_empty()).map(Into::into),
            namespaces,
            trust_policy: spec.trust_policy.unwrap_or(true),
            dial_out: spec.dial_out.unwrap_or(true),
            conditions: conditions(&status),
        };
        Ok(Seen::Peer(Box::new(peer)).into())
    }

    fn secret(&self, object: &Sent<'_>) -> Result<Decoded, String> {
        if *object.name.namespace != *self.namespace.as_str() || object.name.name != self.secret {
            return Ok(Decoded::default());
        }
        let SecretText { data } = object.parse()?;
        let data = data.into_iter().map(|(entry, value)| (entry, Zeroizing::new(value.0)));
        Ok(Seen::Secret(Arc::new(SecretData(data.collect()))).into())
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

fn namespace(mut object: Sent<'_>) -> Result<Decoded, String> {
    let name =
        Namespace::parse(&object.name.name).map_err(|error| format!("metadata.name: {error}"))?;
    let NamespaceText { status } = object.parse()?;
    if object.head.deletion_timestamp.is_some() || status.phase.as_deref() == Some("Terminating") {
        return Ok(Decoded::default());
    }
    Ok(Seen::Namespace(name, NamespaceSettings { settings: object.take_settings() }).into())
}

fn export(mut object: Sent<'_>) -> Result<Decoded, String> {
    let key = object.service_key()?;
    let ExportText { spec, status } = object.parse()?;
    let created = object.head.creation_timestamp.as_deref().map(|text| {
        let at = text.parse::<jiff::Timestamp>();
        at.map_err(|_| format!("metadata.creationTimestamp: '{}' is not a time", shown(text)))
    });
    let observed = ObservedExport {
        uid: object.uid.into(),
        generation: object.head.generation,
        conditions: conditions(&status),
    };
    let export = ExportObject {
        created_ms: created.transpose()?.map_or(0, jiff::Timestamp::as_millisecond),
        exported_labels: spec.exported_labels.0,
        exported_annotations: spec.exported_annotations.0,
        settings: object.take_settings(),
    };
    Ok(Decoded {
        source: Some(SourceEvent::Export(key.clone(), Some(export))),
        seen: Some(Seen::Export(key, observed)),
        ..Decoded::default()
    })
}

fn import(object: Sent<'_>) -> Result<Decoded, String> {
    let key = object.service_key()?;
    let ImportText { spec, status } = object.parse()?;
    let is_ours = object.label(LABEL_MANAGED_BY) == Some(MANAGER);
    let observed = ObservedImport {
        uid: object.uid.into(),
        ips: addresses(&spec.ips),
        families: spec.ip_families.iter().filter_map(|text| family(text)).collect(),
        conditions: conditions(&status),
        foreign: !is_ours,
    };
    let ours = is_ours.then(|| object.ours(Kind::Import)).transpose()?;
    Ok(Decoded { ours, seen: Some(Seen::Import(key, observed)), ..Decoded::default() })
}

fn property(object: &Sent<'_>) -> Result<Decoded, String> {
    if *object.name.name != *PROPERTY_CLUSTER_ID {
        return Ok(Decoded::default());
    }
    let PropertyText { spec } = object.parse()?;
    Ok(spec.value.map(|value| Seen::ClusterId(value).into()).unwrap_or_default())
}

/// A Service as the catalog knows it. An unknown type is served as any other with endpoints, an
/// unknown affinity is none, a port of an unknown protocol is left out.
fn service(spec: ServiceSpec, ip_families: Vec<IpFamily>) -> Result<ServiceObject, String> {
    let kind = match spec.kind.as_deref() {
        Some("ExternalName") => ObjectKind::ExternalName,
        _ if spec.cluster_ip.as_deref() == Some("None") => ObjectKind::Headless,
        _ => ObjectKind::ClusterIp,
    };
    let session_affinity = match spec.session_affinity.as_deref() {
        Some("ClientIP") => {
            let seconds = spec.session_affinity_config.client_ip.timeout_seconds;
            let timeout_seconds = seconds.unwrap_or(DEFAULT_AFFINITY_SECONDS);
            if !(1..=MAX_AFFINITY_SECONDS).contains(&timeout_seconds) {
                return Err(format!(
                    "sessionAffinityConfig.clientIP.timeoutSeconds is {timeout_seconds}; give 1 to {MAX_AFFINITY_SECONDS}"
                ));
            }
            SessionAffinity::ClientIp { timeout_seconds }
        }
        _ => SessionAffinity::None,
    };
    let mut ports = Vec::with_capacity(spec.ports.len());
    for port in spec.ports {
        let Some(protocol) = protocol(port.protocol.as_deref()) else { continue };
        let name = port.name.unwrap_or_default();
        let number = port_number(&name, port.port)?;
        ports.push(PortSpec { name, protocol, port: number, app_protocol: port.app_protocol });
    }
    Ok(ServiceObject {
        kind,
        ports,
        session_affinity,
        ip_families,
        internal_traffic_policy: spec.internal_traffic_policy,
        traffic_distribution: spec.traffic_distribution,
    })
}

fn port_number(name: &str, number: u32) -> Result<PortNumber, String> {
    PortNumber::new(number).map_err(|error| format!("ports: '{}': {error}", shown(name)))
}

/// Every text of a list of a Peer's spec, parsed; the first that is wrong refuses the object.
fn each<T, E: fmt::Display>(
    field: &str,
    texts: &[Box<str>],
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, String> {
    let parse = |text: &str| {
        parse(text).map_err(|error| format!("spec.{field}: '{}': {error}", shown(text)))
    };
    texts.iter().map(|text| parse(text)).collect()
}

fn endpoint(text: EndpointText) -> SliceEndpoint {
    let ready = text.conditions.ready.unwrap_or(true);
    SliceEndpoint {
        addresses: text.addresses.into_iter().map(canonical).collect(),
        ready,
        serving: text.conditions.serving.unwrap_or(ready),
        terminating: text.conditions.terminating.unwrap_or(false),
        hostname: text.hostname,
        node: text.node_name,
        zone: text.zone,
    }
}

/// A replica of the gateway; without an address it is none.
fn member(text: &EndpointText) -> Option<GatewayMember> {
    let mut addresses: Vec<IpAddr> = text.addresses.iter().copied().map(canonical).collect();
    addresses.sort_unstable();
    let first = addresses.first()?;
    let pod = text.target_ref.as_ref();
    let name = pod.and_then(|pod| pod.name.clone()).unwrap_or_else(|| first.to_string().into());
    Some(GatewayMember {
        name,
        uid: pod.and_then(|pod| pod.uid.clone()).unwrap_or_default(),
        ready: text.conditions.ready.unwrap_or(true),
        node: text.node_name.clone(),
        zone: text.zone.clone(),
        addresses,
    })
}

/// Where a load balancer serves the first TCP port of its Service.
fn advertised(spec: &ServiceSpec, status: &ServiceStatus) -> Vec<PeerAddress> {
    let is_tcp = |port: &&ServicePort| protocol(port.protocol.as_deref()) == Some(Protocol::Tcp);
    let Some(port) = spec.ports.iter().find(is_tcp) else { return Vec::new() };
    let ingress = status.load_balancer.ingress.iter();
    ingress.filter_map(|at| at.address(port.port)).collect()
}

impl Ingress {
    fn address(&self, port: u32) -> Option<PeerAddress> {
        let host = self.ip.as_deref().or(self.hostname.as_deref())?;
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        PeerAddress::parse(&format!("{host}:{port}")).ok()
    }
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

fn unreadable(error: &serde_json::Error) -> String {
    format!("cannot be read: {error}; correct or remove it")
}

fn shown(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN_CHARS).collect();
    cut.escape_default().to_string()
}

#[cfg(test)]
mod tests;
