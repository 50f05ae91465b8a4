//! What `plan` decides from: everything the planner task knows, as one value.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::order::is_last_resort;
use super::steer::Steered;
use super::{GatewayPorts, PeerStatus};
use crate::catalog::{Guidance, LocalCatalog, PeerCatalog, Share};
use crate::health::{PeerState, PeerView};
use crate::model::{Callee, ClusterId, Locality, Namespace, ServiceKey};

/// Everything a plan depends on.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The own cluster.
    pub cluster: ClusterId,
    /// When this agent started: since then the own cluster is `Up`.
    pub started: Instant,
    /// Where it stands.
    pub locality: Locality,
    /// Its `network`; empty is shared with nobody.
    pub network: Box<str>,
    /// What it exports.
    pub local: Arc<LocalCatalog>,
    /// The configured peers.
    pub peers: BTreeMap<ClusterId, PeerInput>,
    /// Clusterset addresses that are written down, those of remote pods among them.
    pub vips: BTreeMap<Callee, Vec<IpAddr>>,
    /// Allocated ports of the gateway; none where it listens on the addresses themselves.
    pub ports: Arc<GatewayPorts>,
    /// How namespaces of this cluster want its callers to be led.
    pub namespaces: BTreeMap<Namespace, Guidance>,
    /// The drains in force, for people; their shares stand in `local` and `peers`.
    pub drains: Arc<Vec<Steered>>,
}

impl Inputs {
    /// The exports of peers that could serve as the last resort at `before` and cannot at `now`:
    /// time alone changes their routes.
    #[must_use]
    pub fn last_resorts_ended(&self, before: Instant, now: Instant) -> BTreeSet<ServiceKey> {
        let ended = |view: &PeerView| {
            view.state == PeerState::Down
                && is_last_resort(view.since, before)
                && !is_last_resort(view.since, now)
        };
        let peers = self.peers.values().filter(|peer| peer.health.as_ref().is_some_and(ended));
        peers.flat_map(|peer| peer.catalog.exports.keys().cloned()).collect()
    }
}

/// What is known of one peer.
#[derive(Debug, Clone)]
pub struct PeerInput {
    /// Its exports as we believe them.
    pub catalog: Arc<PeerCatalog>,
    /// What health says; `None` before it was ever observed.
    pub health: Option<PeerView>,
    /// The ranking round trip of an earlier run, until one is measured.
    pub remembered_rtt: Option<Duration>,
    /// Where its gateways are.
    pub addresses: Vec<SocketAddr>,
    /// Control sessions held.
    pub sessions: u32,
    /// The catalog revision believed.
    pub revision: u64,
    /// The last thing that went wrong.
    pub last_error: Option<Arc<str>>,
    /// What it takes while it is drained here.
    pub drain: Share,
    /// Whether the `policy`, `fence` and `dns` of its exports may lead callers here.
    pub leads: bool,
}

impl Default for PeerInput {
    fn default() -> Self {
        Self {
            catalog: Arc::new(PeerCatalog::default()),
            health: None,
            remembered_rtt: None,
            addresses: Vec::new(),
            sessions: 0,
            revision: 0,
            last_error: None,
            drain: Share::FULL,
            leads: true,
        }
    }
}

impl PeerInput {
    /// The round trip that ranks it.
    pub(super) fn ranking_rtt(&self) -> Option<Duration> {
        self.health.as_ref().and_then(|health| health.ranking_rtt).or(self.remembered_rtt)
    }

    /// Its state, `Unknown` before it was ever observed.
    pub(super) fn state(&self) -> PeerState {
        self.health.as_ref().map_or(PeerState::Unknown, |health| health.state)
    }

    /// The share it may take while it comes back slowly.
    pub(super) fn share(&self) -> f32 {
        self.health.as_ref().map_or(1.0, PeerView::share)
    }

    /// How the table shows it.
    pub(super) fn status(&self, started: Instant) -> PeerStatus {
        let health = self.health.clone().unwrap_or_else(|| PeerView {
            state: PeerState::Unknown,
            since: started,
            rtt: None,
            ranking_rtt: None,
            loss_percent: 0.0,
            replicas: Vec::new(),
        });
        PeerStatus {
            health,
            sessions: self.sessions,
            revision: self.revision,
            last_error: self.last_error.clone(),
            addresses: self.addresses.clone(),
        }
    }
}
