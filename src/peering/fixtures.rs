//! Exports and catalogs for the tests of this module.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::catalog::{
    CallerRules, ClusterRules, DnsMode, Export, ExportedEndpoint, ExportedPort, Fence, Guidance,
    IpFamily, LocalCatalog, LocalExport, LocalMode, Policy, ProxyProtocol, ServiceType,
    SessionAffinity, Settings, Share, Steer, Weight,
};
use crate::model::{ClusterId, HostLabel, PortKey, PortNumber, PortSpec, Protocol, ServiceKey};

pub(super) fn key(text: &str) -> ServiceKey {
    ServiceKey::parse(text).unwrap()
}

pub(super) fn cluster(name: &str) -> ClusterId {
    ClusterId::parse(name).unwrap()
}

pub(super) fn tcp(port: u32) -> PortKey {
    PortKey::new(Protocol::Tcp, PortNumber::new(port).unwrap())
}

/// A plain service with one port and so many ready endpoints behind it.
pub(super) fn plain(name: &str, ready: u32) -> Export {
    let spec = PortSpec {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: PortNumber::new(80).unwrap(),
        app_protocol: None,
    };
    Export {
        key: key(name),
        created_ms: 0,
        service_type: ServiceType::ClusterSetIp,
        ports: vec![ExportedPort { spec, ready }],
        session_affinity: SessionAffinity::None,
        ip_families: vec![IpFamily::V4],
        internal_traffic_policy: None,
        traffic_distribution: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        settings: Settings::default(),
        endpoints: Vec::new(),
        hosts: Vec::new(),
    }
}

/// A headless service with these endpoints.
pub(super) fn headless(name: &str, endpoints: &[&str]) -> Export {
    let ready = u32::try_from(endpoints.len()).unwrap();
    let endpoint = |(index, address): (usize, &&str)| ExportedEndpoint {
        address: address.parse::<IpAddr>().unwrap(),
        hostname: Some(HostLabel::parse(&format!("pod-{index}")).unwrap()),
        ports: vec![tcp(80).into()],
    };
    let mut endpoints: Vec<_> = endpoints.iter().enumerate().map(endpoint).collect();
    endpoints.sort();
    Export { service_type: ServiceType::Headless, endpoints, ..plain(name, ready) }
}

/// An export with something in every field.
pub(super) fn full(name: &str) -> Export {
    let port = |name: &str, protocol, port, app_protocol: Option<&str>| ExportedPort {
        spec: PortSpec {
            name: name.into(),
            protocol,
            port: PortNumber::new(port).unwrap(),
            app_protocol: app_protocol.map(Into::into),
        },
        ready: 7,
    };
    Export {
        created_ms: 1_700_000_000_123,
        ports: vec![
            port("web", Protocol::Tcp, 443, Some("kubernetes.io/h2c")),
            port("dns", Protocol::Udp, 53, None),
            port("", Protocol::Sctp, 65_535, None),
        ],
        session_affinity: SessionAffinity::ClientIp { timeout_seconds: 86_400 },
        ip_families: vec![IpFamily::V6, IpFamily::V4],
        internal_traffic_policy: Some("Local".into()),
        traffic_distribution: Some("PreferClose".into()),
        labels: [("app".into(), "web".into())].into(),
        annotations: [("note".into(), "für alle".into()), ("empty".into(), "".into())].into(),
        settings: Settings {
            policy: Policy::Pinned(vec![cluster("oregon"), cluster("tokyo")]),
            fence: Fence::Zone,
            dns: DnsMode::Endpoints,
            weight: Weight::new(0).unwrap(),
            early_data: true,
            proxy_protocol: ProxyProtocol::V2,
            local: LocalMode::Gateway,
            share: Share::new(43).unwrap(),
        },
        ..headless(name, &["10.1.0.9", "10.1.0.1", "2001:db8::1"])
    }
}

/// What a cluster exports, to whom.
pub(super) fn catalog(revision: u64, exports: Vec<(Export, ClusterRules)>) -> LocalCatalog {
    let local = |(export, clusters): (Export, ClusterRules)| {
        let local = LocalExport {
            export: Arc::new(export),
            clusters,
            allow: CallerRules::default(),
            most_streams: None,
            steer: Steer::default(),
            direct_share: Share::FULL,
            guidance: Guidance::default(),
            backends: BTreeMap::new(),
            slices: Vec::new(),
            problems: Vec::new(),
        };
        (local.export.key.clone(), Arc::new(local))
    };
    LocalCatalog {
        revision,
        synced: true,
        exports: exports.into_iter().map(local).collect(),
        ..LocalCatalog::default()
    }
}

/// The same, for everybody.
pub(super) fn open_catalog(revision: u64, exports: Vec<Export>) -> LocalCatalog {
    catalog(revision, exports.into_iter().map(|export| (export, ClusterRules::Any)).collect())
}
