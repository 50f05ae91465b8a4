//! From the one checked configuration to each module's own.

pub(super) mod kubernetes;

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::{Config, Congestion, Source};
use crate::model::ReplicaId;
use crate::zone::ZoneConfig;
use crate::{admin, dns, gateway, peering, tls};

pub(super) fn trust(config: &Config) -> tls::Config {
    tls::Config {
        cluster: config.cluster.clone(),
        clusterset: config.clusterset.clone(),
        dir: config.trust_dir.clone().unwrap_or_default(),
    }
}

/// Shown by `/state`.
pub(super) fn source_kind(config: &Config) -> &'static str {
    match config.source {
        Source::Files(_) => "files",
        Source::Kubernetes(_) => "kubernetes",
    }
}

pub(super) fn zone(config: &Config) -> ZoneConfig {
    ZoneConfig {
        zone: config.clusterset.clone(),
        ttl_seconds: u32::try_from(config.dns.ttl.as_secs()).unwrap_or(u32::MAX),
    }
}

pub(super) fn dns(config: &Config) -> dns::Config {
    dns::Config {
        listen: config.dns.listen.clone(),
        io: config.dns.io,
        ttl_seconds: zone(config).ttl_seconds,
        allow: config.dns.allow.clone(),
        forwarders: config.dns.forwarders.clone(),
        tcp_per_source: config.dns.tcp_per_source,
        tcp_total: config.dns.tcp_total,
    }
}

/// What DNS over TLS shows, where it is wanted.
pub(super) fn dns_certificate(
    config: &Config,
    trust: &tls::Trust,
) -> Result<Option<Arc<tls::ServerCertificate>>, tls::Error> {
    if config.dns.tls.listen.is_empty() {
        return Ok(None);
    }
    let certificate = match config.dns.tls.files.clone() {
        Some((certificate, key)) => {
            tls::ServerCertificate::open(tls::CertificateFiles { certificate, key }, dns::ALPN)?
        }
        None => tls::ServerCertificate::own(trust.clone(), dns::ALPN)?,
    };
    Ok(Some(Arc::new(certificate)))
}

/// Where clients of other sites stand.
pub(super) fn localities(config: &Config) -> dns::Localities {
    let places = &config.dns.localities;
    dns::Localities::new(
        places.iter().flat_map(|place| {
            place.networks.iter().map(|network| (*network, place.locality.clone()))
        }),
    )
}

pub(super) fn admin(config: &Config) -> admin::Config {
    admin::Config { listen: config.admin.listen, probes: config.admin.probes }
}

pub(super) fn gateway(config: &Config) -> gateway::Config {
    let listen_on = match config.source {
        Source::Files(_) => gateway::ListenOn::Vips,
        // Where peers come in, clients do too; `gateway.listen` has one address at least.
        Source::Kubernetes(_) => {
            let any = Ipv6Addr::UNSPECIFIED.into();
            let at = config.gateway.listen.first().map_or(any, SocketAddr::ip);
            gateway::ListenOn::Ports(at)
        }
    };
    let congestion = match config.gateway.congestion {
        Congestion::Bbr => gateway::Congestion::Bbr,
        Congestion::System => gateway::Congestion::System,
    };
    let outbound = config.gateway.outbound;
    gateway::Config { outbound, listen_on, congestion, ..gateway::Config::default() }
}

pub(super) fn peering(
    config: &Config,
    replica: ReplicaId,
    listening: &[SocketAddr],
) -> peering::Config {
    peering::Config {
        cluster: config.cluster.clone(),
        replica,
        network: config.network.clone(),
        presence: presence(config),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        own_ranges: own_ranges(config, listening),
    }
}

/// What peers are told of us that may change.
pub(super) fn presence(config: &Config) -> peering::Presence {
    peering::Presence {
        locality: config.locality.clone(),
        addresses: config.gateway.advertise.clone(),
        siblings: Vec::new(),
    }
}

pub(super) fn peers(config: &Config) -> Vec<peering::PeerConfig> {
    config
        .peers
        .iter()
        .map(|peer| peering::PeerConfig {
            cluster: peer.cluster.clone(),
            addresses: peer.addresses.clone(),
            networks: peer.networks.clone(),
            namespaces: peer.namespaces.clone(),
            trust_policy: true,
        })
        .collect()
}

/// Every address this process listens on.
pub(super) fn listeners(config: &Config, gateways: &[SocketAddr]) -> Vec<SocketAddr> {
    let dns = config.dns.listen.iter().chain(&config.dns.tls.listen);
    let admin = [&config.admin.listen].into_iter().chain(&config.admin.probes);
    gateways.iter().chain(dns).chain(admin).copied().collect()
}

/// Where no peer's endpoint may lie: our clusterset addresses and our listeners.
fn own_ranges(config: &Config, gateways: &[SocketAddr]) -> Vec<IpNet> {
    let listeners = listeners(config, gateways).into_iter().map(|listener| listener.ip());
    let hosts = listeners.filter(|address| !address.is_unspecified()).map(IpNet::from);
    config.vips.iter().copied().chain(hosts).collect()
}
