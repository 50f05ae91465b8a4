//! The decision for one name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::condition::{Condition, ConditionStatus, Says};
use super::exported::{self, Exported};
use super::import::{ImportSpec, ImportStatus, ServiceImport};
use super::labels::{
    ANNOTATION_PORTS, LABEL_MANAGED_BY, LABEL_SERVICE, MANAGER, derived_name, port_name,
    write_ports,
};
use super::object::{Meta, Object, Owner};
use super::observed::{Desired, Kept, Observed, ObservedImport, ObservedService, World};
use super::pods;
use super::ports::{Exhausted, has_gateway};
use super::ready::{export_status, pending, says};
use super::service::DerivedService;
use super::slice::EndpointSlice;
use super::slices::{self, Sources};
use crate::catalog::{IpFamily, LocalExport, Merged, NotExported, ServiceType};
use crate::model::{PodName, PortKey, PortNumber, PortSpec, ServiceKey};
use crate::routes::Route;

/// One name, as everything above the API server knows it.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The name.
    pub key: &'a ServiceKey,
    /// Its route; `None` where no export lives.
    pub route: Option<&'a Route>,
    /// What this cluster exports under it.
    pub local: Option<&'a LocalExport>,
    /// Why its ServiceExport exports nothing.
    pub refused: Option<NotExported>,
    /// The ports of the gateway that stand for its ports ([`super::PortBook`]); `None`: nobody
    /// has looked, those that are recorded hold.
    pub allotted: Option<&'a BTreeMap<PortKey, PortNumber>>,
    /// The same for each of its remote pods: one that is not here gets nothing.
    pub pods: Option<&'a PodPorts>,
    /// Why it got no more of them.
    pub exhausted: Option<&'a Exhausted>,
}

/// The ports of the gateway that stand for those of remote pods.
pub type PodPorts = BTreeMap<PodName, BTreeMap<PortKey, PortNumber>>;

/// Everything that should exist for one name, at `now_ms` (Unix milliseconds, for conditions).
/// While the namespace is missing: nothing.
///
/// Derived Services (that of the import; of a headless one those of its remote pods) come first, with the gateway's ports recorded in its annotation. Once the
/// API server has given it addresses the import follows, which copies them; slices follow once
/// what owns them is there. An import that something stands in the way of is there at once, and
/// says what. An object whose name somebody else took is desired all the same: who writes sees that
/// it is foreign, leaves it alone and says so.
#[must_use]
pub fn desired(case: &Case<'_>, observed: &Observed, world: &World, now_ms: i64) -> Desired {
    let mut desired =
        Desired { key: case.key.clone(), objects: Vec::new(), export: None, kept: Kept::default() };
    if !observed.namespace_exists {
        return desired;
    }
    if let Some(route) = case.route {
        let sources = Sources { case, route, observed, world };
        desired.objects = Decision::new(sources).objects(now_ms);
    }
    desired.export = observed.export.as_ref().map(|export| export_status(case, export, now_ms));
    desired
}

/// What is decided first, and all objects follow from.
struct Decision<'a> {
    sources: Sources<'a>,
    merged: &'a Merged,
    /// Whether it has an address of its own.
    clusterset_ip: bool,
    /// The derived Service, if it is ours.
    service: Option<&'a ObservedService>,
    /// The import, if it is ours.
    import: Option<&'a ObservedImport>,
    /// The import's addresses, as far as they are known.
    ips: Vec<IpAddr>,
    /// The families that exporters and this cluster share, the cluster's default first.
    shared: Vec<IpFamily>,
}

impl<'a> Decision<'a> {
    fn new(sources: Sources<'a>) -> Self {
        let Sources { route, observed, world, .. } = sources;
        let merged = &*route.import;
        let clusterset_ip = route.service_type == ServiceType::ClusterSetIp;
        let service = sources.service();
        let import = observed.import.as_ref().filter(|import| !import.foreign);
        let ips = if clusterset_ip { addresses(service, import) } else { Vec::new() };
        let speaks = |family: &&IpFamily| {
            merged.all_families.is_empty() || merged.all_families.contains(family)
        };
        let shared = world.families.iter().filter(speaks).copied().collect();
        Self { sources, merged, clusterset_ip, service, import, ips, shared }
    }

    fn objects(&self, now_ms: i64) -> Vec<Object> {
        let mut slices = self.mcs_slices();
        let import = self.import(!slices.is_empty(), now_ms);
        let mut services = Vec::from_iter(self.derived_service());
        if !services.is_empty() {
            slices.extend(self.derived_slices());
        }
        services.extend(pods::services(self.sources, &self.families(), |name| self.meta(name)));
        slices.extend(pods::slices(self.sources));
        let mut objects: Vec<Object> = services.into_iter().map(Object::Service).collect();
        objects.extend(import.map(Object::Import));
        slices.sort_by(|one, other| one.meta.name.cmp(&other.meta.name));
        objects.extend(slices.into_iter().map(Object::Slice));
        objects
    }

    /// None for a headless import, and for one without a port: the API has no such Service.
    fn derived_service(&self) -> Option<DerivedService> {
        if !self.clusterset_ip || self.merged.ports.is_empty() {
            return None;
        }
        let case = self.sources.case;
        let mut meta = self.meta(derived_name(case.key));
        if let Some(allotted) = self.sources.allotted().filter(|allotted| !allotted.is_empty()) {
            meta.annotations.insert(ANNOTATION_PORTS.into(), write_ports(allotted).into());
        }
        let port = |spec: &PortSpec| PortSpec {
            name: port_name(spec.key()).into(),
            app_protocol: None,
            ..spec.clone()
        };
        let default = self.sources.world.families.first();
        let families = match (self.ips.is_empty(), self.shared.is_empty()) {
            (false, _) => families_of(&self.ips),
            (true, false) => self.shared.clone(),
            (true, true) => default.into_iter().copied().collect(),
        };
        Some(DerivedService {
            meta,
            ports: self.merged.ports.iter().map(port).collect(),
            session_affinity: self.merged.session_affinity,
            families,
            ips: self.ips.clone(),
            tampered: false,
        })
    }

    fn import(&self, has_slices: bool, now_ms: i64) -> Option<ServiceImport> {
        let ready = self.ready();
        let waits = self.clusterset_ip && self.ips.is_empty() && !self.is_blocked();
        // One that is there is never withdrawn while an export lives.
        if waits && self.import.is_none() {
            return None;
        }
        let merged = self.merged;
        let mut meta = self.meta(self.sources.case.key.name.to_string());
        let Exported { labels, annotations, .. } = Exported::of(merged);
        exported::put(&mut meta, labels, annotations);
        let before = self.import.map(|import| import.conditions.as_slice()).unwrap_or_default();
        let mut conditions = vec![Condition::next("Ready", ready, before, None, now_ms)];
        conditions.extend(before.iter().filter(|old| &*old.kind != "Ready").cloned());
        Some(ServiceImport {
            meta,
            spec: ImportSpec {
                service_type: merged.service_type,
                ports: merged.ports.clone(),
                ips: self.ips.clone(),
                families: self.families(),
                session_affinity: merged.session_affinity,
                internal_traffic_policy: merged.internal_traffic_policy.clone(),
                traffic_distribution: merged.traffic_distribution.clone(),
            },
            status: ImportStatus {
                clusters: merged.clusters.iter().cloned().collect(),
                conditions,
                endpoint_slices: Some(has_slices),
            },
        })
    }

    fn derived_slices(&self) -> Vec<EndpointSlice> {
        let Some(service) = self.service else { return Vec::new() };
        let owner = Owner {
            api_version: "v1".into(),
            kind: "Service".into(),
            name: derived_name(self.sources.case.key).into(),
            uid: service.uid.clone(),
        };
        slices::derived(self.sources, &families_of(&service.ips), &owner)
    }

    fn mcs_slices(&self) -> Vec<EndpointSlice> {
        let Some(import) = self.import else { return Vec::new() };
        let owner = Owner {
            api_version: self.sources.world.mcs.api_version().into(),
            kind: "ServiceImport".into(),
            name: self.sources.case.key.name.as_str().into(),
            uid: import.uid.clone(),
        };
        slices::mcs(self.sources, &self.families(), &owner)
    }

    /// The families of the import, in the order of its addresses.
    fn families(&self) -> Vec<IpFamily> {
        match (self.clusterset_ip, self.shared.is_empty() && self.leads_to_pods()) {
            (true, _) => families_of(&self.ips),
            (false, false) => self.shared.clone(),
            (false, true) => self.sources.world.families.first().copied().into_iter().collect(),
        }
    }

    /// Whether calls to remote pods pass the gateway.
    fn leads_to_pods(&self) -> bool {
        !self.sources.route.pods.led.is_empty()
    }

    /// Whether something stands in the way that people must know of before there is an address.
    fn is_blocked(&self) -> bool {
        let foreign = self.sources.observed.service.as_ref().is_some_and(|s| s.foreign);
        foreign || self.sources.observed.refusal.is_some() || self.merged.ports.is_empty()
    }

    fn ready(&self) -> Says {
        let Sources { case, observed, world, .. } = self.sources;
        if self.is_foreign_to_families() {
            let message = format!(
                "no endpoint speaks {}, all that this cluster has; give the exported Service one of its families",
                spell(&world.families)
            );
            return says(ConditionStatus::False, "IPFamilyNotSupported", message);
        }
        if let Some(refusal) = &observed.refusal {
            return pending(format!("the API server refused a write: {refusal}"));
        }
        let lacks = if self.clusterset_ip {
            self.lacks(case)
        } else {
            case.exhausted.map(|exhausted| pending(exhausted.to_string()))
        };
        lacks.unwrap_or_else(|| {
            let told = [Exported::of(self.merged).message(), self.sources.route.pods.to_string()];
            let told: Vec<_> = told.into_iter().filter(|text| !text.is_empty()).collect();
            says(ConditionStatus::True, "Ready", told.join("; "))
        })
    }

    /// What a clusterset address still lacks.
    fn lacks(&self, case: &Case<'_>) -> Option<Says> {
        let name = derived_name(case.key);
        if self.merged.ports.is_empty() {
            return Some(pending("its exports name no port; add one to the exported Service"));
        }
        if self.sources.observed.service.as_ref().is_some_and(|service| service.foreign) {
            return Some(pending(format!(
                "a Service {name} that is not managed by {MANAGER} stands in the way; delete it"
            )));
        }
        let Some(service) = self.service.filter(|service| !service.ips.is_empty()) else {
            return Some(pending(format!("waits for the addresses of the Service {name}")));
        };
        if let Some(exhausted) = case.exhausted {
            return Some(pending(exhausted.to_string()));
        }
        let families = families_of(&service.ips);
        self.sources.waits_for_gateway(&families).map(|port| {
            pending(format!("no gateway has opened yet what stands for its port {port}"))
        })
    }

    /// Whether no call can get through for want of a common family. The gateway translates
    /// between families; what does not pass it, it cannot help.
    fn is_foreign_to_families(&self) -> bool {
        let carried = || self.merged.ports.iter().any(|spec| has_gateway(spec.key()));
        let passes = if self.clusterset_ip { carried() } else { self.leads_to_pods() };
        self.shared.is_empty() && !self.sources.world.families.is_empty() && !passes
    }

    fn meta(&self, name: String) -> Meta {
        let key = self.sources.case.key;
        let labels = [(LABEL_MANAGED_BY, MANAGER), (LABEL_SERVICE, key.name.as_str())];
        Meta {
            namespace: key.namespace.clone(),
            name: name.into(),
            labels: labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            annotations: BTreeMap::new(),
            owner: None,
        }
    }
}

/// The addresses of an import: what it has already, as long as the derived Service has them too
/// or is lost (it is then made again with them), else the Service's.
fn addresses(service: Option<&ObservedService>, import: Option<&ObservedImport>) -> Vec<IpAddr> {
    let has = import.map(|import| import.ips.as_slice()).unwrap_or_default();
    match service.map(|service| service.ips.as_slice()).filter(|ips| !ips.is_empty()) {
        Some(ips) if has.is_empty() || !has.iter().all(|ip| ips.contains(ip)) => ips.to_vec(),
        _ => has.to_vec(),
    }
}

fn families_of(ips: &[IpAddr]) -> Vec<IpFamily> {
    ips.iter().map(|ip| IpFamily::of(*ip)).collect()
}

fn spell(families: &[IpFamily]) -> String {
    let names: Vec<_> = families.iter().map(|family| super::json::family(*family)).collect();
    names.join(" or ")
}
