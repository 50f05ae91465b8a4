//! How endpoints are laid out in slices, and what those are called.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::labels::{LABEL_SERVICE, LABEL_SLICE_MANAGED_BY, MANAGER, derived_name, short_digest};
use super::object::{Meta, Owner};
use super::slice::EndpointSlice;
use crate::catalog::{IpFamily, SliceEndpoint, SlicePort};
use crate::model::{HostLabel, PortNumber, Protocol, ServiceKey};

/// The most endpoints in one slice: as the EndpointSlice controller fills them.
const MAX_ENDPOINTS: usize = 100;
/// The most ports in one slice.
const MAX_PORTS: usize = 100;

/// Ports by name, which is unique in a slice.
type Ports = BTreeMap<Box<str>, (Protocol, PortNumber)>;

/// Endpoints with the ports each has, before they are laid out in slices. A pod that stands in
/// two slices, as it does while the controller moves it, counts once.
#[derive(Default)]
pub(super) struct Cells(BTreeMap<(IpAddr, Option<HostLabel>), (SliceEndpoint, Ports)>);

impl Cells {
    pub(super) fn extend(
        &mut self,
        name: &str,
        protocol: Protocol,
        endpoints: impl IntoIterator<Item = (PortNumber, SliceEndpoint)>,
    ) {
        for (port, endpoint) in endpoints {
            if let Some((_, ports)) = self.cell(endpoint) {
                let known = ports.entry(name.into()).or_insert((protocol, port));
                *known = (protocol, port).min(*known);
            }
        }
    }

    /// Endpoints as they are, with no port more.
    pub(super) fn touch(&mut self, endpoints: impl IntoIterator<Item = SliceEndpoint>) {
        for endpoint in endpoints {
            self.cell(endpoint);
        }
    }

    /// Of two copies of one endpoint the livelier one is kept, so that order is no matter.
    fn cell(&mut self, endpoint: SliceEndpoint) -> Option<&mut (SliceEndpoint, Ports)> {
        let address = *endpoint.addresses.first()?;
        let place = (address, endpoint.hostname.clone());
        let cell = self.0.entry(place).or_insert_with(|| (endpoint.clone(), Ports::new()));
        if liveliness(&cell.0) < liveliness(&endpoint) {
            cell.0 = endpoint;
        }
        Some(cell)
    }

    pub(super) fn any_ready(&self) -> bool {
        self.0.values().any(|(endpoint, _)| endpoint.ready)
    }

    /// Those with the same ports share slices; ascending by ports, then by address.
    fn lay_out(self) -> Vec<(Vec<SlicePort>, Vec<SliceEndpoint>)> {
        let mut groups: BTreeMap<Ports, Vec<SliceEndpoint>> = BTreeMap::new();
        for (endpoint, ports) in self.0.into_values() {
            groups.entry(ports).or_default().push(endpoint);
        }
        // Those that serve first, so that pods which are not ready yet never take their place.
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, endpoints)| !endpoints.iter().any(|endpoint| endpoint.ready));
        let mut slices = Vec::new();
        for (ports, endpoints) in groups {
            let port = |(name, (protocol, port))| SlicePort { name, protocol, port };
            let ports: Vec<SlicePort> = ports.into_iter().map(port).collect();
            for part in endpoints.chunks(MAX_ENDPOINTS) {
                // A service may have no port at all: `chunks` would lose its endpoints.
                for some in ports.chunks(MAX_PORTS).chain(ports.is_empty().then_some(&[][..])) {
                    slices.push((some.to_vec(), part.to_vec()));
                }
            }
        }
        slices
    }
}

type Liveliness<'a> = (bool, bool, bool, Option<&'a str>, Option<&'a str>);

fn liveliness(endpoint: &SliceEndpoint) -> Liveliness<'_> {
    let SliceEndpoint { ready, serving, terminating, node, zone, .. } = endpoint;
    (*ready, *serving, !terminating, node.as_deref(), zone.as_deref())
}

/// Slices of one import as they get their names.
pub(super) struct Named {
    prefix: String,
    meta: Meta,
    pub(super) slices: Vec<EndpointSlice>,
}

impl Named {
    pub(super) fn new(key: &ServiceKey, owner: &Owner) -> Self {
        let labels = [(LABEL_SLICE_MANAGED_BY, MANAGER), (LABEL_SERVICE, key.name.as_str())];
        let meta = Meta {
            namespace: key.namespace.clone(),
            name: Box::default(),
            labels: labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            annotations: BTreeMap::new(),
            owner: Some(owner.clone()),
        };
        Self { prefix: derived_name(key), meta, slices: Vec::new() }
    }

    /// Names follow from what a slice is for and its place among those, so that endpoints may
    /// come and go without another name.
    pub(super) fn add(
        &mut self,
        role: &str,
        family: IpFamily,
        cells: Cells,
        labels: &[(&str, String)],
    ) {
        for (part, (ports, endpoints)) in cells.lay_out().into_iter().enumerate() {
            let mut meta = self.meta.clone();
            let digest = short_digest(&format!("{role} {part}"));
            meta.name = format!("{}-{digest}", self.prefix).into();
            let labels = labels.iter().map(|(key, value)| ((*key).into(), value.as_str().into()));
            meta.labels.extend(labels);
            self.slices.push(EndpointSlice { meta, family, ports, endpoints });
        }
    }
}
