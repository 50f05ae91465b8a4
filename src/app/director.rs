//! The director: says for every name which objects should exist in the own cluster.
//!
//! It looks at a name again when its route, its export, or what the cluster holds of it changed,
//! and at all of them when the gateway's pods did. What it says is complete, so that the writer
//! may be another replica at any moment; only the leader allots ports, the others read them.

mod pods;
mod unheard;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use self::unheard::Say;
use crate::catalog::{LocalExport, NotExported, ServiceType};
use crate::kubernetes::{
    ClusterView, Event, Events, GatewayMember, PeerSpec, Severity, Subject, Writer, WriterHandle,
};
use crate::model::{ClusterId, PortKey, PortNumber, ServiceKey};
use crate::objects::{
    Case, Desired, Exhausted, GatewayPod, Kept, Observed, PeerStatus, PodPorts, PortBook, World,
    desired,
};
use crate::routes::{OpenPorts, Route, RouteTable, SharedTable};
use crate::siblings::{Condition, Sibling, SiblingView};
use crate::{clock, drain};

/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(10);
/// Ports that rested are looked for, and gateways that never answered are given up, this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Before this nothing is said while a ready replica has not been heard: a new leader that knows
/// only itself would take the others out.
const SETTLE: Duration = Duration::from_secs(3);

/// Figures of peers are told this often.
const FIGURES_EVERY: Duration = Duration::from_secs(30);

/// The status of every Peer, by the object's name.
type PeerStatuses = Arc<BTreeMap<Box<str>, PeerStatus>>;

/// What the director listens to.
pub(super) struct Sources {
    pub(super) table: SharedTable,
    pub(super) changed: watch::Receiver<u64>,
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    pub(super) siblings: watch::Receiver<Arc<SiblingView>>,
    pub(super) open: watch::Receiver<Arc<OpenPorts>>,
    pub(super) refusals: watch::Receiver<Arc<BTreeMap<ServiceKey, Box<str>>>>,
    pub(super) leader: watch::Receiver<bool>,
    pub(super) draining: watch::Receiver<bool>,
}

/// Who hears what the director says.
pub(super) struct Outlets {
    pub(super) desired: mpsc::Sender<Desired>,
    pub(super) peers: watch::Sender<PeerStatuses>,
}

/// Which cluster and which replica this is.
pub(super) struct DirectorConfig {
    pub(super) cluster: ClusterId,
    /// The own pod's uid.
    pub(super) own: Box<str>,
    /// The ports that may be allotted.
    pub(super) ports: RangeInclusive<PortNumber>,
}

/// See the module.
pub(super) struct Director {
    config: DirectorConfig,
    sources: Sources,
    out: Outlets,
    writer: WriterHandle,
    events: Events,
    book: PortBook,
    /// Whether this replica led at the last look.
    led: bool,
    /// The gateway's pods as last seen.
    members: Arc<Vec<GatewayMember>>,
    world: Option<World>,
    seen: HashMap<ServiceKey, Seen>,
    silent: BTreeSet<IpAddr>,
    began: Option<Instant>,
    /// When figures of peers were last told.
    told: Option<Instant>,
    /// The id that the cluster gives itself differs from the certificate's: said once.
    disputed: bool,
}

/// What one name was last decided from.
struct Seen {
    route: Option<Arc<Route>>,
    local: Option<Arc<LocalExport>>,
    refused: Option<NotExported>,
    observed: Observed,
    allotted: Option<BTreeMap<PortKey, PortNumber>>,
    pods: Option<PodPorts>,
    exhausted: Option<Exhausted>,
    kept: Kept,
}

impl Director {
    /// A director that has said nothing yet.
    pub(super) fn new(
        config: DirectorConfig,
        sources: Sources,
        out: Outlets,
        writer: &Writer,
    ) -> Self {
        Self {
            book: PortBook::new(config.ports.clone()),
            events: writer.events(),
            config,
            sources,
            out,
            writer: writer.handle(),
            led: false,
            members: Arc::default(),
            world: None,
            seen: HashMap::new(),
            silent: BTreeSet::new(),
            began: None,
            told: None,
            disputed: false,
        }
    }

    /// Runs until the drain begins: from then on another replica says what should exist.
    pub(super) async fn run(mut self, mut drain: drain::Watch) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = self.sources.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = drain.reached(drain::Phase::Draining) => return Ok(()),
            }
            tokio::time::sleep(GATHER).await;
            self.take_out_the_silent().await;
            for desired in self.look(clock::now(), clock::wall_ms()) {
                if self.out.desired.send(desired).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// What changed since the last look.
    fn look(&mut self, now: Instant, wall_ms: i64) -> Vec<Desired> {
        let view = Arc::clone(&self.sources.view.borrow_and_update());
        let table = self.sources.table.load_full();
        if !view.synced || !table.local.synced || self.is_disputed(&view) {
            return Vec::new();
        }
        let began = *self.began.get_or_insert(now);
        let Some(world) = self.look_around(&view, now >= began + SETTLE) else {
            return Vec::new();
        };
        let moved = self.world.as_ref() != Some(&world);
        let leads = *self.sources.leader.borrow_and_update();
        if !(leads && self.led) {
            // What the leader wrote down holds; by following it one knows what rests.
            let recorded = view.services.iter().map(|(key, service)| (key, &service.ports));
            self.book.restore(recorded, now);
        }
        self.led = leads;
        self.tell_peers(&view, &table, now, wall_ms);
        let refusals = Arc::clone(&self.sources.refusals.borrow_and_update());
        let mut said = Vec::new();
        let is_unheard =
            |peer: &&ClusterId| table.peers.get(*peer).is_none_or(|known| known.revision == 0);
        let unheard: BTreeSet<&ClusterId> = view.peers.keys().filter(is_unheard).collect();
        for key in self.names(&table, &view) {
            let route = table.services.get(&key).cloned();
            let kept = match self.say(&key, route.as_deref(), &view, &unheard) {
                Say::Nothing => continue,
                Say::But(kept) => kept,
            };
            let observed = view.observed(&key, refusals.get(&key).cloned());
            let (allotted, exhausted) = self.allot(&key, route.as_deref(), &observed, now);
            let (pods, lacking) = self.allot_pods(&key, route.as_deref(), &observed, now);
            let seen = Seen {
                local: table.local.exports.get(&key).cloned(),
                refused: table.local.refused.get(&key).copied(),
                route,
                observed,
                allotted,
                pods,
                exhausted: exhausted.or(lacking),
                kept,
            };
            if !moved && self.seen.get(&key).is_some_and(|before| before.is(&seen)) {
                continue;
            }
            let before = self.seen.get(&key);
            self.tell_owner(&key, before.and_then(|seen| seen.local.as_deref()), &seen, &view);
            self.tell_importer(&key, before, &seen, &view);
            log_way(&key, before.and_then(|seen| seen.route.as_deref()), seen.route.as_deref());
            said.push(seen.decide(&key, &world, wall_ms));
            if seen.is_gone() {
                self.seen.remove(&key);
            } else {
                self.seen.insert(key, seen);
            }
        }
        self.world = Some(world);
        said
    }

    /// Every name that anything should exist for, exists for, or was said to exist for.
    fn names(&self, table: &RouteTable, view: &ClusterView) -> BTreeSet<ServiceKey> {
        let services = view.services.keys().map(|callee| &callee.service);
        let known = view.exports.keys().chain(view.imports.keys()).chain(services);
        table.services.keys().chain(known).chain(self.seen.keys()).cloned().collect()
    }

    /// The gateway's ports of an import. Allotted by the leader alone; the others read what it
    /// wrote down before anybody used them.
    fn allot(
        &mut self,
        key: &ServiceKey,
        route: Option<&Route>,
        observed: &Observed,
        now: Instant,
    ) -> (Option<BTreeMap<PortKey, PortNumber>>, Option<Exhausted>) {
        if !self.led {
            return (None, None);
        }
        let wanted = route.filter(|route| {
            route.service_type == ServiceType::ClusterSetIp && observed.namespace_exists
        });
        let Some(route) = wanted else {
            // As long as the Service lingers, so do connections to its ports.
            if observed.service.is_none() {
                self.book.release(&key.clone().into(), now);
            }
            return (None, None);
        };
        let ports: BTreeSet<PortKey> = route.ports.iter().map(|port| port.spec.key()).collect();
        let callee = key.clone().into();
        match self.book.assign(&callee, &ports, now) {
            Ok(ports) => (Some(ports.clone()), None),
            Err(exhausted) => (self.book.held(&callee).cloned(), Some(exhausted)),
        }
    }

    /// The own cluster as the objects need it. `None` while a ready replica has not been heard
    /// and `settled` is false.
    fn look_around(&mut self, view: &ClusterView, settled: bool) -> Option<World> {
        let siblings = Arc::clone(&self.sources.siblings.borrow_and_update());
        let open = Arc::clone(&self.sources.open.borrow_and_update());
        let draining = *self.sources.draining.borrow_and_update();
        // This process is a gateway: that there is none is never true, once one was seen.
        if !view.gateways.is_empty() {
            self.members = Arc::clone(&view.gateways);
        }
        let mut gateways = Vec::with_capacity(self.members.len());
        for member in self.members.iter() {
            let sibling = siblings.siblings.get(&member.uid);
            let (ready, open) = match sibling {
                _ if member.uid == self.config.own => (!draining, Arc::clone(&open)),
                Some(heard) if heard.is_alive() => {
                    (member.ready && !heard.draining, Arc::clone(&heard.open))
                }
                Some(Sibling { condition: Condition::New, .. }) | None
                    if member.ready && !settled =>
                {
                    return None;
                }
                _ => (false, Arc::default()),
            };
            gateways.push(GatewayPod {
                name: member.name.clone(),
                uid: member.uid.clone(),
                addresses: member.addresses.clone(),
                node: member.node.clone(),
                zone: member.zone.clone(),
                ready,
                open,
            });
        }
        Some(World { families: view.families.clone(), mcs: view.mcs, gateways })
    }
}

impl Director {
    /// A replica that fell silent leaves the slices at once, whoever leads.
    async fn take_out_the_silent(&mut self) {
        let view = Arc::clone(&self.sources.siblings.borrow());
        let silent = view.siblings.values().filter(|sibling| sibling.silent_since().is_some());
        let silent: BTreeSet<IpAddr> =
            silent.flat_map(|sibling| sibling.addresses.iter().map(SocketAddr::ip)).collect();
        let fresh: Vec<_> = silent.difference(&self.silent).copied().collect();
        if !fresh.is_empty() {
            tracing::warn!(addresses = ?fresh, "a replica fell silent; it leaves the slices");
            self.writer.remove_endpoints(&fresh).await;
        }
        self.silent = silent;
    }

    /// A cluster that calls itself something else is none that we may write to (KEP-2149).
    fn is_disputed(&mut self, view: &ClusterView) -> bool {
        let disputed =
            view.cluster_id.as_deref().is_some_and(|id| id != self.config.cluster.as_str());
        if disputed && !self.disputed {
            tracing::error!(
                configured = %self.config.cluster, property = view.cluster_id.as_deref(),
                "the ClusterProperty cluster.clusterset.k8s.io names another cluster than the certificate; nothing is written until they agree: correct the property, or 'cluster' in the configuration"
            );
        }
        self.disputed = disputed;
        disputed
    }
}

impl Director {
    /// The status of every Peer. What only figures say is told every [`FIGURES_EVERY`], so that a
    /// round trip that trembles is no write.
    fn tell_peers(&mut self, view: &ClusterView, table: &RouteTable, now: Instant, wall_ms: i64) {
        let status = |(cluster, peer): (&ClusterId, &PeerSpec)| {
            let known = table.peers.get(cluster)?;
            let theirs = |route: &&Arc<Route>| {
                route.clusters.iter().any(|candidate| candidate.cluster == *cluster)
            };
            let services = table.services.values().filter(theirs).count();
            let services = u32::try_from(services).unwrap_or(u32::MAX);
            let generation = peer.generation;
            let of = PeerStatus::of(known, services, &peer.conditions, generation, wall_ms);
            Some((peer.name.clone(), of))
        };
        let statuses: BTreeMap<_, _> = view.peers.iter().filter_map(status).collect();
        let due = self.told.is_none_or(|told| now >= told + FIGURES_EVERY);
        let told = self.out.peers.send_if_modified(|current| {
            let weighty = statuses.len() != current.len()
                || statuses.iter().any(|(name, status)| {
                    current.get(name).is_none_or(|before| differs(before, status))
                });
            let changed = **current != statuses && (weighty || due);
            if changed {
                *current = Arc::new(statuses);
            }
            changed
        });
        if told {
            self.told = Some(now);
        }
    }
}

impl Director {
    /// What the owner of an export should know of it, as Events on the ServiceExport.
    fn tell_owner(
        &self,
        key: &ServiceKey,
        before: Option<&LocalExport>,
        now: &Seen,
        view: &ClusterView,
    ) {
        let Some(local) = now.local.as_deref() else { return };
        let known = before.map(|before| before.problems.as_slice()).unwrap_or_default();
        for problem in local.problems.iter().filter(|problem| !known.contains(problem)) {
            let message = format!("{}: {}", problem.field, problem.message);
            self.events.say(Event {
                subject: Subject {
                    api_version: view.mcs.api_version().into(),
                    kind: "ServiceExport".into(),
                    namespace: key.namespace.as_str().into(),
                    name: key.name.as_str().into(),
                    uid: now.observed.export.as_ref().map(|export| export.uid.clone()),
                },
                severity: Severity::Warning,
                reason: "NotUnderstood",
                message: message.into(),
            });
        }
    }
}

/// Logs where connections go when that changed between this cluster and others.
fn log_way(key: &ServiceKey, before: Option<&Route>, now: Option<&Route>) {
    let way = |route: &Route| match route.clusters.iter().find(|candidate| candidate.usable) {
        Some(candidate) if candidate.local => "local",
        Some(_) => "gateway",
        None => "none",
    };
    let (from, to) = (before.map_or("none", way), now.map_or("none", way));
    if from != to {
        tracing::info!(service = %key, from, to, "where connections go");
    }
}

/// Whether more than figures changed.
fn differs(before: &PeerStatus, now: &PeerStatus) -> bool {
    before.state != now.state
        || before.rtt.is_none() != now.rtt.is_none()
        || before.services != now.services
        || before.observed_generation != now.observed_generation
        || before.conditions.len() != now.conditions.len()
        || before.conditions.iter().zip(&now.conditions).any(|(a, b)| a.status != b.status)
}

impl Sources {
    /// Something may be different.
    async fn changed(&mut self) {
        // A channel whose sender is gone keeps its last value and must not spin.
        async fn next<T>(feed: &mut watch::Receiver<T>) {
            if feed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        tokio::select! {
            () = next(&mut self.changed) => {}
            () = next(&mut self.view) => {}
            () = next(&mut self.siblings) => {}
            () = next(&mut self.open) => {}
            () = next(&mut self.refusals) => {}
            () = next(&mut self.leader) => {}
            () = next(&mut self.draining) => {}
        }
    }
}

impl Seen {
    /// Whether a decision from the other could not differ. Routes and exports are compared by
    /// place: the planner keeps what did not change where it is.
    fn is(&self, other: &Self) -> bool {
        fn same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
            match (one, other) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (None, None) => true,
                _ => false,
            }
        }
        same(self.route.as_ref(), other.route.as_ref())
            && same(self.local.as_ref(), other.local.as_ref())
            && self.refused == other.refused
            && self.observed == other.observed
            && self.allotted == other.allotted
            && self.pods == other.pods
            && self.exhausted == other.exhausted
            && self.kept == other.kept
    }

    fn decide(&self, key: &ServiceKey, world: &World, wall_ms: i64) -> Desired {
        let case = Case {
            key,
            route: self.route.as_deref(),
            local: self.local.as_deref(),
            refused: self.refused,
            allotted: self.allotted.as_ref(),
            pods: self.pods.as_ref(),
            exhausted: self.exhausted.as_ref(),
        };
        desired(&case, &self.observed, world, wall_ms).keeping(self.kept.clone())
    }

    /// Nobody exports it and nothing of it is left.
    fn is_gone(&self) -> bool {
        self.route.is_none()
            && self.observed.service.is_none()
            && self.observed.pods.is_empty()
            && self.observed.import.is_none()
            && self.observed.export.is_none()
    }
}
