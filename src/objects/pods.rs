//! Derived Services of remote pods: of a headless import across networks, each pod that has a
//! hostname has an address here, behind which the gateway leads to that pod alone.

use std::collections::BTreeMap;

use super::labels::{
    ANNOTATION_PORTS, LABEL_POD, LABEL_POD_CLUSTER, LABEL_SLICE_SERVICE, derived_pod_name,
    port_name, write_ports,
};
use super::layout::{Cells, Named};
use super::object::{Meta, Owner};
use super::observed::ObservedService;
use super::service::DerivedService;
use super::slice::EndpointSlice;
use super::slices::Sources;
use crate::catalog::{IpFamily, SessionAffinity};
use crate::model::{PortKey, PortNumber, PortSpec};
use crate::routes::RemotePod;

/// What stands for the ports of one pod.
type Ports = BTreeMap<PortKey, PortNumber>;

/// A Service for every pod that got ports, by name of the pod. `meta` makes what all have.
pub(super) fn services<'a>(
    sources: Sources<'a>,
    families: &'a [IpFamily],
    meta: impl Fn(String) -> Meta + 'a,
) -> impl Iterator<Item = DerivedService> + 'a {
    led(sources).map(move |(pod, ports, _)| {
        let mut meta = meta(derived_pod_name(sources.case.key, &pod.name));
        meta.labels.insert(LABEL_POD.into(), pod.name.hostname.as_str().into());
        meta.labels.insert(LABEL_POD_CLUSTER.into(), pod.name.cluster.as_str().into());
        meta.annotations.insert(ANNOTATION_PORTS.into(), write_ports(ports).into());
        let port = |(protocol, port)| PortSpec {
            name: port_name(PortKey::new(protocol, port)).into(),
            protocol,
            port,
            app_protocol: None,
        };
        DerivedService {
            meta,
            ports: pod.listens().into_keys().map(port).collect(),
            session_affinity: SessionAffinity::None,
            families: families.to_vec(),
            ips: Vec::new(),
            tampered: false,
        }
    })
}

/// The slices of those Services, by name: the gateways that have opened what stands for a port.
pub(super) fn slices(sources: Sources<'_>) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    for (pod, ports, service) in led(sources).filter(|(pod, ..)| pod.usable) {
        let Some(service) = service else { continue };
        let name = derived_pod_name(sources.case.key, &pod.name);
        let owner = Owner {
            api_version: "v1".into(),
            kind: "Service".into(),
            name: name.as_str().into(),
            uid: service.uid.clone(),
        };
        let mut named = Named::new(sources.case.key, &owner);
        let of_service = (LABEL_SLICE_SERVICE, name);
        let listens = pod.listens();
        for family in service.ips.iter().map(|ip| IpFamily::of(*ip)) {
            let mut cells = Cells::default();
            for ((protocol, number), key) in &listens {
                let recorded = |at: &&PortNumber| service.ports.get(key) == Some(*at);
                let at = ports.get(key).filter(recorded).map(|at| (*protocol, *at));
                let port = port_name(PortKey::new(*protocol, *number));
                cells.extend(&port, *protocol, sources.opened(at, family));
            }
            let role = format!("pod {} {}", pod.name, super::json::family(family));
            named.add(&role, family, cells, std::slice::from_ref(&of_service));
        }
        slices.extend(named.slices);
    }
    slices
}

/// The pods that got ports, with those, and the Service that each has already.
fn led<'a>(
    sources: Sources<'a>,
) -> impl Iterator<Item = (&'a RemotePod, &'a Ports, Option<&'a ObservedService>)> {
    sources.route.pods.led.iter().filter_map(move |pod| {
        let service = sources.observed.pods.get(&pod.name);
        let ports = match sources.case.pods {
            Some(allotted) => allotted.get(&pod.name),
            // Nobody has looked: those that are recorded hold.
            None => service.map(|service| &service.ports),
        };
        Some((pod, ports.filter(|ports| !ports.is_empty())?, service))
    })
}
