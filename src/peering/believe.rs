//! What we believe of a peer: the mirror of its believed session, judged record by record.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::metrics::Metrics;
use super::mirror::{Entry, Mirror};
use crate::catalog::{self, Belief, Doubt, Export, PeerCatalog, Refusal};
use crate::model::{ClusterId, Locality, ServiceKey};

/// What a peer says of itself.
#[derive(Debug)]
pub(super) struct Claim {
    /// Its records.
    pub(super) mirror: Arc<Mirror>,
    /// Its network.
    pub(super) network: Box<str>,
    /// Where it stands.
    pub(super) locality: Locality,
}

/// The last good catalog of one peer, and what it was made from.
#[derive(Debug, Default)]
pub(super) struct Believed {
    mirror: Option<Arc<Mirror>>,
    belief: Belief,
    catalog: Arc<PeerCatalog>,
}

impl Believed {
    pub(super) fn mirror(&self) -> Option<&Arc<Mirror>> {
        self.mirror.as_ref()
    }

    pub(super) fn catalog(&self) -> &Arc<PeerCatalog> {
        &self.catalog
    }

    /// What was claimed last.
    pub(super) fn claim(&self) -> Option<Claim> {
        Some(Claim {
            mirror: Arc::clone(self.mirror.as_ref()?),
            network: self.catalog.network.clone(),
            locality: self.catalog.locality.clone(),
        })
    }

    /// Believes `claim` as far as `belief` goes; whether the catalog changed. Services that did
    /// not change are not judged again.
    pub(super) fn take(
        &mut self,
        peer: &ClusterId,
        claim: Claim,
        belief: &Belief,
        metrics: &Metrics,
    ) -> bool {
        let Claim { mirror, network, locality } = claim;
        let first = self.mirror.is_none();
        let same_belief = self.belief == *belief;
        let same_records = self.mirror.as_ref().is_some_and(|old| old.digest() == mirror.digest());
        let same_place = self.catalog.network == network && self.catalog.locality == locality;
        if same_belief && same_records && same_place {
            return false;
        }
        let old = self.mirror.as_ref().filter(|_| same_belief).map(|old| old.entries());
        let judge = |(key, entry): (&ServiceKey, &Arc<Entry>)| {
            let known = old.and_then(|old| old.get(key)).is_some_and(|old| Arc::ptr_eq(old, entry));
            let export = if known {
                self.catalog.exports.get(key).cloned()
            } else {
                judge(peer, belief, entry.export()?, metrics)
            };
            Some((key.clone(), export?))
        };
        let exports: BTreeMap<_, _> = mirror.entries().iter().filter_map(judge).collect();
        let catalog = PeerCatalog { exports, network, locality };
        self.mirror = Some(mirror);
        self.belief = belief.clone();
        let changed = first || catalog != *self.catalog;
        if changed {
            self.catalog = Arc::new(catalog);
        }
        changed
    }
}

fn judge(
    peer: &ClusterId,
    belief: &Belief,
    export: &Arc<Export>,
    metrics: &Metrics,
) -> Option<Arc<Export>> {
    match catalog::judge(belief, Export::clone(export)) {
        Ok(admitted) => {
            for (address, doubt) in &admitted.dropped {
                metrics.refused(peer, doubt_reason(*doubt));
                tracing::debug!(%peer, service = %export.key, %address, %doubt, "endpoint not believed");
            }
            Some(Arc::new(admitted.export))
        }
        Err(refusal) => {
            metrics.refused(peer, refusal_reason(&refusal));
            tracing::debug!(%peer, %refusal, "record not believed");
            None
        }
    }
}

fn refusal_reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Namespace(_) => "namespace",
    }
}

fn doubt_reason(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::NotAHost => "address_no_host",
        Doubt::Ours => "address_ours",
        Doubt::Undeclared => "address_undeclared",
        Doubt::HostLocal => "address_host_local",
    }
}
