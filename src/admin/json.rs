//! The JSON of the admin port, as written and as read back by the commands.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::catalog::ServiceType;
use crate::health::PeerState;
use crate::model::{ClusterId, DnsName, Namespace, PortNumber, Protocol, ServiceName};
use crate::routes::{By, Candidate, PeerStatus, Reason, Route, RouteTable, Steered};

/// `GET /state`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateJson {
    /// The own cluster.
    pub cluster: ClusterId,
    /// The zone.
    pub clusterset: DnsName,
    /// The agent's version.
    pub version: String,
    /// The route table's revision.
    pub revision: u64,
    /// The own source of truth.
    pub source: SourceJson,
    /// Peers, by name.
    pub peers: Vec<PeerJson>,
    /// Services, by name.
    pub services: Vec<ServiceJson>,
    /// Drains in force, by name.
    #[serde(default)]
    pub drains: Vec<DrainJson>,
}

/// A drain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainJson {
    /// A cluster or a service: `oregon`, `web.shop`.
    pub name: String,
    /// Who wants it.
    pub by: By,
    /// When it is complete, RFC 3339.
    pub until: String,
    /// Over which time the share falls before that, seconds.
    pub over_seconds: f64,
    /// What it takes now, 0.0 to 1.0, of the new connections that its place would bring it.
    pub share: f64,
    /// Connections through this gateway that are left.
    pub connections: u64,
}

/// The own source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceJson {
    /// `files` or `kubernetes`.
    pub kind: String,
    /// Whether everything was read once.
    pub synced: bool,
    /// Seconds since it was last read without an error.
    pub age_seconds: f64,
    /// What is wrong with it now.
    pub error: Option<String>,
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerJson {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its state.
    pub state: PeerState,
    /// Smoothed round trip, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Share of probes lost, percent.
    pub loss_percent: f32,
    /// Control sessions held.
    pub sessions: u32,
    /// The catalog revision believed.
    pub revision: u64,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

/// A service, also `GET /explain?name=`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceJson {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: ServiceName,
    /// Its type.
    #[serde(rename = "type")]
    pub service_type: ServiceType,
    /// Its clusterset addresses.
    pub ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<PortJson>,
    /// What its DNS name answers now.
    pub dns: Vec<IpAddr>,
    /// Who could serve it, best first.
    pub candidates: Vec<CandidateJson>,
}

/// A port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortJson {
    /// The number.
    pub port: PortNumber,
    /// The protocol.
    pub protocol: Protocol,
}

/// A candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateJson {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its place, from 1.
    pub rank: u32,
    /// Its state.
    pub state: PeerState,
    /// The round trip that ranks, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Its weight under `weighted`.
    pub weight: u32,
    /// What it takes, 0.0 to 1.0, of the new connections that its place would bring it.
    #[serde(default = "whole")]
    pub share: f64,
    /// Whether a new connection may go there.
    pub usable: bool,
    /// Why it stands here.
    pub reason: Reason,
    /// Seconds since its state changed.
    pub since: f64,
}

/// An error of the admin port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorJson {
    /// What is wrong and what to do.
    pub error: String,
}

/// The whole state, from the one table that gateway and DNS obey; `dns` tells what a name answers
/// now (`zone` knows).
#[must_use]
pub fn state(
    table: &RouteTable,
    clusterset: DnsName,
    source: SourceJson,
    drains: Vec<DrainJson>,
    dns: impl Fn(&Route) -> Vec<IpAddr>,
    now: Instant,
) -> StateJson {
    let mut routes: Vec<_> = table.services.values().collect();
    routes.sort_by(|a, b| a.key.cmp(&b.key));
    StateJson {
        cluster: table.cluster.clone(),
        clusterset,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: table.revision,
        source,
        peers: table.peers.iter().map(|(cluster, status)| peer(cluster, status)).collect(),
        services: routes.into_iter().map(|route| service(route, dns(route), now)).collect(),
        drains,
    }
}

/// A service as `explain` shows it: what was decided, never decided again.
#[must_use]
pub fn service(route: &Route, dns: Vec<IpAddr>, now: Instant) -> ServiceJson {
    let ports = route.ports.iter().map(|port| port.spec.key());
    ServiceJson {
        namespace: route.key.namespace.clone(),
        name: route.key.name.clone(),
        service_type: route.service_type,
        ips: route.vips.clone(),
        ports: ports.map(|key| PortJson { port: key.port, protocol: key.protocol }).collect(),
        dns,
        candidates: candidates(&route.clusters, now),
    }
}

/// Candidates with their ranks.
#[must_use]
pub fn candidates(ordered: &[Candidate], now: Instant) -> Vec<CandidateJson> {
    let ranked = (1..).zip(ordered);
    ranked
        .map(|(rank, candidate)| CandidateJson {
            cluster: candidate.cluster.clone(),
            rank,
            state: candidate.state,
            rtt_ms: candidate.rtt.map(milliseconds),
            weight: candidate.weight,
            share: shown_share(candidate.share),
            usable: candidate.usable,
            reason: candidate.reason,
            since: now.saturating_duration_since(candidate.since).as_secs_f64(),
        })
        .collect()
}

/// A peer.
#[must_use]
pub fn peer(cluster: &ClusterId, status: &PeerStatus) -> PeerJson {
    PeerJson {
        cluster: cluster.clone(),
        state: status.health.state,
        rtt_ms: status.health.rtt.map(milliseconds),
        loss_percent: status.health.loss_percent,
        sessions: status.sessions,
        revision: status.revision,
        last_error: status.last_error.as_deref().map(str::to_owned),
    }
}

/// A drain as it is in force, with the connections that are left.
#[must_use]
pub fn drain(of: &Steered, connections: usize) -> DrainJson {
    DrainJson {
        name: of.of.to_string(),
        by: of.by,
        until: of.drain.until(),
        over_seconds: of.drain.over().as_secs_f64(),
        share: f64::from(of.share.percent()) / 100.0,
        connections: u64::try_from(connections).unwrap_or(u64::MAX),
    }
}

/// An agent that says nothing of shares knows none.
fn whole() -> f64 {
    1.0
}

/// To a thousandth, as shares of shares have no exact decimal.
fn shown_share(share: f32) -> f64 {
    (f64::from(share) * 1000.0).round() / 1000.0
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
