//! What a replica leaves alone while peers have not told it their catalog: one that just started
//! must not take away what it does not know.

use std::collections::BTreeSet;

use super::{Director, Seen};
use crate::kubernetes::ClusterView;
use crate::model::{Callee, ClusterId, PodName, PortKey, ServiceKey};
use crate::objects::Kept;
use crate::routes::Route;

/// What may be said of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Nothing: what the cluster holds of it may be the export of an unheard peer.
    Nothing,
    /// Everything, but that these are too much.
    But(Kept),
}

impl Director {
    /// What may be said of a name. What this replica has known by itself goes as it came.
    pub(super) fn say(
        &self,
        key: &ServiceKey,
        route: Option<&Route>,
        view: &ClusterView,
        unheard: &BTreeSet<&ClusterId>,
    ) -> Say {
        let known = |seen: &Seen| seen.route.is_some() && seen.kept.is_empty();
        if self.seen.get(key).is_some_and(known) {
            return Say::But(Kept::default());
        }
        say(key, route, view, unheard)
    }
}

/// What may be said of a name that has that route now. Pods of other peers' never wait for those
/// of an unheard one, which may stay away for ever.
fn say(
    key: &ServiceKey,
    route: Option<&Route>,
    view: &ClusterView,
    unheard: &BTreeSet<&ClusterId>,
) -> Say {
    let recorded = view.services.get(&key.clone().into()).map(|service| &service.ports);
    let held = view.imports.contains_key(key) || recorded.is_some();
    if unheard.is_empty() || !held {
        return Say::But(Kept::default());
    }
    let Some(route) = route else { return Say::Nothing };
    let gone = |port: &PortKey| route.port(*port).is_none();
    if recorded.is_some_and(|ports| ports.keys().any(gone)) {
        return Say::Nothing;
    }
    let pods = Callee::pods(&view.services, key).map(|(pod, _)| pod);
    let may_be_there =
        |pod: &&PodName| unheard.contains(&pod.cluster) && route.pods.get(pod).is_none();
    Say::But(Kept::of(key, pods.filter(may_be_there)))
}

#[cfg(test)]
mod tests;
