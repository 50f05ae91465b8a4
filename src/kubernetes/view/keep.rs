//! Keeps what the view shows, object by object.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::{ClusterView, GatewayMember, PeerSpec, Refused};
use crate::catalog::IpFamily;
use crate::kubernetes::kinds::{Name, Resource, Seen};
use crate::model::{Callee, Namespace, PeerAddress, ServiceKey, ServiceName};
use crate::objects::McsVersion;

/// What one object shows in the view, to take it back by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Held {
    Derived,
    Taken,
    Gateway,
    Default,
    Members,
    Namespace,
    Export,
    Import,
    Peer,
    ClusterId,
    Secret,
}

impl Held {
    pub(in super::super) fn of(seen: &Seen) -> Self {
        match seen {
            Seen::Derived(..) => Self::Derived,
            Seen::Taken(..) => Self::Taken,
            Seen::Gateway(_) => Self::Gateway,
            Seen::Default(_) => Self::Default,
            Seen::Members(_) => Self::Members,
            Seen::Namespace(..) => Self::Namespace,
            Seen::Export(..) => Self::Export,
            Seen::Import(..) => Self::Import,
            Seen::Peer(_) => Self::Peer,
            Seen::ClusterId(_) => Self::ClusterId,
            Seen::Secret(_) => Self::Secret,
        }
    }
}

/// The view in the making.
#[derive(Debug, Default)]
pub(in super::super) struct View {
    now: ClusterView,
    default_family: Option<IpFamily>,
    /// Whom each derived Service stands for.
    derived: HashMap<Name, Callee>,
    peers: BTreeMap<Name, PeerSpec>,
    members: BTreeMap<Name, Vec<GatewayMember>>,
    stale: Stale,
    /// Peers that another one stands before.
    doubles: Vec<Refused>,
}

/// What is put together from several objects, and must be again.
#[derive(Debug, Default)]
struct Stale {
    peers: bool,
    members: bool,
}

impl View {
    /// Takes what an object shows.
    pub(in super::super) fn put(&mut self, name: &Name, seen: Seen) {
        let now = &mut self.now;
        match seen {
            Seen::Derived(key, service) => {
                if let Some(before) = self.derived.insert(name.clone(), key.clone())
                    && before != key
                {
                    Arc::make_mut(&mut now.services).remove(&before);
                }
                insert(&mut now.services, key, service);
            }
            Seen::Taken(namespace, service) => {
                insert(&mut now.taken, (namespace, name.name.clone()), service);
            }
            Seen::Gateway(addresses) => now.advertise = Arc::new(distinct(addresses)),
            Seen::Default(family) => self.default_family = Some(family),
            Seen::Members(members) => {
                self.stale.members |= self.members.get(name) != Some(&members);
                self.members.insert(name.clone(), members);
            }
            Seen::Namespace(namespace, settings) => {
                insert(&mut now.namespaces, namespace, settings);
            }
            Seen::Export(key, export) => insert(&mut now.exports, key, export),
            Seen::Import(key, import) => insert(&mut now.imports, key, import),
            Seen::Peer(peer) => {
                self.peers.insert(name.clone(), *peer);
                self.stale.peers = true;
            }
            Seen::ClusterId(id) => now.cluster_id = Some(id),
            Seen::Secret(data) => {
                if now.secret.as_ref() != Some(&data) {
                    now.secret = Some(data);
                }
            }
        }
    }

    /// Takes back what an object showed.
    pub(in super::super) fn take(&mut self, held: Held, name: &Name) {
        let now = &mut self.now;
        match held {
            Held::Derived => {
                if let Some(key) = self.derived.remove(name) {
                    Arc::make_mut(&mut now.services).remove(&key);
                }
            }
            Held::Taken => {
                if let Ok(namespace) = Namespace::parse(&name.namespace) {
                    Arc::make_mut(&mut now.taken).remove(&(namespace, name.name.clone()));
                }
            }
            Held::Gateway => now.advertise = Arc::default(),
            Held::Default => self.default_family = None,
            Held::Members => {
                self.members.remove(name);
                self.stale.members = true;
            }
            Held::Namespace => {
                if let Ok(namespace) = Namespace::parse(&name.name) {
                    Arc::make_mut(&mut now.namespaces).remove(&namespace);
                }
            }
            Held::Export => {
                if let Some(key) = key(name) {
                    Arc::make_mut(&mut now.exports).remove(&key);
                }
            }
            Held::Import => {
                if let Some(key) = key(name) {
                    Arc::make_mut(&mut now.imports).remove(&key);
                }
            }
            Held::Peer => {
                self.peers.remove(name);
                self.stale.peers = true;
            }
            Held::ClusterId => now.cluster_id = None,
            Held::Secret => now.secret = None,
        }
    }

    /// The view as it is now.
    pub(in super::super) fn publish(
        &mut self,
        synced: bool,
        families: &BTreeSet<IpFamily>,
        mcs: McsVersion,
        mut refused: Vec<Refused>,
    ) -> ClusterView {
        if std::mem::take(&mut self.stale.members) {
            self.now.gateways = Arc::new(merged(self.members.values().flatten()));
        }
        if std::mem::take(&mut self.stale.peers) {
            self.choose_peers();
        }
        let first = self.default_family;
        let others = families.iter().copied().filter(|family| Some(*family) != first);
        self.now.families = first.into_iter().chain(others).collect();
        (self.now.synced, self.now.mcs) = (synced, mcs);
        refused.extend(self.doubles.iter().cloned());
        if *self.now.refused != refused {
            self.now.refused = Arc::new(refused);
        }
        self.now.clone()
    }

    /// Of two Peers of one cluster the first by name counts.
    fn choose_peers(&mut self) {
        let mut peers: BTreeMap<_, PeerSpec> = BTreeMap::new();
        self.doubles.clear();
        for peer in self.peers.values() {
            if let Some(first) = peers.get(&peer.cluster) {
                let why = format!(
                    "names the cluster '{}' as Peer '{}' does, which counts; remove one of them",
                    peer.cluster, first.name
                );
                self.doubles.push(Refused {
                    kind: Resource::Peer.kind(),
                    namespace: Box::default(),
                    name: peer.name.clone(),
                    uid: peer.uid.clone(),
                    why: why.into(),
                });
            } else {
                peers.insert(peer.cluster.clone(), peer.clone());
            }
        }
        if *self.now.peers != peers {
            self.now.peers = Arc::new(peers);
        }
    }
}

/// Puts a value where it is not yet; an equal one leaves the shared map alone.
fn insert<K: Ord + Clone, V: PartialEq + Clone>(map: &mut Arc<BTreeMap<K, V>>, key: K, value: V) {
    if map.get(&key) != Some(&value) {
        Arc::make_mut(map).insert(key, value);
    }
}

fn key(name: &Name) -> Option<ServiceKey> {
    let namespace = Namespace::parse(&name.namespace).ok()?;
    Some(ServiceKey::new(namespace, ServiceName::parse(&name.name).ok()?))
}

fn distinct(addresses: Vec<PeerAddress>) -> Vec<PeerAddress> {
    let mut kept = Vec::with_capacity(addresses.len());
    for address in addresses {
        if !kept.contains(&address) {
            kept.push(address);
        }
    }
    kept
}

/// One member per pod: a pod of two families stands in two slices, and counts as ready only when
/// both say so.
fn merged<'a>(members: impl Iterator<Item = &'a GatewayMember>) -> Vec<GatewayMember> {
    let mut pods: BTreeMap<(&str, &str), GatewayMember> = BTreeMap::new();
    for member in members {
        let pod = pods.entry((&member.name, &member.uid)).or_insert_with(|| GatewayMember {
            addresses: Vec::new(),
            ready: true,
            ..member.clone()
        });
        let addresses: BTreeSet<IpAddr> =
            pod.addresses.iter().chain(&member.addresses).copied().collect();
        pod.addresses = addresses.into_iter().collect();
        pod.ready &= member.ready;
        pod.node = pod.node.take().or_else(|| member.node.clone());
        pod.zone = pod.zone.take().or_else(|| member.zone.clone());
    }
    pods.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, address: &str, ready: bool) -> GatewayMember {
        GatewayMember {
            name: name.into(),
            uid: format!("uid-{name}").into(),
            addresses: vec![address.parse().unwrap()],
            node: None,
            zone: None,
            ready,
        }
    }

    #[test]
    fn a_pod_of_two_families_is_one_member_and_ready_when_both_slices_say_so() {
        let slices = [
            member("a", "fd00::1", true),
            member("b", "fd00::2", true),
            member("a", "10.0.0.1", true),
            member("b", "10.0.0.2", false),
        ];
        let pods = merged(slices.iter());
        let shown: Vec<_> =
            pods.iter().map(|pod| (&*pod.name, pod.addresses.len(), pod.ready)).collect();
        assert_eq!(shown, [("a", 2, true), ("b", 2, false)]);
    }
}
