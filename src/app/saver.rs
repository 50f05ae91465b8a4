//! The task that writes to disk, so that the planner never waits for it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::cluster::SavedCluster;
use super::saved::{self, SavedPeers};
use crate::backoff::Backoff;
use crate::drain;
use crate::model::Callee;
use crate::store::Store;
use crate::vips;

/// Something to write.
#[derive(Debug)]
pub(super) enum Job {
    /// The clusterset addresses, and the names that hold them now.
    Vips(Box<vips::Saved>, BTreeMap<Callee, Vec<IpAddr>>),
    /// The peers' catalogs.
    Peers(Box<SavedPeers>),
    /// What the own cluster says.
    Cluster(Box<SavedCluster>),
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Saved {
    /// These addresses are written down and may be answered.
    Vips(BTreeMap<Callee, Vec<IpAddr>>),
    /// The peers' catalogs are written.
    Peers,
    /// What the own cluster says is written.
    Cluster,
    /// The disk refused; to be tried again.
    Failed(Job),
}

/// Writes one job after another; after a failure it waits before it reports, so that a full disk
/// is tried again at a calm pace.
pub(super) async fn run(
    store: Arc<Store>,
    mut jobs: mpsc::Receiver<Job>,
    done: mpsc::Sender<Saved>,
    mut drain: drain::Watch,
) -> anyhow::Result<()> {
    let mut backoff = Backoff::try_new(Duration::from_millis(200), Duration::from_secs(10))?;
    loop {
        let job = tokio::select! {
            job = jobs.recv() => job,
            () = drain.reached(drain::Phase::Forced) => None,
        };
        let Some(job) = job else { return Ok(()) };
        let store = Arc::clone(&store);
        let outcome = tokio::task::spawn_blocking(move || write(&store, job)).await?;
        match &outcome {
            Saved::Failed(_) => tokio::time::sleep(backoff.pause()).await,
            Saved::Vips(_) | Saved::Peers | Saved::Cluster => backoff.reset(),
        }
        if done.send(outcome).await.is_err() {
            return Ok(());
        }
    }
}

fn write(store: &Store, job: Job) -> Saved {
    let written = match &job {
        Job::Vips(vips, _) => saved::save(store, saved::VIPS, vips),
        Job::Peers(peers) => saved::save(store, saved::PEERS, peers),
        Job::Cluster(cluster) => saved::save(store, saved::CLUSTER, cluster),
    };
    match (written, job) {
        (Ok(()), Job::Vips(_, held)) => Saved::Vips(held),
        (Ok(()), Job::Peers(_)) => Saved::Peers,
        (Ok(()), Job::Cluster(_)) => Saved::Cluster,
        (Err(error), job) => {
            tracing::warn!(%error, "saving state failed; trying again");
            Saved::Failed(job)
        }
    }
}
