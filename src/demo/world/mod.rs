//! The stage: three clouds with their own authorities, manifests, backends and agents, joined by
//! the delay line.
//!
//! Everything lives in one folder and one block of loopback addresses, and ends with the
//! [`World`]: its processes, its tasks, and the folder unless it was asked to be kept.

mod agent;
mod block;
mod files;
mod folder;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::commands::client::Admin;
use crate::drain::{self, Phase};
use crate::model::{ClusterId, DnsName};
use crate::tls;

use self::agent::Agent;
pub(super) use self::block::Block;
pub(super) use self::files::{CLUSTERSET, NAMESPACE, Pods, WEB, WEB_DIRECT};
use self::folder::Folder;

use super::backend::Backend;
use super::line::{Line, Link, Swallowed};

/// A cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Cloud {
    /// Where the clients are.
    Paris,
    /// The nearest to Paris.
    Oregon,
    /// The farthest.
    Tokyo,
}

impl Cloud {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Paris, Self::Oregon, Self::Tokyo];

    /// Its cluster's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Paris => "paris",
            Self::Oregon => "oregon",
            Self::Tokyo => "tokyo",
        }
    }

    /// Its number in addresses, from 1.
    fn number(self) -> u8 {
        match self {
            Self::Paris => 1,
            Self::Oregon => 2,
            Self::Tokyo => 3,
        }
    }

    /// The two others.
    pub(super) fn others(self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |other| *other != self)
    }

    /// The round trip between two clouds, milliseconds.
    pub(super) fn round_trip_ms(self, other: Self) -> u64 {
        match (self.min(other), self.max(other)) {
            (Self::Paris, Self::Oregon) => 20,
            (Self::Oregon, Self::Tokyo) => 80,
            (Self::Paris, Self::Tokyo) => 110,
            _ => 0,
        }
    }
}

/// The stage itself.
#[derive(Debug)]
pub(super) struct World {
    // First, since fields are dropped in this order: who writes to the folder ends before it.
    agents: Mutex<BTreeMap<Cloud, Agent>>,
    tasks: Mutex<JoinSet<()>>,
    backends: Mutex<BTreeMap<Cloud, drain::Trigger>>,
    links: BTreeMap<(Cloud, Cloud), Arc<Link>>,
    folder: Folder,
    /// Its addresses.
    pub(super) block: Block,
}

impl World {
    /// Lays everything out in `keep`, or in a temporary folder; no agent runs yet.
    pub(super) async fn build(keep: Option<&Path>, program: PathBuf) -> anyhow::Result<Self> {
        let block = Block::claim().context("no block of loopback addresses is free")?;
        let folder = Folder::open(keep)?;
        let agents = Cloud::ALL.into_iter().map(|cloud| {
            let dir = folder.path().join(cloud.name());
            let agent =
                Agent::new(cloud, program.clone(), dir.join("portolan.yaml"), dir.join("log"));
            (cloud, agent)
        });
        let agents = Mutex::new(agents.collect());
        let (backends, tasks) = (Mutex::default(), Mutex::default());
        let mut world = Self { block, folder, agents, backends, links: BTreeMap::new(), tasks };
        world.write_files()?;
        for cloud in Cloud::ALL {
            world.open_backends(cloud).await?;
        }
        world.open_lines().await?;
        Ok(world)
    }

    /// The folder with configuration, manifests and logs.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A cloud's admin port.
    pub(super) fn admin(&self, cloud: Cloud) -> Admin {
        Admin::new(self.block.admin(cloud))
    }

    /// Starts a cloud's agent; returns the instant.
    pub(super) fn start(&self, cloud: Cloud) -> anyhow::Result<Instant> {
        lock(&self.agents).get_mut(&cloud).context("a cloud without an agent")?.start()
    }

    /// Ends a cloud's agent with SIGKILL.
    pub(super) async fn kill(&self, cloud: Cloud) -> anyhow::Result<()> {
        let Some(mut agent) = lock(&self.agents).remove(&cloud) else { return Ok(()) };
        let killed = agent.kill().await;
        lock(&self.agents).insert(cloud, agent);
        killed
    }

    /// Returns when an agent ended by itself, with an error that says which.
    pub(super) async fn watch_agents(&self) -> anyhow::Error {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let checked = lock(&self.agents).values_mut().try_for_each(Agent::check);
            if let Err(ended) = checked {
                return ended;
            }
        }
    }

    /// Ends every agent that still runs.
    pub(super) async fn end(&self) {
        for cloud in Cloud::ALL {
            // Where that fails, dropping the agent ends it.
            let _killed = self.kill(cloud).await;
        }
    }

    /// A cloud's pods go: manifests rewritten and servers stopped, at the same instant.
    pub(super) fn remove_pods(&self, cloud: Cloud) -> anyhow::Result<()> {
        self.write_manifests(cloud, Pods::Gone)?;
        if let Some(running) = lock(&self.backends).remove(&cloud) {
            running.advance(Phase::Draining);
        }
        Ok(())
    }

    /// A cloud's pods come back: servers first, then the manifests.
    pub(super) async fn restore_pods(&self, cloud: Cloud) -> anyhow::Result<()> {
        self.open_backends(cloud).await?;
        self.write_manifests(cloud, Pods::Ready)
    }

    /// Both links of a cloud swallow everything from now on.
    pub(super) fn swallow(&self, cloud: Cloud) {
        self.links_of(cloud).for_each(Link::swallow);
    }

    /// Both links of a cloud pass again.
    pub(super) fn heal(&self, cloud: Cloud) {
        self.links_of(cloud).for_each(Link::heal);
    }

    /// What a cloud's links swallowed so far.
    pub(super) fn swallowed(&self, cloud: Cloud) -> Swallowed {
        self.links_of(cloud).map(Link::swallowed).fold(Swallowed::default(), |sum, link| {
            Swallowed {
                bytes: sum.bytes + link.bytes,
                chunks: sum.chunks + link.chunks,
                connections: sum.connections + link.connections,
            }
        })
    }

    /// Runs a task until the world ends.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        lock(&self.tasks).spawn(task);
    }

    fn links_of(&self, cloud: Cloud) -> impl Iterator<Item = &Link> {
        let touches = move |(a, b): &(Cloud, Cloud)| *a == cloud || *b == cloud;
        self.links.iter().filter(move |(ends, _)| touches(ends)).map(|(_, link)| link.as_ref())
    }

    fn write_files(&self) -> anyhow::Result<()> {
        let zone = DnsName::parse(CLUSTERSET).context("the zone is a name")?;
        for cloud in Cloud::ALL {
            let dir = self.path().join(cloud.name());
            std::fs::create_dir_all(dir.join("registry"))?;
            std::fs::write(dir.join("portolan.yaml"), files::configuration(&self.block, cloud))?;
            self.write_manifests(cloud, Pods::Ready)?;
            let cluster = ClusterId::parse(cloud.name()).context("a cloud's name is a label")?;
            let trust = dir.join("trust");
            tls::init(&trust, &cluster, &zone)
                .with_context(|| format!("cannot make the identity of {cluster}"))?;
        }
        for cloud in Cloud::ALL {
            let authority = self.path().join(cloud.name()).join("trust/ca.pem");
            for peer in cloud.others() {
                let peers = self.path().join(peer.name()).join("trust/peers");
                std::fs::copy(&authority, peers.join(format!("{}.pem", cloud.name())))?;
            }
        }
        Ok(())
    }

    fn write_manifests(&self, cloud: Cloud, pods: Pods) -> anyhow::Result<()> {
        let registry = self.path().join(cloud.name()).join("registry");
        files::write_manifests(&registry, &self.block, cloud, pods)
            .with_context(|| format!("cannot write {}", registry.display()))
    }

    async fn open_backends(&self, cloud: Cloud) -> anyhow::Result<()> {
        let (trigger, watch) = drain::channel();
        for pod in 0..files::PODS {
            let at = self.block.pod(cloud, pod);
            let backend = Backend::bind(at, cloud.name(), &files::pod_name(cloud, pod)).await;
            let backend = backend.with_context(|| format!("a backend cannot listen on {at}"))?;
            self.spawn(backend.run(watch.clone()));
        }
        lock(&self.backends).insert(cloud, trigger);
        Ok(())
    }

    async fn open_lines(&mut self) -> anyhow::Result<()> {
        for from in Cloud::ALL {
            for to in from.others() {
                let ends = (from.min(to), from.max(to));
                let round_trip = Duration::from_millis(from.round_trip_ms(to));
                let link = self.links.entry(ends).or_insert_with(|| Link::new(round_trip)).clone();
                let at = self.block.line(from, to);
                let line = Line::bind(at, self.block.gateway(to), link).await;
                let line = line.with_context(|| format!("no delay line on {at}"))?;
                self.spawn(line.run());
            }
        }
        Ok(())
    }
}

/// Every section under these locks leaves its map whole, whatever panics meanwhile.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
