//! Steering by hand and by need: which share of new connections clusters and exports take.
//!
//! A cluster is drained where its services are imported; a service, or the own cluster with all of
//! its services, where it is exported: the share is part of the export and travels, so that every
//! importer obeys it. An annotation wins over a command. With fewer ready endpoints than are
//! wanted, or under pressure, an export's share falls as well and the rest spills over.
//!
//! Invariants: nothing moves without a reason to be seen in [`Steered`] or an annotation; along a
//! ramp the share is that of its instant, and otherwise it moves by at most ten points a second,
//! but for one without any backend, which takes nothing at once. Pressure on gateways does not
//! count for connections that pass none. Not here: who orders, disk, the order of candidates.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Inputs;
use super::pressure::Pressure;
use super::ramp::{Follower, Ramp};
use crate::catalog::{Export, LocalCatalog, LocalExport, Share};
use crate::model::{ClusterId, Drain, ServiceKey};

/// What is drained.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Drained {
    /// A cluster: a peer as we import from it, or the own one with all that it exports.
    Cluster(ClusterId),
    /// A service that this cluster exports.
    Service(ServiceKey),
}

impl fmt::Display for Drained {
    /// As on the command line: `oregon`, `web.shop`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(cluster) => write!(f, "{cluster}"),
            Self::Service(key) => write!(f, "{}.{}", key.name, key.namespace),
        }
    }
}

/// The drains that were ordered by command.
pub type Drains = BTreeMap<Drained, Drain>;

/// Who wants a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The annotation `portolan.dev/drain`, which wins.
    Annotation,
    /// `portolan drain`.
    Command,
}

/// A drain in force, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steered {
    /// What is drained.
    pub of: Drained,
    /// Who wants it.
    pub by: By,
    /// When it is complete.
    pub drain: Drain,
    /// What it takes now.
    pub share: Share,
}

/// What steers from outside.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Orders {
    /// By command.
    pub drains: Arc<Drains>,
    /// By what was answered.
    pub pressure: Pressure,
}

/// What an export needs to leave to others.
#[derive(Debug, Clone, Copy)]
struct Need {
    /// For want of endpoints.
    endpoints: Follower,
    /// For what was answered.
    pressure: Follower,
}

/// What an export takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Takes {
    /// Of all connections.
    share: Share,
    /// Of those that pass no gateway.
    direct: Share,
}

impl Takes {
    fn of(local: &LocalExport) -> Self {
        Self { share: local.export.settings.share, direct: local.direct_share }
    }
}

#[derive(Debug, Clone, Copy)]
struct InForce {
    by: By,
    drain: Drain,
    ramp: Ramp,
}

/// An export as it was given and as it is told.
#[derive(Debug)]
struct Told {
    given: Arc<LocalExport>,
    told: Arc<LocalExport>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Steering {
    orders: Orders,
    /// By annotation on a Peer.
    peers: BTreeMap<ClusterId, Drain>,
    in_force: BTreeMap<Drained, InForce>,
    needs: BTreeMap<ServiceKey, Need>,
    /// Exports that take less than all.
    less: BTreeMap<ServiceKey, Told>,
    /// The exports at the last look.
    seen: Option<Arc<LocalCatalog>>,
    /// Something was given since the last look.
    news: bool,
    /// When time alone changes something.
    due: Option<Instant>,
}

impl Steering {
    /// Takes what was ordered, all of it.
    pub fn order(&mut self, orders: Orders) {
        self.orders = orders;
        self.news = true;
    }

    /// Takes the drains that Peer objects ask for, all of them.
    pub fn annotate(&mut self, peers: BTreeMap<ClusterId, Drain>) {
        self.peers = peers;
        self.news = true;
    }

    /// Exports or peers of the inputs are others than before.
    pub fn look_again(&mut self) {
        self.news = true;
    }

    /// When time alone will next change something.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        self.due
    }

    /// Puts the shares of this instant into the inputs. `wall_ms` is what the wall clock shows at
    /// `now`. Returns the services whose routes may be others now; `None`: nothing changed.
    pub fn steer(
        &mut self,
        inputs: &mut Inputs,
        wall_ms: i64,
        now: Instant,
    ) -> Option<BTreeSet<ServiceKey>> {
        let due = self.due.is_some_and(|due| now >= due);
        if !self.news && !due {
            return None;
        }
        if std::mem::take(&mut self.news) {
            self.take_in(inputs, wall_ms, now);
        }
        self.needs.retain(|key, need| {
            need.endpoints.advance(now);
            need.pressure.advance(now);
            let wanted = inputs.local.exports.get(key).is_some_and(|of| of.steer.wanted.is_some());
            wanted || !need.endpoints.is_full() || !need.pressure.is_full()
        });
        let ramps = self.in_force.values().filter_map(|of| of.ramp.next(now));
        let needs = self.needs.values().flat_map(|need| [need.endpoints, need.pressure]);
        let followers = needs.filter_map(Follower::next);
        self.due = ramps.chain(followers).min();
        let mut dirty = self.steer_peers(inputs, now);
        let exports = self.steer_exports(inputs, now);
        let shown: Vec<Steered> = self.shown(now).collect();
        if dirty.is_empty() && exports.is_empty() && *inputs.drains == shown {
            return None;
        }
        inputs.drains = Arc::new(shown);
        dirty.extend(exports);
        Some(dirty)
    }

    fn shown(&self, now: Instant) -> impl Iterator<Item = Steered> {
        self.in_force.iter().map(move |(of, InForce { by, drain, ramp })| Steered {
            of: of.clone(),
            by: *by,
            drain: *drain,
            share: ramp.share(now),
        })
    }

    /// What is to be in force, and what shares are to follow.
    fn take_in(&mut self, inputs: &Inputs, wall_ms: i64, now: Instant) {
        let commands = self.orders.drains.iter().map(|(of, drain)| (of.clone(), *drain));
        let mut wanted: BTreeMap<Drained, (By, Drain)> =
            commands.map(|(of, drain)| (of, (By::Command, drain))).collect();
        let peers = self.peers.iter().map(|(peer, drain)| (Drained::Cluster(peer.clone()), *drain));
        let exports = inputs.local.exports.iter().filter_map(|(key, local)| {
            local.steer.drain.map(|drain| (Drained::Service(key.clone()), drain))
        });
        wanted.extend(peers.chain(exports).map(|(of, drain)| (of, (By::Annotation, drain))));
        let before = std::mem::take(&mut self.in_force);
        let anchored = |(of, (by, drain)): (Drained, (By, Drain))| {
            let ramp = match before.get(&of) {
                Some(known) if known.drain == drain => known.ramp,
                _ => Ramp::new(drain, wall_ms, now),
            };
            (of, InForce { by, drain, ramp })
        };
        self.in_force = wanted.into_iter().map(anchored).collect();
        self.aim(inputs, now);
    }

    /// Where the shares of exports are to go, by their endpoints and by pressure.
    fn aim(&mut self, inputs: &Inputs, now: Instant) {
        self.needs.retain(|key, _| inputs.local.exports.contains_key(key));
        let pressed = self.orders.pressure.services();
        let wanting = inputs.local.exports.iter().filter(|(_, of)| of.steer.wanted.is_some());
        let known = self.needs.keys();
        let keys: BTreeSet<ServiceKey> =
            pressed.chain(wanting.map(|(key, _)| key)).chain(known).cloned().collect();
        for key in keys {
            let Some(local) = inputs.local.exports.get(&key) else { continue };
            let (bears, cap) = (by_endpoints(local), self.orders.pressure.cap(&key));
            // What has just come is where its endpoints say; for others any need is news.
            let known = self.seen.as_ref().is_some_and(|seen| seen.exports.contains_key(&key));
            let start = if known { Share::FULL } else { bears };
            let need = self.needs.entry(key).or_insert_with(|| Need {
                endpoints: Follower::at(start, now),
                pressure: Follower::at(Share::FULL, now),
            });
            need.endpoints.aim(bears, now);
            need.pressure.aim(cap, now);
        }
        self.seen = Some(Arc::clone(&inputs.local));
    }

    /// The shares of peers as we import from them.
    fn steer_peers(&self, inputs: &mut Inputs, now: Instant) -> BTreeSet<ServiceKey> {
        let mut dirty = BTreeSet::new();
        for (cluster, peer) in &mut inputs.peers {
            let share = self.ramped(&Drained::Cluster(cluster.clone()), now);
            if peer.drain != share {
                peer.drain = share;
                dirty.extend(peer.catalog.exports.keys().cloned());
            }
        }
        dirty
    }

    /// The shares of what we export, in a catalog of a new revision where one changed.
    fn steer_exports(&mut self, inputs: &mut Inputs, now: Instant) -> BTreeSet<ServiceKey> {
        let own = self.ramped(&Drained::Cluster(inputs.cluster.clone()), now);
        let takes = |key: &ServiceKey| {
            let drained = own.of(self.ramped(&Drained::Service(key.clone()), now));
            let need = self.needs.get(key);
            let endpoints = need.map_or(Share::FULL, |need| need.endpoints.share());
            // Together they move no faster than each.
            let all = need.map_or(Share::FULL, |need| need.pressure.share()).min(endpoints);
            Takes { share: drained.of(all), direct: drained.of(endpoints) }
        };
        let differs = |(key, local): (&ServiceKey, &Arc<LocalExport>)| {
            let takes = takes(key);
            (Takes::of(local) != takes).then(|| (key.clone(), takes))
        };
        let changed: Vec<_> = inputs.local.exports.iter().filter_map(differs).collect();
        if changed.is_empty() {
            return BTreeSet::new();
        }
        let mut exports = inputs.local.exports.clone();
        let mut dirty = BTreeSet::new();
        for (key, takes) in changed {
            let Some(local) = exports.get_mut(&key) else { continue };
            let (steered, news) = self.told(&key, local, takes);
            *local = steered;
            if news {
                dirty.insert(key);
            }
        }
        self.less.retain(|key, of| exports.get(key).is_some_and(|now| Arc::ptr_eq(now, &of.told)));
        let revision = inputs.local.revision + 1;
        inputs.local =
            Arc::new(LocalCatalog { revision, exports, ..LocalCatalog::clone(&inputs.local) });
        dirty
    }

    /// The export with what it takes, and whether that is news. What was told before stays at its
    /// place, so that whoever compares by pointer sees no change.
    fn told(
        &mut self,
        key: &ServiceKey,
        of: &Arc<LocalExport>,
        takes: Takes,
    ) -> (Arc<LocalExport>, bool) {
        let known = self.less.get(key);
        let given = match known {
            Some(known) if Arc::ptr_eq(of, &known.told) => Arc::clone(&known.given),
            _ => Arc::clone(of),
        };
        if let Some(known) = known
            && Arc::ptr_eq(&given, &known.given)
            && Takes::of(&known.told) == takes
        {
            return (Arc::clone(&known.told), false);
        }
        if Takes::of(&given) == takes {
            return (given, true);
        }
        let mut export = Export::clone(&given.export);
        export.settings.share = takes.share;
        let mut told = LocalExport { export: Arc::new(export), ..LocalExport::clone(&given) };
        told.direct_share = takes.direct;
        let told = Arc::new(told);
        self.less.insert(key.clone(), Told { given, told: Arc::clone(&told) });
        (told, true)
    }

    fn ramped(&self, of: &Drained, now: Instant) -> Share {
        self.in_force.get(of).map_or(Share::FULL, |of| of.ramp.share(now))
    }
}

/// The share that the ready endpoints of an export can bear, of those that are wanted; what it
/// has of its best port.
fn by_endpoints(local: &LocalExport) -> Share {
    let Some(wanted) = local.steer.wanted else { return Share::FULL };
    let ready = local.export.ports.iter().map(|port| port.ready).max().unwrap_or(0);
    let ready = ready.min(wanted.get());
    if ready == 0 {
        return Share::NONE;
    }
    Share::new((ready * 100 / wanted.get()).max(1)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
