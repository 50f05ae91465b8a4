//! The planner: the one task that owns [`Inputs`] and publishes the route table.
//!
//! Facts come in from every edge; what they mean is decided by `health`, `catalog` and `routes`.
//! A change is published at once, but never more than [`BURST`] times within [`BURST_WITHIN`] (ten
//! a second); nothing is published when nothing changed. Disk is written by another task ([`super::saver`]), so a slow
//! disk delays new addresses, never failover.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::addresses::Addresses;
use super::cluster::{ClusterFacts, SavedCluster};
use super::compare::{
    changed_keys, down_replicas, keep_equal_routes, replicas_differ, routes_differ,
};
use super::dirty::Dirty;
use super::metrics::Metrics;
use super::publisher::Publisher;
use super::saved;
use super::saver::{Job, Saved};
use super::settings;
use super::status::SourceStatus;
use crate::catalog::{Assembly, LocalCatalog, SourceUpdate};
use crate::clock;
use crate::config::Config;
use crate::drain;
use crate::health::{Fact, Health, PeerView};
use crate::model::ClusterId;
use crate::peering;
use crate::routes::{Drains, Inputs, Orders, PeerInput, RouteTable, Steering, plan, replan};

/// So many tables may be published within [`BURST_WITHIN`]: a new service takes two, one without
/// its address and one as soon as that is written down.
const BURST: usize = 3;
/// See [`BURST`].
const BURST_WITHIN: Duration = Duration::from_millis(300);
/// Changes that come together are published together.
const GATHER: Duration = Duration::from_millis(5);
/// Changes that only people see (round trips, loss) are published this often.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// The shortest time between two saves of the peers' catalogs.
const SAVE_EVERY: Duration = Duration::from_secs(2);
/// Facts taken in one turn.
const FACTS_AT_ONCE: usize = 256;
/// A peer without a catalog delays readiness no longer than this.
const SYNC_PATIENCE: Duration = Duration::from_secs(2);

/// What the planner listens to.
#[derive(Debug)]
pub(super) struct Feeds {
    pub(super) source: mpsc::Receiver<SourceUpdate>,
    pub(super) peering: mpsc::Receiver<peering::Event>,
    pub(super) facts: mpsc::Receiver<Fact>,
    pub(super) saved: mpsc::Receiver<Saved>,
    pub(super) config: watch::Receiver<Arc<Config>>,
    pub(super) orders: watch::Receiver<Arc<Orders>>,
    /// Where Kubernetes is the source.
    pub(super) cluster: Option<watch::Receiver<Arc<ClusterFacts>>>,
}

/// Where the planner tells what it decided.
#[derive(Debug)]
pub(super) struct Outlets {
    pub(super) table: Publisher,
    pub(super) changed: watch::Sender<u64>,
    pub(super) local: watch::Sender<Arc<LocalCatalog>>,
    pub(super) source: watch::Sender<SourceStatus>,
    pub(super) ready: watch::Sender<bool>,
    pub(super) save: mpsc::Sender<Job>,
    pub(super) down: watch::Sender<Arc<peering::DownReplicas>>,
    pub(super) peers: watch::Sender<Arc<Vec<peering::PeerConfig>>>,
    pub(super) metrics: Metrics,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Planner {
    pub(super) inputs: Inputs,
    assembly: Assembly,
    health: Health,
    steering: Steering,
    pub(super) addresses: Addresses,
    pub(super) table: Arc<RouteTable>,
    pub(super) dirty: Dirty,
    /// When the last tables were published, oldest first.
    published: [Instant; BURST],
    /// When time alone was last considered.
    looked: Instant,
    views: BTreeMap<ClusterId, PeerView>,
    /// Addresses that were assigned but are not yet written down.
    pub(super) unwritten: bool,
    writing: bool,
    catalogs_changed: bool,
    catalogs_saved: Instant,
    cluster_changed: bool,
    cluster_saved: Instant,
    /// What is served at first came from an earlier run, before the source said what there is.
    restored: bool,
    /// Since when it is known which peers there are.
    peers_known: Option<Instant>,
    out: Outlets,
}

impl Planner {
    /// A planner that goes on from what was planned before the table was first published.
    pub(super) fn new(start: Start, out: Outlets) -> Self {
        let now = clock::now();
        let known = start.restored || matches!(start.addresses, Addresses::Ours(_));
        let peers_known = known.then_some(start.inputs.started);
        Self {
            inputs: start.inputs,
            assembly: start.assembly,
            health: start.health,
            steering: start.steering,
            addresses: start.addresses,
            table: start.table,
            dirty: Dirty::All,
            published: [now; BURST],
            looked: now,
            views: BTreeMap::new(),
            unwritten: false,
            writing: false,
            catalogs_changed: false,
            catalogs_saved: now,
            cluster_changed: false,
            cluster_saved: now,
            restored: start.restored,
            peers_known,
            out,
        }
    }

    /// Runs until shutdown is forced.
    pub(super) async fn run(
        mut self,
        mut feeds: Feeds,
        mut drain: drain::Watch,
    ) -> anyhow::Result<()> {
        let mut facts = Vec::with_capacity(FACTS_AT_ONCE);
        self.check_ready();
        loop {
            let wake = tokio::time::sleep_until(self.next_wake().into());
            tokio::select! {
                Some(update) = feeds.source.recv() => self.take_source(update),
                Some(event) = feeds.peering.recv() => self.take_peering(event),
                Some(saved) = feeds.saved.recv() => self.take_saved(saved),
                1.. = feeds.facts.recv_many(&mut facts, FACTS_AT_ONCE) => self.take_facts(&mut facts),
                Ok(()) = feeds.config.changed() => {
                    let config = Arc::clone(&feeds.config.borrow_and_update());
                    self.take_config(&config);
                }
                Ok(()) = feeds.orders.changed() => {
                    self.steering.order(Orders::clone(&feeds.orders.borrow_and_update()));
                }
                Some(facts) = next_facts(&mut feeds.cluster) => self.take_cluster(facts),
                () = wake => {}
                () = drain.reached(drain::Phase::Forced) => return Ok(()),
            }
            // What was seen before the tick counts before it.
            while let Ok(fact) = feeds.facts.try_recv() {
                self.health.observe(&fact, clock::now());
            }
            let now = clock::now();
            self.health.tick(now);
            self.take_views(now);
            self.steer(now);
            self.look_at_the_time(now);
            self.check_ready();
            self.publish_if_due(now);
            self.save_if_due(now);
        }
    }

    fn next_wake(&self) -> Instant {
        let mut wake = clock::now() + REFRESH_EVERY;
        if let Some(health) = self.health.next_wake() {
            wake = wake.min(health);
        }
        if let Some(steering) = self.steering.next_wake() {
            wake = wake.min(steering);
        }
        if let Some(due) = self.publish_due() {
            wake = wake.min(due);
        }
        wake
    }

    fn publish_due(&self) -> Option<Instant> {
        let [first, .., last] = self.published;
        match self.dirty {
            Dirty::Nothing => None,
            Dirty::Figures => Some(last + REFRESH_EVERY),
            Dirty::Some(_) | Dirty::All => Some((first + BURST_WITHIN).max(last + GATHER)),
        }
    }

    fn take_facts(&mut self, facts: &mut Vec<Fact>) {
        let now = clock::now();
        for fact in facts.drain(..) {
            self.health.observe(&fact, now);
        }
    }

    fn take_source(&mut self, update: SourceUpdate) {
        match update {
            SourceUpdate::Changed(events) => {
                let changed = self.assembly.apply(events);
                // Until everything has been seen, what an earlier run knew is the better truth.
                if !changed.is_empty() && self.inputs.local.synced {
                    self.dirty.add(changed);
                    self.publish_local(true);
                }
                self.out.source.send_modify(SourceStatus::read);
            }
            SourceUpdate::Synced => {
                let before = Arc::clone(&self.inputs.local);
                self.publish_local(true);
                self.dirty.add(changed_keys(&before.exports, &self.inputs.local.exports));
                self.out.source.send_modify(SourceStatus::synced);
            }
            SourceUpdate::Failed { error, away } => {
                tracing::warn!(%error, "the source cannot be read, or a change was refused; the last good state stays");
                self.out.source.send_modify(|status| status.failed(error, away));
            }
            SourceUpdate::Recovered => self.out.source.send_modify(SourceStatus::recovered),
        }
    }

    fn publish_local(&mut self, synced: bool) {
        let catalog = Arc::new(LocalCatalog {
            revision: self.inputs.local.revision + 1,
            synced,
            exports: self.assembly.exports(),
            refused: self.assembly.refused().clone(),
        });
        self.inputs.local = catalog;
        self.steering.look_again();
        self.dirty.add([]);
        self.cluster_changed = true;
    }

    /// What the cluster itself says: addresses and ports of imports, peers.
    fn take_cluster(&mut self, facts: Arc<ClusterFacts>) {
        let Addresses::Clusters(before) = &self.addresses else { return };
        let before = Arc::clone(before);
        if before.addresses != facts.addresses {
            let changed = changed_keys(&before.addresses, &facts.addresses);
            self.dirty.add(changed.into_iter().map(|callee| callee.service));
            self.inputs.vips = facts.addresses.clone();
        }
        if before.ports != facts.ports {
            self.inputs.ports = Arc::clone(&facts.ports);
            self.dirty.add([]);
        }
        if before.peers != facts.peers {
            self.take_peers(&facts.peers);
        }
        if before.namespaces != facts.namespaces {
            self.inputs.namespaces.clone_from(&facts.namespaces);
            self.dirty = Dirty::All;
        }
        if before.drains != facts.drains {
            self.steering.annotate(facts.drains.clone());
        }
        self.addresses = Addresses::Clusters(facts);
        self.peers_known.get_or_insert_with(clock::now);
        self.cluster_changed = true;
    }

    fn take_peering(&mut self, event: peering::Event) {
        use peering::Event;
        let now = clock::now();
        match event {
            Event::Catalog { peer, catalog, revision } => {
                self.take_catalog(&peer, catalog, revision)
            }
            Event::Sessions { peer, count } => {
                self.with_peer(&peer, |input| input.sessions = count);
                self.dirty.figures();
            }
            Event::Addresses { peer, addresses } => {
                self.with_peer(&peer, |input| input.addresses = addresses);
                self.dirty.add([]);
            }
            Event::Draining { peer, replica, draining } => {
                self.health.observe(&Fact::Draining { peer, replica, draining, at: now }, now);
            }
            Event::Trouble { peer, error } => {
                self.with_peer(&peer, |input| input.last_error = Some(error.into()));
                self.dirty.figures();
            }
            Event::Cleared { peer } => {
                self.with_peer(&peer, |input| input.last_error = None);
                self.dirty.figures();
            }
            Event::Gone { peer } => {
                // One that came back meanwhile is wanted again.
                let wanted = self.out.peers.borrow().iter().any(|of| of.cluster == peer);
                if !wanted {
                    self.forget(&peer);
                }
            }
        }
    }

    fn take_catalog(
        &mut self,
        peer: &ClusterId,
        catalog: Arc<crate::catalog::PeerCatalog>,
        revision: u64,
    ) {
        let Some(input) = self.inputs.peers.get_mut(peer) else { return };
        let old = std::mem::replace(&mut input.catalog, catalog);
        input.revision = revision;
        let new = &input.catalog;
        if old.network != new.network || old.locality != new.locality {
            self.dirty = Dirty::All;
        } else {
            self.dirty.add(changed_keys(&old.exports, &new.exports));
        }
        self.catalogs_changed = true;
    }

    fn with_peer(&mut self, peer: &ClusterId, change: impl FnOnce(&mut PeerInput)) {
        if let Some(input) = self.inputs.peers.get_mut(peer) {
            change(input);
        }
    }

    fn forget(&mut self, peer: &ClusterId) {
        if self.inputs.peers.remove(peer).is_some() {
            tracing::info!(%peer, "peer forgotten");
            self.out.metrics.forget(peer);
            self.dirty = Dirty::All;
            self.catalogs_changed = true;
        }
    }

    /// A new peer is known here before peering hears of it, so that none of its events is lost; a
    /// removed one is forgotten when peering reports it gone.
    fn take_peers(&mut self, peers: &[peering::PeerConfig]) {
        let wanted: BTreeSet<_> = peers.iter().map(|peer| peer.cluster.clone()).collect();
        for peer in peers {
            let input = self.inputs.peers.entry(peer.cluster.clone()).or_default();
            input.leads = peer.trust_policy;
        }
        self.health.set_peers(&wanted, clock::now());
        self.out.peers.send_replace(Arc::new(peers.to_vec()));
        self.steering.look_again();
        self.dirty = Dirty::All;
    }

    fn take_config(&mut self, config: &Config) {
        if matches!(self.addresses, Addresses::Ours(_)) {
            self.take_peers(&settings::peers(config));
        }
        self.inputs.locality = config.locality.clone();
        self.dirty = Dirty::All;
    }

    /// Takes over what health concludes; a route is planned again only where it depends on it.
    fn take_views(&mut self, now: Instant) {
        let views = self.health.views(now);
        for (peer, view) in &views {
            let before = self.views.get(peer);
            if before == Some(view) {
                continue;
            }
            if let Some(before) = before.filter(|before| before.state != view.state) {
                tracing::info!(%peer, from = before.state.as_str(), to = view.state.as_str(), "peer state");
            }
            let Some(input) = self.inputs.peers.get_mut(peer) else { continue };
            input.health = Some(view.clone());
            if before.is_none_or(|before| routes_differ(before, view)) {
                self.dirty.add(input.catalog.exports.keys().cloned());
            } else if before.is_none_or(|before| replicas_differ(before, view)) {
                self.dirty.add([]);
            } else {
                self.dirty.figures();
            }
        }
        if self.views != views {
            let down = down_replicas(&views);
            self.out.down.send_if_modified(|current| {
                let changed = **current != down;
                if changed {
                    *current = Arc::new(down);
                }
                changed
            });
        }
        self.views = views;
    }

    /// Moves shares along their ramps.
    fn steer(&mut self, now: Instant) {
        if let Some(changed) = self.steering.steer(&mut self.inputs, clock::wall_ms(), now) {
            self.dirty.add(changed);
        }
    }

    /// What changes by time alone, once a second rather than with every fact: the table ages, and
    /// nobody reports that a day has passed since a peer went Down.
    fn look_at_the_time(&mut self, now: Instant) {
        if now < self.looked + REFRESH_EVERY {
            return;
        }
        self.out.metrics.show(&self.table, now);
        let ended = self.inputs.last_resorts_ended(self.looked, now);
        self.looked = now;
        if !ended.is_empty() {
            self.dirty.add(ended);
        }
    }

    fn publish_if_due(&mut self, now: Instant) {
        if self.publish_due().is_none_or(|due| now < due) {
            return;
        }
        let dirty = std::mem::replace(&mut self.dirty, Dirty::Nothing);
        let figures = dirty == Dirty::Figures;
        let mut table = match &dirty {
            Dirty::All => plan(&self.inputs, now),
            Dirty::Some(keys) => replan(&self.table, &self.inputs, keys, now),
            Dirty::Nothing | Dirty::Figures => {
                replan(&self.table, &self.inputs, &BTreeSet::new(), now)
            }
        };
        let touched = match dirty {
            Dirty::Some(keys) => keys,
            _ => table.services.keys().chain(self.table.services.keys()).cloned().collect(),
        };
        if !figures {
            self.assign_vips(&table, &touched);
            keep_equal_routes(&self.table, &mut table);
        }
        table.revision = self.table.revision + u64::from(!figures);
        self.table = Arc::new(table);
        self.out.table.publish(Arc::clone(&self.table));
        // Peers hear of an export only once it is served here.
        self.out.local.send_if_modified(|told| {
            let news = !Arc::ptr_eq(told, &self.table.local);
            told.clone_from(&self.table.local);
            news
        });
        self.out.metrics.show(&self.table, now);
        self.published.rotate_left(1);
        self.published[BURST - 1] = now;
        if !figures {
            self.out.changed.send_replace(self.table.revision);
        }
    }

    fn save_if_due(&mut self, now: Instant) {
        if self.writing {
            return;
        }
        if self.unwritten
            && let Addresses::Ours(vips) = &self.addresses
        {
            let held = vips.held().map(|(key, ips)| (key.clone(), ips.to_vec())).collect();
            let job = Job::Vips(Box::new(vips.saved()), held);
            self.writing = self.out.save.try_send(job).is_ok();
            self.unwritten = !self.writing;
        } else if self.catalogs_changed && now >= self.catalogs_saved + SAVE_EVERY {
            let job = Job::Peers(Box::new(saved::peers_of(&self.inputs)));
            self.writing = self.out.save.try_send(job).is_ok();
            self.catalogs_changed = !self.writing;
            self.catalogs_saved = now;
        } else if self.cluster_changed
            && self.inputs.local.synced
            && now >= self.cluster_saved + SAVE_EVERY
            && let Addresses::Clusters(facts) = &self.addresses
        {
            let job = Job::Cluster(Box::new(SavedCluster::of(&self.inputs.local.exports, facts)));
            self.writing = self.out.save.try_send(job).is_ok();
            self.cluster_changed = !self.writing;
            self.cluster_saved = now;
        }
    }

    fn take_saved(&mut self, saved: Saved) {
        self.writing = false;
        match saved {
            Saved::Vips(written) => self.take_addresses(written),
            Saved::Peers | Saved::Cluster => {}
            Saved::Failed(job) => match job {
                Job::Vips(..) => self.unwritten = true,
                Job::Peers(_) => self.catalogs_changed = true,
                Job::Cluster(_) => self.cluster_changed = true,
            },
        }
    }

    /// Ready: the own source read, and each peer's catalog restored or received, or given up on.
    fn check_ready(&mut self) {
        if *self.out.ready.borrow() || !(self.inputs.local.synced || self.restored) {
            return;
        }
        let Some(since) = self.peers_known else { return };
        let known = self.inputs.peers.values().all(|peer| peer.revision > 0);
        if known || clock::now() >= since + SYNC_PATIENCE {
            tracing::info!(services = self.table.services.len(), "ready");
            self.out.ready.send_replace(true);
            self.release_unused();
        }
    }
}

/// What the planner starts from: planned once before anything is served.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) inputs: Inputs,
    pub(super) assembly: Assembly,
    pub(super) health: Health,
    pub(super) steering: Steering,
    /// The drains of an earlier run.
    pub(super) drains: Arc<Drains>,
    pub(super) addresses: Addresses,
    /// The peers that are known before anything runs.
    pub(super) peers: Vec<peering::PeerConfig>,
    /// Whether the exports are those of an earlier run.
    pub(super) restored: bool,
    pub(super) table: Arc<RouteTable>,
}

/// The cluster's next word; never, where Kubernetes is not the source.
async fn next_facts(
    feed: &mut Option<watch::Receiver<Arc<ClusterFacts>>>,
) -> Option<Arc<ClusterFacts>> {
    match feed {
        Some(feed) => {
            feed.changed().await.ok()?;
            Some(Arc::clone(&feed.borrow_and_update()))
        }
        None => std::future::pending().await,
    }
}
