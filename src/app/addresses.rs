//! Clusterset addresses: who gives them, and which names have some.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::cluster::ClusterFacts;
use super::planner::Planner;
use crate::catalog::ServiceType;
use crate::clock;
use crate::model::{Callee, ServiceKey};
use crate::routes::{Route, RouteTable};
use crate::vips;

/// Who gives clusterset addresses.
#[derive(Debug)]
pub(super) enum Addresses {
    /// We do, from configured ranges.
    Ours(vips::Allocator),
    /// The cluster does; as it last said.
    Clusters(Arc<ClusterFacts>),
}

/// Who has addresses of a route: a ClusterSetIP import itself, of a headless one each pod that the
/// gateway leads to.
pub(super) fn addressed(route: &Route) -> BTreeSet<Callee> {
    let key = || route.key.clone();
    match route.service_type {
        ServiceType::ClusterSetIp => BTreeSet::from([key().into()]),
        ServiceType::Headless => {
            let pods = route.pods.led.iter();
            pods.map(|pod| Callee::pod(key(), pod.name.clone())).collect()
        }
    }
}

impl Planner {
    /// Who is to have addresses has them from the moment they are written down until it is gone.
    pub(super) fn assign_vips(&mut self, table: &RouteTable, touched: &BTreeSet<ServiceKey>) {
        let Addresses::Ours(vips) = &mut self.addresses else { return };
        for key in touched {
            let wanted = table.services.get(key).map(|route| addressed(route)).unwrap_or_default();
            let gone: Vec<Callee> =
                vips.held_of(key).filter(|callee| !wanted.contains(callee)).cloned().collect();
            for callee in wanted {
                match vips.assign(&callee, clock::wall_ms()) {
                    Ok(ips) => self.unwritten |= self.inputs.vips.get(&callee) != Some(&ips),
                    Err(error) => {
                        tracing::warn!(service = %callee, %error, "no clusterset address");
                    }
                }
            }
            for callee in gone {
                vips.release(&callee, clock::wall_ms());
                self.inputs.vips.remove(&callee);
                self.unwritten = true;
            }
        }
    }

    /// Addresses that are written down may be answered.
    pub(super) fn take_addresses(&mut self, written: BTreeMap<Callee, Vec<IpAddr>>) {
        let Addresses::Ours(vips) = &self.addresses else { return };
        let fresh: Vec<_> = written
            .into_iter()
            .filter(|(callee, ips)| self.inputs.vips.get(callee) != Some(ips))
            .filter(|(callee, ips)| vips.get(callee) == Some(ips.as_slice()))
            .collect();
        self.dirty.add(fresh.iter().map(|(callee, _)| callee.service.clone()));
        self.inputs.vips.extend(fresh);
    }

    /// Addresses held since an earlier run by names that are gone now.
    pub(super) fn release_unused(&mut self) {
        let Addresses::Ours(vips) = &mut self.addresses else { return };
        let used: BTreeSet<Callee> =
            self.table.services.values().flat_map(|route| addressed(route)).collect();
        let gone: Vec<_> = vips
            .held()
            .map(|(callee, _)| callee)
            .filter(|of| !used.contains(of))
            .cloned()
            .collect();
        for callee in gone {
            vips.release(&callee, clock::wall_ms());
            self.inputs.vips.remove(&callee);
            self.unwritten = true;
        }
    }
}
