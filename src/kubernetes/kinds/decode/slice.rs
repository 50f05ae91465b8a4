//! EndpointSlices: other parties' endpoints, the gateway's replicas, our own slices.

use std::net::IpAddr;

use super::super::text::{EndpointText, SliceText};
use super::{Decoded, Decoder, Seen, Sent, family, port_number, protocol};
use crate::catalog::{SliceEndpoint, SliceObject, SliceObjectKey, SlicePort, SourceEvent};
use crate::kubernetes::view::GatewayMember;
use crate::model::{ServiceKey, ServiceName, canonical};
use crate::objects::{Kind, LABEL_SLICE_MANAGED_BY, LABEL_SLICE_SERVICE, MANAGER};

impl Decoder {
    /// A slice without a Service, of names instead of addresses, or of a kind of address that is
    /// not known is nothing to us.
    pub(super) fn slice(&self, object: Sent<'_>) -> Result<Decoded, String> {
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
