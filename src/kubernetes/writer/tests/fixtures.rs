//! Objects to write.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::{IpFamily, ServiceType, SessionAffinity, SliceEndpoint, SlicePort};
use crate::kubernetes::mirror::Existing;
use crate::model::{ClusterId, PortNumber, PortSpec, Protocol, ServiceKey};
use crate::objects::{
    ANNOTATION_PORTS, DerivedService, Desired, EndpointSlice, ImportSpec, ImportStatus, Kept,
    LABEL_MANAGED_BY, LABEL_MCS_SERVICE, LABEL_SERVICE, LABEL_SLICE_MANAGED_BY,
    LABEL_SLICE_SERVICE, LABEL_SOURCE_CLUSTER, MANAGER, Meta, Object, ServiceImport, derived_name,
};

pub(super) fn key(text: &str) -> ServiceKey {
    ServiceKey::parse(text).unwrap()
}

fn port(number: u32) -> PortNumber {
    PortNumber::new(number).unwrap()
}

fn meta(key: &ServiceKey, name: &str, labels: &[(&str, &str)]) -> Meta {
    let mut all: BTreeMap<Box<str>, Box<str>> =
        labels.iter().map(|(label, value)| ((*label).into(), (*value).into())).collect();
    all.insert(LABEL_SERVICE.into(), key.name.as_str().into());
    Meta {
        namespace: key.namespace.clone(),
        name: name.into(),
        labels: all,
        annotations: BTreeMap::new(),
        owner: None,
    }
}

/// The derived Service, with these ports of the gateway recorded.
pub(super) fn service(key: &ServiceKey, recorded: &str) -> Object {
    let mut meta = meta(key, &derived_name(key), &[(LABEL_MANAGED_BY, MANAGER)]);
    meta.annotations.insert(ANNOTATION_PORTS.into(), recorded.into());
    let spec = PortSpec {
        name: "tcp-80".into(),
        protocol: Protocol::Tcp,
        port: port(80),
        app_protocol: None,
    };
    Object::Service(DerivedService {
        meta,
        ports: vec![spec],
        session_affinity: SessionAffinity::None,
        families: vec![IpFamily::V4],
        ips: Vec::new(),
        tampered: false,
    })
}

/// That of a remote pod of it.
pub(super) fn pod_service(key: &ServiceKey, host: &str) -> Object {
    let Object::Service(mut service) = service(key, "tcp-80=20001") else { unreachable!() };
    service.meta.name = format!("portolan-{host}-0123456789").into();
    Object::Service(service)
}

fn slice_of(meta: Meta, addresses: &[&str]) -> Object {
    let endpoint = |address: &&str| SliceEndpoint {
        addresses: vec![address.parse().unwrap()],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: None,
        zone: None,
    };
    Object::Slice(EndpointSlice {
        meta,
        family: IpFamily::V4,
        ports: vec![SlicePort {
            name: "tcp-80".into(),
            protocol: Protocol::Tcp,
            port: port(20001),
        }],
        endpoints: addresses.iter().map(endpoint).collect(),
    })
}

/// A slice for kube-proxy.
pub(super) fn proxied(key: &ServiceKey, addresses: &[&str]) -> Object {
    let service = derived_name(key);
    let labels = [(LABEL_SLICE_MANAGED_BY, MANAGER), (LABEL_SLICE_SERVICE, &*service)];
    slice_of(meta(key, &format!("{service}-tcp-80"), &labels), addresses)
}

/// A slice of the import.
pub(super) fn imported(key: &ServiceKey, addresses: &[&str]) -> Object {
    let labels = [
        (LABEL_SLICE_MANAGED_BY, MANAGER),
        (LABEL_MCS_SERVICE, key.name.as_str()),
        (LABEL_SOURCE_CLUSTER, "oregon"),
    ];
    slice_of(meta(key, &format!("{}-oregon-0", derived_name(key)), &labels), addresses)
}

/// The import, exported by these clusters.
pub(super) fn import(key: &ServiceKey, clusters: &[&str]) -> Object {
    let spec = PortSpec {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: port(80),
        app_protocol: None,
    };
    Object::Import(ServiceImport {
        meta: meta(key, key.name.as_str(), &[(LABEL_MANAGED_BY, MANAGER)]),
        spec: ImportSpec {
            service_type: ServiceType::ClusterSetIp,
            ports: vec![spec],
            ips: vec!["10.96.0.7".parse().unwrap()],
            families: vec![IpFamily::V4],
            session_affinity: SessionAffinity::None,
            internal_traffic_policy: None,
            traffic_distribution: None,
        },
        status: ImportStatus {
            clusters: clusters.iter().map(|id| ClusterId::parse(id).unwrap()).collect(),
            conditions: Vec::new(),
            endpoint_slices: Some(true),
        },
    })
}

/// All four of a name.
pub(super) fn whole(key: &ServiceKey) -> Vec<Object> {
    vec![
        service(key, "tcp-80=20001"),
        proxied(key, &["10.1.0.1", "10.1.0.2"]),
        import(key, &["oregon"]),
        imported(key, &["10.1.0.1", "10.1.0.2"]),
    ]
}

pub(super) fn desired(key: &ServiceKey, objects: Vec<Object>) -> Desired {
    Desired { key: key.clone(), objects, export: None, kept: Kept::default() }
}

/// As the cluster would hold it.
pub(super) fn existing(object: &Object) -> Existing {
    Existing {
        uid: "uid-1".into(),
        version: "7".into(),
        object: Arc::new(object.clone()),
        deleting: false,
    }
}
