//! Manifests' fields to the objects of the catalog.

use std::collections::BTreeMap;

use super::manifest::{AffinityText, Fields, Kind, Metadata, Spec};
use crate::catalog::{
    ExportObject, ObjectKind, ServiceObject, SessionAffinity, SliceEndpoint, SliceObject,
    SliceObjectKey, SlicePort, SourceEvent,
};
use crate::model::{Namespace, PortSpec, ServiceKey, ServiceName, canonical};

/// Where a manifest names no namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// What makes an object the same one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ObjectId {
    /// A Service.
    Service(ServiceKey),
    /// An EndpointSlice.
    Slice(SliceObjectKey),
    /// A ServiceExport.
    Export(ServiceKey),
}

impl ObjectId {
    /// As messages name it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Service(key) => format!("Service {key}"),
            Self::Slice(key) => format!("EndpointSlice {}/{}", key.namespace, key.name),
            Self::Export(key) => format!("ServiceExport {key}"),
        }
    }

    /// The object's absence.
    pub(super) fn gone(&self) -> SourceEvent {
        match self.clone() {
            Self::Service(key) => SourceEvent::Service(key, None),
            Self::Slice(key) => SourceEvent::Slice(key, None),
            Self::Export(key) => SourceEvent::Export(key, None),
        }
    }
}

/// An object of a kind we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Object {
    /// A Service.
    Service(ServiceObject),
    /// An EndpointSlice.
    Slice(SliceObject),
    /// A ServiceExport.
    Export(ExportObject),
}

impl Object {
    /// The object as it is now.
    pub(super) fn event(&self, id: &ObjectId) -> SourceEvent {
        match (id, self) {
            (ObjectId::Service(key), Self::Service(object)) => {
                SourceEvent::Service(key.clone(), Some(object.clone()))
            }
            (ObjectId::Slice(key), Self::Slice(object)) => {
                SourceEvent::Slice(key.clone(), Some(object.clone()))
            }
            (ObjectId::Export(key), Self::Export(object)) => {
                SourceEvent::Export(key.clone(), Some(object.clone()))
            }
            // `from_fields` makes both from one kind; an object under another's id is none.
            (id, _) => id.gone(),
        }
    }

    /// The object that these fields are; `None` where they are nothing to us.
    pub(super) fn from_fields(
        kind: Kind,
        fields: Fields,
    ) -> Result<Option<(ObjectId, Self)>, String> {
        match kind {
            Kind::Service => {
                let key = service_key(&fields.metadata, "Service")?;
                let object =
                    service(fields.spec).map_err(|what| format!("Service {key}: {what}"))?;
                Ok(Some((ObjectId::Service(key), Self::Service(object))))
            }
            Kind::Export => {
                let key = service_key(&fields.metadata, "ServiceExport")?;
                Ok(Some((ObjectId::Export(key), Self::Export(export(fields)))))
            }
            Kind::Slice => slice(fields),
            Kind::List(_) | Kind::Other => Ok(None),
        }
    }
}

fn name<'a>(metadata: &'a Metadata, kind: &str) -> Result<&'a str, String> {
    let name = metadata.name.as_deref();
    name.ok_or_else(|| format!("{kind}: metadata.name is missing; give it a name"))
}

fn namespace(metadata: &Metadata, kind: &str) -> Result<Namespace, String> {
    let text = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    Namespace::parse(text).map_err(|error| format!("{kind}: metadata.namespace: {error}"))
}

fn service_key(metadata: &Metadata, kind: &str) -> Result<ServiceKey, String> {
    let name = ServiceName::parse(name(metadata, kind)?)
        .map_err(|error| format!("{kind}: metadata.name: {error}"))?;
    Ok(ServiceKey::new(namespace(metadata, kind)?, name))
}

fn service(spec: Spec) -> Result<ServiceObject, String> {
    let kind = match spec.service_type.map_or(ObjectKind::ClusterIp, Into::into) {
        ObjectKind::ClusterIp if spec.cluster_ip.as_deref() == Some("None") => ObjectKind::Headless,
        other => other,
    };
    let session_affinity = match spec.session_affinity.unwrap_or(AffinityText::None) {
        AffinityText::None => SessionAffinity::None,
        AffinityText::ClientIp => {
            let config = spec.session_affinity_config.unwrap_or_default();
            SessionAffinity::client_ip(config.timeout_seconds()).map_err(|e| e.to_string())?
        }
    };
    let ip_families = spec.ip_families.unwrap_or_default();
    if ip_families.len() > 2 || ip_families.len() == 2 && ip_families[0] == ip_families[1] {
        return Err("ipFamilies names a family twice; give IPv4, IPv6 or both".to_owned());
    }
    Ok(ServiceObject {
        kind,
        ports: spec.ports.unwrap_or_default().into_iter().map(PortSpec::from).collect(),
        session_affinity,
        ip_families,
        internal_traffic_policy: spec.internal_traffic_policy,
        traffic_distribution: spec.traffic_distribution,
    })
}

fn export(mut fields: Fields) -> ExportObject {
    let strings = |map: Option<BTreeMap<Box<str>, Option<Box<str>>>>| {
        let pairs = map.unwrap_or_default().into_iter();
        pairs.map(|(key, value)| (key, value.unwrap_or_default())).collect()
    };
    ExportObject {
        created_ms: fields.metadata.creation_timestamp.map_or(0, |created| created.0),
        exported_labels: strings(fields.spec.exported_labels),
        exported_annotations: strings(fields.spec.exported_annotations),
        settings: fields.metadata.take_settings(),
    }
}

/// A slice without a Service, or of names instead of addresses, is nothing to us.
fn slice(fields: Fields) -> Result<Option<(ObjectId, Object)>, String> {
    const KIND: &str = "EndpointSlice";
    let namespace = namespace(&fields.metadata, KIND)?;
    let key =
        SliceObjectKey { namespace: namespace.clone(), name: name(&fields.metadata, KIND)?.into() };
    let Some(service) = fields.metadata.service_name() else { return Ok(None) };
    if fields.address_type.as_deref() == Some("FQDN") {
        return Ok(None);
    }
    let service = ServiceName::parse(service).map_err(|error| {
        format!("{KIND} {}: label kubernetes.io/service-name: {error}", key.name)
    })?;
    let port = |port: super::manifest::SlicePortText| {
        Some(SlicePort {
            name: port.name.unwrap_or_default(),
            protocol: port.protocol.unwrap_or_default(),
            port: port.port?.0,
        })
    };
    let endpoint = |endpoint: super::manifest::EndpointText| SliceEndpoint {
        addresses: endpoint.addresses.into_iter().map(canonical).collect(),
        ready: endpoint.conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
        // What else a cluster's own objects need, manifests have no use for.
        serving: true,
        terminating: false,
        hostname: endpoint.hostname,
        node: None,
        zone: None,
    };
    let object = SliceObject {
        service: ServiceKey::new(namespace, service),
        ports: fields.ports.into_iter().filter_map(port).collect(),
        endpoints: fields.endpoints.into_iter().map(endpoint).collect(),
    };
    Ok(Some((ObjectId::Slice(key), Object::Slice(object))))
}
