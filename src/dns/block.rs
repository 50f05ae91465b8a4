//! The names of one service (or the mere existence of a namespace), compiled.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::encode::{Asked, number, push_label, rtype};
use super::localities::Standing;
use super::packed::{self, LooseName, LooseSet, Sets, pack};
use super::query::MAX_NAME_OCTETS;
use crate::model::Locality;
use crate::routes::{Route, RouteTable};
use crate::zone::{self, RecordSet, ZoneConfig};

/// No message is longer, so of an ordered answer nobody ever sees more.
const MAX_SET_OCTETS: usize = u16::MAX as usize;
/// Additional records are a courtesy, and many ports could repeat those of many pods.
const MAX_ADDITIONAL_OCTETS: usize = 4096;

/// See the module. It stands in the map itself, so that a look-up goes from there to the octets
/// and nowhere else.
#[derive(Debug, Clone)]
pub(super) struct Block {
    /// What it was compiled from; none for a namespace.
    route: Option<Arc<Route>>,
    /// The length of the key, the key (`<service>.<namespace>` or `<namespace>` on the wire, lower
    /// case, without a root label), and the names, packed.
    octets: Arc<[u8]>,
    /// What clients elsewhere are answered otherwise.
    elsewhere: Option<Arc<Elsewhere>>,
}

/// Names whose answers depend on the place.
#[derive(Debug)]
struct Elsewhere {
    /// The names, packed without any set: one search tells that an answer depends on the place.
    names: Box<[u8]>,
    /// By place: which of `variants`; none where all is answered as from here.
    by_place: Box<[Option<u16>]>,
    /// Only the names that are answered otherwise, packed.
    variants: Box<[Box<[u8]>]>,
}

impl Block {
    pub(super) fn namespace(key: &[u8]) -> Self {
        let exists = LooseName { prefix: Vec::new(), sets: Vec::new() };
        let octets = keyed(key, &[&exists]);
        Self { route: None, octets, elsewhere: None }
    }

    pub(super) fn service(
        key: &[u8],
        table: &RouteTable,
        route: &Arc<Route>,
        config: &ZoneConfig,
        places: &[Locality],
    ) -> Self {
        let base = format!("{}.{}.svc.{}", route.key.name, route.key.namespace, config.zone);
        let here = names(zone::service_names(route, config), &base);
        let there = |route: &Route| names(zone::service_names(route, config), &base);
        let elsewhere = Elsewhere::compile(table, route, places, &here, there);
        let octets = keyed(key, &here.iter().collect::<Vec<_>>());
        Self { route: Some(Arc::clone(route)), octets, elsewhere }
    }

    /// Whether it was compiled from that route.
    pub(super) fn is_of(&self, route: &Arc<Route>) -> bool {
        self.route.as_ref().is_some_and(|known| Arc::ptr_eq(known, route))
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.octets[1..=usize::from(self.octets[0])]
    }

    /// The sets of the name with that prefix for a client there, and so many bits of its address
    /// they depend on. Where it stands is asked only if that matters.
    pub(super) fn sets(
        &self,
        prefix: &[u8],
        client: impl FnOnce() -> Standing,
    ) -> Option<(Sets<'_>, u8)> {
        let names = &self.octets[1 + usize::from(self.octets[0])..];
        let sets = packed::find(names, prefix)?;
        let Some(elsewhere) = self.elsewhere.as_deref().filter(|other| other.has(prefix)) else {
            return Some((sets, 0));
        };
        let standing = client();
        let other = standing.place.and_then(|place| elsewhere.find(place, prefix));
        Some((other.unwrap_or(sets), standing.scope))
    }

    /// Octets held outside the map, the pointers' counts among them; the route is others' too.
    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        let other = self.elsewhere.as_deref().map_or(0, |other| {
            let variants = other.variants.iter().map(|octets| octets.len() + 16).sum::<usize>();
            size_of::<Elsewhere>() + size_of_val(&*other.by_place) + other.names.len() + variants
        });
        2 * size_of::<usize>() + self.octets.len() + other
    }
}

impl Elsewhere {
    /// `None` where everybody is answered as from here.
    fn compile(
        table: &RouteTable,
        route: &Route,
        places: &[Locality],
        here: &[LooseName],
        names_of: impl Fn(&Route) -> Vec<LooseName>,
    ) -> Option<Arc<Self>> {
        let mut variants: Vec<(Vec<usize>, Option<u16>)> = Vec::new();
        let mut packed: Vec<Box<[u8]>> = Vec::new();
        let mut prefixes = BTreeSet::new();
        let mut variant = |place: &Locality| {
            let seen = table.seen_from(route, place)?;
            let order = route.order_from(place);
            if let Some((_, known)) = variants.iter().find(|(known, _)| *known == order) {
                return *known;
            }
            let there = names_of(&seen);
            let same = |name: &LooseName| {
                let at = here.binary_search_by(|known| known.prefix.cmp(&name.prefix));
                at.is_ok_and(|at| here[at] == *name)
            };
            let others: Vec<_> = there.iter().filter(|name| !same(name)).collect();
            prefixes.extend(others.iter().map(|name| name.prefix.clone()));
            let mut octets = Vec::new();
            pack(others.iter().copied(), &mut octets);
            let known = packed.iter().position(|known| **known == *octets);
            let at = (!others.is_empty()).then(|| known.unwrap_or(packed.len()));
            if at == Some(packed.len()) {
                packed.push(octets.into());
            }
            let at = at.and_then(|at| u16::try_from(at).ok());
            variants.push((order, at));
            at
        };
        let by_place: Box<[_]> = places.iter().map(&mut variant).collect();
        if packed.is_empty() {
            return None;
        }
        let bare = |prefix| LooseName { prefix, sets: Vec::new() };
        let bare: Vec<LooseName> = prefixes.into_iter().map(bare).collect();
        let mut names = Vec::new();
        pack(bare.iter(), &mut names);
        Some(Arc::new(Self { names: names.into(), by_place, variants: packed.into() }))
    }

    /// Whether that name is answered otherwise anywhere.
    fn has(&self, prefix: &[u8]) -> bool {
        packed::find(&self.names, prefix).is_some()
    }

    fn find(&self, place: u16, prefix: &[u8]) -> Option<Sets<'_>> {
        let variant = (*self.by_place.get(usize::from(place))?)?;
        packed::find(self.variants.get(usize::from(variant))?, prefix)
    }
}

/// The octets of a block.
fn keyed(key: &[u8], names: &[&LooseName]) -> Arc<[u8]> {
    // Two labels at most.
    let mut octets = vec![u8::try_from(key.len()).unwrap_or(0)];
    octets.extend(key);
    pack(names.iter().copied(), &mut octets);
    octets.into()
}

/// Names below `base`, in the order of the look-up.
pub(super) fn names(names: Vec<zone::Name>, base: &str) -> Vec<LooseName> {
    let mut compiled: Vec<LooseName> = names
        .into_iter()
        .filter_map(|name| {
            let mut prefix = Vec::new();
            name.labels.iter().for_each(|label| push_label(label, &mut prefix));
            // Nobody can ask for a longer name.
            (prefix.len() + base.len() + 2 <= MAX_NAME_OCTETS).then(|| {
                let full: Vec<&str> = name.labels.iter().map(AsRef::as_ref).chain([base]).collect();
                let full = full.join(".");
                let asked = Asked::new(&full);
                let sets = name.sets.iter().map(|records| set(records, &asked)).collect();
                LooseName { prefix, sets }
            })
        })
        .collect();
    compiled.sort_by(|one, other| one.prefix.cmp(&other.prefix));
    compiled
}

fn set(records: &RecordSet, asked: &Asked<'_>) -> LooseSet {
    let qtype = records.records.first().map_or(0, |record| number(&record.data));
    let (mut answers, mut additional) = (Vec::new(), Vec::new());
    let (mut answer_count, mut additional_count) = (0, 0);
    for record in &records.records {
        if records.ordered && answers.len() > MAX_SET_OCTETS {
            break;
        }
        if qtype != rtype::SOA {
            asked.push(record, &mut answers);
        }
        answer_count += 1;
    }
    for record in &records.additional {
        if additional.len() > MAX_ADDITIONAL_OCTETS {
            break;
        }
        asked.push(record, &mut additional);
        additional_count += 1;
    }
    let ordered = records.ordered;
    LooseSet { qtype, ordered, answers, answer_count, additional, additional_count }
}
