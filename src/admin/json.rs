//! The JSON of the admin port, as written and as read back by the commands.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::catalog::ServiceType;
use crate::health::PeerState;
use crate::model::{ClusterId, DnsName, Namespace, PortNumber, Protocol, ServiceName};
use crate::routes::Reason;

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
    /// Its share.
    pub weight: u32,
    /// Whether a new connection may go there.
    pub usable: bool,
    /// Why it stands here.
    pub reason: Reason,
    /// Seconds since its state changed.
    pub since: f64,
}
