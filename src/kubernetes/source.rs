//! The watches of every kind, and the one loop that tells what follows from them.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::client::Clients;
use super::kinds::{Decoder, Name, Resource};
use super::mirror::Mirror;
use super::state::State;
use super::view::ClusterView;
use super::watch::{Timing, Watcher};
use super::{Config, Error, Metrics};
use crate::catalog::SourceUpdate;
use crate::clock;
use crate::drain::{Phase, Watch};

/// How much the watches may be ahead of the loop.
const HEARD: usize = 16;

/// What the catalog has not been told yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    Nothing,
    /// All but changes: those have been told for this turn.
    Rest,
    Changes,
}

/// The watches of the API server.
#[derive(Debug)]
pub struct Source {
    config: Config,
    timing: Timing,
    clients: Arc<Clients>,
    mirror: Arc<Mirror>,
    metrics: Metrics,
}

impl Source {
    /// Makes the clients; the API server is not called before [`Source::run`].
    pub async fn open(config: Config, metrics: Metrics) -> Result<Self, Error> {
        let clients = Arc::new(Clients::open(&config.access).await?);
        let timing = Timing::default();
        Ok(Self { config, timing, clients, mirror: Arc::default(), metrics })
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

    /// Watches until the drain begins or nobody listens any more. [`SourceUpdate::Synced`] comes
    /// once Services, EndpointSlices and ServiceExports were listed; both `updates` and `view`
    /// move at most once every 20 ms, and a slow receiver finds the last state of each object.
    pub async fn run(
        self,
        updates: mpsc::Sender<SourceUpdate>,
        view: watch::Sender<Arc<ClusterView>>,
        mut drain: Watch,
    ) -> Result<(), Error> {
        // Dropping the set ends the watches.
        let (mut watchers, mut heard) = self.watch_all();
        let mut state = State::new(Arc::clone(&self.mirror), self.metrics.clone());
        let mut due: Option<Instant> = None;
        let mut earliest: Instant = clock::now().into();
        let mut owed = Owed::Nothing;
        loop {
            let publish = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // In this order: a flood of news holds nothing else back.
                biased;
                () = drain.reached(Phase::Draining) => return Ok(()),
                () = updates.closed() => return Ok(()),
                () = publish => {
                    due = None;
                    earliest = (clock::now() + self.timing.publish).into();
                    owed = Owed::Changes;
                    let now = Arc::new(state.view(self.clients.mcs(Resource::Import)));
                    view.send_if_modified(|before| {
                        let news = **before != *now;
                        *before = now;
                        news
                    });
                }
                Ok(permit) = updates.reserve(), if owed != Owed::Nothing => {
                    match state.update(owed == Owed::Changes) {
                        Some(update) => {
                            owed = Owed::Rest;
                            permit.send(update);
                        }
                        None => owed = Owed::Nothing,
                    }
                }
                Some(news) = heard.recv() => {
                    state.hear(news);
                    due.get_or_insert(earliest);
                }
                Some(ended) = watchers.join_next() => ended?,
            }
        }
    }

    fn watch_all(&self) -> (JoinSet<()>, mpsc::Receiver<super::watch::Heard>) {
        let (sender, heard) = mpsc::channel(HEARD);
        let decoder = Arc::new(Decoder {
            cluster: self.config.cluster.clone(),
            namespace: self.config.namespace.clone(),
            gateway_service: self.config.gateway_service.clone(),
            secret: self.config.secret.clone(),
        });
        let mut watchers = JoinSet::new();
        for resource in Resource::ALL {
            let only = (resource == Resource::Secret).then(|| Name {
                namespace: self.config.namespace.as_str().into(),
                name: self.config.secret.clone(),
            });
            let watcher = Watcher::new(
                resource,
                only,
                Arc::clone(&self.clients),
                Arc::clone(&decoder),
                (self.timing, self.metrics.clone()),
                sender.clone(),
            );
            watchers.spawn(watcher.run());
        }
        (watchers, heard)
    }
}

#[cfg(test)]
mod tests;
