//! Services: what may be exported, what we derived, the gateway's own.

use std::collections::BTreeMap;

use super::super::text::{Ingress, ServicePort, ServiceSpec, ServiceStatus, ServiceText};
use super::{Decoded, Decoder, Families, Seen, Sent, addresses, family, port_number, protocol};
use crate::catalog::{IpFamily, ObjectKind, ServiceObject, SessionAffinity, SourceEvent};
use crate::model::{PeerAddress, PortSpec, Protocol};
use crate::objects::{
    Kind, LABEL_MANAGED_BY, MANAGER, ObservedService, derived_name_of, parse_ports,
};

/// So the names of derived Services begin.
const DERIVED_PREFIX: &str = "portolan-";

impl Decoder {
    pub(super) fn service(&self, mut object: Sent<'_>) -> Result<Decoded, String> {
        let ServiceText { spec, status } = object.parse()?;
        let namespace = object.namespace()?;
        let listed: Vec<IpFamily> = spec.ip_families.iter().filter_map(|f| family(f)).collect();
        let families =
            Families { v4: listed.contains(&IpFamily::V4), v6: listed.contains(&IpFamily::V6) };
        let mut observed = ObservedService {
            uid: object.uid.into(),
            ips: addresses(&spec.cluster_ips),
            ports: BTreeMap::new(),
            foreign: true,
        };
        if object.label(LABEL_MANAGED_BY) == Some(MANAGER) {
            let settings = object.take_settings();
            observed.foreign = false;
            observed.ports =
                settings.get("ports").map(|text| parse_ports(text)).unwrap_or_default();
            let (id, existing) = object.ours(Kind::Service)?;
            let callee = existing.object.callee();
            let callee = callee.filter(|callee| *derived_name_of(callee) == *id.name);
            let seen = callee.map(|callee| Seen::Derived(callee, observed));
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
            SessionAffinity::client_ip(seconds).map_err(|error| error.to_string())?
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
