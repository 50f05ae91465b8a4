//! Exports to records and back. Reading is strict: one bad field refuses that record, with a
//! reason from a closed set; only settings that a newer peer knows and we don't fall back to
//! their defaults, as a bad annotation does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bytes::Bytes;
use prost::Message;
use thiserror::Error;

use crate::catalog::{
    DnsMode, EndpointPort, Export, ExportedEndpoint, ExportedPort, Fence, IpFamily, LocalMode,
    Policy, ProxyProtocol, ServiceType, SessionAffinity, Settings, Share, Weight,
};
use crate::model::{
    ClusterId, HostLabel, Namespace, PortKey, PortNumber, PortSpec, Protocol, ServiceKey,
    ServiceName, canonical,
};
use crate::wire::control::{
    DnsCode, EndpointRecord, ExportRecord, FenceCode, IpFamilyCode, LocalCode, PolicyCode,
    PortRecord, PortRef, ProtocolCode, ProxyCode, Record, RecordBody, ServiceTypeCode,
    SettingsRecord,
};

/// Ports of one service; Kubernetes objects of ordinary size hold fewer.
const MAX_PORTS: usize = 1_000;
/// Clusters that one `pinned` policy may name.
const MAX_PINNED: usize = 64;
/// Octets of a verbatim text field (a qualified name of Kubernetes has at most 317).
const MAX_TEXT_OCTETS: usize = 317;
/// Session affinity lasts at most a day (Kubernetes API).
const MAX_AFFINITY_SECONDS: u32 = 86_400;

/// Why a record was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub(super) enum BadRecord {
    #[error("its bytes cannot be decoded")]
    Unreadable,
    #[error("it describes something this version does not know")]
    UnknownKind,
    #[error("its namespace or name is not an RFC 1123 label")]
    Name,
    #[error("its service type is not known")]
    Type,
    #[error("a port is bad, repeated, or there are more than {MAX_PORTS}")]
    Port,
    #[error("its affinity is not 1 to {MAX_AFFINITY_SECONDS} seconds")]
    Affinity,
    #[error("its IP families are not one or two different ones")]
    Family,
    #[error("its address is not of 4 or 16 octets")]
    Address,
    #[error("its hostname is not an RFC 1123 label")]
    Hostname,
    #[error("a text is longer than {MAX_TEXT_OCTETS} octets or holds unprintable characters")]
    Text,
    #[error("its policy pins something that is not a cluster, or more than {MAX_PINNED}")]
    Pinned,
    #[error("its weight is more than {}", Weight::MAX)]
    Weight,
    #[error("its share is more than 100 percent")]
    Share,
}

impl BadRecord {
    /// The metric's label.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::UnknownKind => "unknown_kind",
            Self::Name => "name",
            Self::Type => "type",
            Self::Port => "port",
            Self::Affinity => "affinity",
            Self::Family => "family",
            Self::Address => "address",
            Self::Hostname => "hostname",
            Self::Text => "text",
            Self::Pinned => "pinned",
            Self::Weight => "weight",
            Self::Share => "share",
        }
    }
}

/// A record as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A service, without its endpoints.
    Export(Export),
    /// An endpoint of a service.
    Endpoint(ServiceKey, ExportedEndpoint),
}

impl Parsed {
    /// The service it belongs to.
    pub(super) fn key(&self) -> &ServiceKey {
        match self {
            Self::Export(export) => &export.key,
            Self::Endpoint(key, _) => key,
        }
    }
}

/// The record of a service, without its endpoints.
pub(super) fn export_record(export: &Export) -> Bytes {
    let (policy, pinned) = match &export.settings.policy {
        Policy::Nearest => (PolicyCode::Nearest, Vec::new()),
        Policy::Local => (PolicyCode::Local, Vec::new()),
        Policy::Weighted => (PolicyCode::Weighted, Vec::new()),
        Policy::Pinned(list) => {
            (PolicyCode::Pinned, list.iter().map(ToString::to_string).collect())
        }
    };
    let settings = SettingsRecord {
        policy: policy.into(),
        pinned,
        fence: match export.settings.fence {
            Fence::None => FenceCode::None,
            Fence::Region => FenceCode::Region,
            Fence::Zone => FenceCode::Zone,
        }
        .into(),
        dns: match export.settings.dns {
            DnsMode::Vip => DnsCode::Vip,
            DnsMode::Endpoints => DnsCode::Endpoints,
        }
        .into(),
        weight: Some(export.settings.weight.get().into()),
        early_data: export.settings.early_data,
        proxy_protocol: match export.settings.proxy_protocol {
            ProxyProtocol::None => ProxyCode::None,
            ProxyProtocol::V2 => ProxyCode::V2,
        }
        .into(),
        local: match export.settings.local {
            LocalMode::Direct => LocalCode::Direct,
            LocalMode::Gateway => LocalCode::Gateway,
        }
        .into(),
        share: (export.settings.share != Share::FULL)
            .then(|| export.settings.share.percent().into()),
    };
    let record = ExportRecord {
        namespace: export.key.namespace.to_string(),
        name: export.key.name.to_string(),
        created_ms: export.created_ms,
        service_type: match export.service_type {
            ServiceType::ClusterSetIp => ServiceTypeCode::ClusterSetIp,
            ServiceType::Headless => ServiceTypeCode::Headless,
        }
        .into(),
        ports: export.ports.iter().map(port_record).collect(),
        client_ip_timeout_seconds: match export.session_affinity {
            SessionAffinity::None => None,
            SessionAffinity::ClientIp { timeout_seconds } => Some(timeout_seconds),
        },
        ip_families: export.ip_families.iter().map(|family| family_code(*family).into()).collect(),
        internal_traffic_policy: owned(export.internal_traffic_policy.as_deref()),
        traffic_distribution: owned(export.traffic_distribution.as_deref()),
        labels: texts(&export.labels),
        annotations: texts(&export.annotations),
        settings: Some(settings),
    };
    Record { body: Some(RecordBody::Export(record)) }.encode_to_vec().into()
}

/// The record of one endpoint of a service.
pub(super) fn endpoint_record(key: &ServiceKey, endpoint: &ExportedEndpoint) -> Bytes {
    let address = match canonical(endpoint.address) {
        IpAddr::V4(v4) => Bytes::copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => Bytes::copy_from_slice(&v6.octets()),
    };
    let port = |port: &EndpointPort| PortRef {
        protocol: protocol_code(port.key.protocol).into(),
        port: port.key.port.get().into(),
        target: port.target.map_or(0, |target| target.get().into()),
    };
    let record = EndpointRecord {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        address,
        hostname: endpoint.hostname.as_ref().map(ToString::to_string),
        ports: endpoint.ports.iter().map(port).collect(),
    };
    Record { body: Some(RecordBody::Endpoint(record)) }.encode_to_vec().into()
}

fn owned(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}

fn texts(map: &BTreeMap<Box<str>, Box<str>>) -> BTreeMap<String, String> {
    map.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn port_record(port: &ExportedPort) -> PortRecord {
    PortRecord {
        name: port.spec.name.to_string(),
        protocol: protocol_code(port.spec.protocol).into(),
        port: port.spec.port.get().into(),
        app_protocol: owned(port.spec.app_protocol.as_deref()),
        ready: port.ready,
    }
}

fn protocol_code(protocol: Protocol) -> ProtocolCode {
    match protocol {
        Protocol::Tcp => ProtocolCode::Tcp,
        Protocol::Udp => ProtocolCode::Udp,
        Protocol::Sctp => ProtocolCode::Sctp,
    }
}

fn family_code(family: IpFamily) -> IpFamilyCode {
    match family {
        IpFamily::V4 => IpFamilyCode::V4,
        IpFamily::V6 => IpFamilyCode::V6,
    }
}

/// Reads one record. The flag says whether it held fields that were skipped.
pub(super) fn parse(bytes: &Bytes) -> Result<(Parsed, bool), BadRecord> {
    let record = Record::decode(bytes.clone()).map_err(|_| BadRecord::Unreadable)?;
    let skipped = record.encoded_len() < bytes.len();
    let parsed = match record.body.ok_or(BadRecord::UnknownKind)? {
        RecordBody::Export(record) => Parsed::Export(parse_export(record)?),
        RecordBody::Endpoint(record) => {
            let key = service_key(&record.namespace, &record.name).ok_or(BadRecord::Name)?;
            Parsed::Endpoint(key, parse_endpoint(&record)?)
        }
    };
    Ok((parsed, skipped))
}

/// What a record says, written anew; `None` where it is refused.
#[cfg(feature = "testing")]
#[must_use]
pub fn reread(record: &Bytes) -> Option<Bytes> {
    Some(match parse(record).ok()?.0 {
        Parsed::Export(export) => export_record(&export),
        Parsed::Endpoint(key, endpoint) => endpoint_record(&key, &endpoint),
    })
}

/// A service's name as it travels.
pub(super) fn service_key(namespace: &str, name: &str) -> Option<ServiceKey> {
    Some(ServiceKey::new(Namespace::parse(namespace).ok()?, ServiceName::parse(name).ok()?))
}

fn parse_export(record: ExportRecord) -> Result<Export, BadRecord> {
    let key = service_key(&record.namespace, &record.name).ok_or(BadRecord::Name)?;
    let service_type = match record.service_type() {
        ServiceTypeCode::ClusterSetIp => ServiceType::ClusterSetIp,
        ServiceTypeCode::Headless => ServiceType::Headless,
        ServiceTypeCode::Unknown => return Err(BadRecord::Type),
    };
    let ports = record.ports.iter().map(parse_port).collect::<Result<Vec<_>, _>>()?;
    let distinct: BTreeSet<PortKey> = ports.iter().map(|port| port.spec.key()).collect();
    if distinct.len() != ports.len() || ports.len() > MAX_PORTS {
        return Err(BadRecord::Port);
    }
    let session_affinity = match record.client_ip_timeout_seconds {
        None => SessionAffinity::None,
        Some(timeout_seconds @ 1..=MAX_AFFINITY_SECONDS) => {
            SessionAffinity::ClientIp { timeout_seconds }
        }
        Some(_) => return Err(BadRecord::Affinity),
    };
    let ip_families = record
        .ip_families
        .iter()
        .map(|code| match IpFamilyCode::try_from(*code) {
            Ok(IpFamilyCode::V4) => Ok(IpFamily::V4),
            Ok(IpFamilyCode::V6) => Ok(IpFamily::V6),
            Ok(IpFamilyCode::Unknown) | Err(_) => Err(BadRecord::Family),
        })
        .collect::<Result<Vec<_>, _>>()?;
    if ip_families.len() > 2 || (ip_families.len() == 2 && ip_families[0] == ip_families[1]) {
        return Err(BadRecord::Family);
    }
    Ok(Export {
        key,
        created_ms: record.created_ms,
        service_type,
        ports,
        session_affinity,
        ip_families,
        internal_traffic_policy: text(record.internal_traffic_policy)?,
        traffic_distribution: text(record.traffic_distribution)?,
        labels: parse_texts(record.labels),
        annotations: parse_texts(record.annotations),
        settings: parse_settings(record.settings.unwrap_or_default())?,
        endpoints: Vec::new(),
        hosts: Vec::new(),
    })
}

fn parse_port(record: &PortRecord) -> Result<ExportedPort, BadRecord> {
    let key = port_key(record.protocol(), record.port)?;
    if !record.name.is_empty() && HostLabel::parse(&record.name).is_err() {
        return Err(BadRecord::Port);
    }
    let spec = PortSpec {
        name: record.name.as_str().into(),
        protocol: key.protocol,
        port: key.port,
        app_protocol: text(record.app_protocol.clone())?,
    };
    Ok(ExportedPort { spec, ready: record.ready })
}

fn port_key(protocol: ProtocolCode, port: u32) -> Result<PortKey, BadRecord> {
    let protocol = match protocol {
        ProtocolCode::Tcp => Protocol::Tcp,
        ProtocolCode::Udp => Protocol::Udp,
        ProtocolCode::Sctp => Protocol::Sctp,
        ProtocolCode::Unknown => return Err(BadRecord::Port),
    };
    Ok(PortKey::new(protocol, PortNumber::new(port).map_err(|_| BadRecord::Port)?))
}

fn parse_endpoint_port(port: &PortRef) -> Result<EndpointPort, BadRecord> {
    let target = match port.target {
        0 => None,
        number => Some(PortNumber::new(number).map_err(|_| BadRecord::Port)?),
    };
    Ok(EndpointPort { key: port_key(port.protocol(), port.port)?, target })
}

fn text(text: Option<String>) -> Result<Option<Box<str>>, BadRecord> {
    let Some(text) = text else { return Ok(None) };
    let printable = text.bytes().all(|octet| (0x20..0x7f).contains(&octet));
    if text.len() > MAX_TEXT_OCTETS || !printable {
        return Err(BadRecord::Text);
    }
    Ok(Some(text.into()))
}

fn parse_texts(map: BTreeMap<String, String>) -> BTreeMap<Box<str>, Box<str>> {
    map.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

fn parse_settings(record: SettingsRecord) -> Result<Settings, BadRecord> {
    let defaults = Settings::default();
    let policy = match record.policy() {
        PolicyCode::Unknown => defaults.policy,
        PolicyCode::Nearest => Policy::Nearest,
        PolicyCode::Local => Policy::Local,
        PolicyCode::Weighted => Policy::Weighted,
        PolicyCode::Pinned if record.pinned.len() > MAX_PINNED => return Err(BadRecord::Pinned),
        PolicyCode::Pinned => {
            let clusters = record.pinned.iter().map(|name| ClusterId::parse(name));
            Policy::Pinned(clusters.collect::<Result<_, _>>().map_err(|_| BadRecord::Pinned)?)
        }
    };
    Ok(Settings {
        policy,
        fence: match record.fence() {
            FenceCode::Unknown => defaults.fence,
            FenceCode::None => Fence::None,
            FenceCode::Region => Fence::Region,
            FenceCode::Zone => Fence::Zone,
        },
        dns: match record.dns() {
            DnsCode::Unknown => defaults.dns,
            DnsCode::Vip => DnsMode::Vip,
            DnsCode::Endpoints => DnsMode::Endpoints,
        },
        weight: match record.weight {
            None => defaults.weight,
            Some(weight) => Weight::new(weight).ok_or(BadRecord::Weight)?,
        },
        early_data: record.early_data,
        proxy_protocol: match record.proxy_protocol() {
            ProxyCode::Unknown => defaults.proxy_protocol,
            ProxyCode::None => ProxyProtocol::None,
            ProxyCode::V2 => ProxyProtocol::V2,
        },
        local: match record.local() {
            LocalCode::Unknown => defaults.local,
            LocalCode::Direct => LocalMode::Direct,
            LocalCode::Gateway => LocalMode::Gateway,
        },
        share: match record.share {
            None => defaults.share,
            Some(percent) => Share::new(percent).ok_or(BadRecord::Share)?,
        },
    })
}

fn parse_endpoint(record: &EndpointRecord) -> Result<ExportedEndpoint, BadRecord> {
    let address: IpAddr = match record.address.len() {
        4 => <[u8; 4]>::try_from(record.address.as_ref()).map(IpAddr::from).ok(),
        16 => <[u8; 16]>::try_from(record.address.as_ref()).map(IpAddr::from).ok(),
        _ => None,
    }
    .ok_or(BadRecord::Address)?;
    let hostname = match &record.hostname {
        None => None,
        Some(name) => Some(HostLabel::parse(name).map_err(|_| BadRecord::Hostname)?),
    };
    if record.ports.len() > MAX_PORTS {
        return Err(BadRecord::Port);
    }
    let ports: BTreeSet<EndpointPort> =
        record.ports.iter().map(parse_endpoint_port).collect::<Result<_, _>>()?;
    let mut ports: Vec<_> = ports.into_iter().collect();
    ports.dedup_by_key(|port| port.key);
    Ok(ExportedEndpoint { address: canonical(address), hostname, ports })
}

#[cfg(test)]
mod tests;
