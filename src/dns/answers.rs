//! The zone's answers, compiled: for each name and type the octets that follow the question.
//!
//! Made once per published route table, off the path of the questions; what did not change is
//! taken over from the answers before. A question is then one look-up by its lower-case octets and
//! one copy: no allocation, no lock. [`crate::zone`] says what is answered; here it only becomes
//! octets.
//!
//! A name's place: the labels between the name and `svc.<zone>` that name a service (or a
//! namespace) are the key, the labels left of them choose among the few names of that service.
//! Names that clients elsewhere are answered otherwise are held once more for each other answer,
//! and for nobody who is answered the same.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ahash::RandomState;
use arc_swap::{ArcSwap, Guard};

use super::block::{Block, names};
use super::encode::{push_label, rtype, wire_name};
use super::localities::{Client, Localities};
use super::packed::{self, Set, Sets};
use super::query::MAX_NAME_OCTETS;
use super::soa::Soa;
use crate::model::{DnsName, Locality, ServiceKey};
use crate::routes::RouteTable;
use crate::zone::{self, ZoneConfig};

/// The label below which services stand, on the wire.
const SERVICES: &[u8] = b"\x03svc";
/// The longest name of the grammar has so many labels left of the zone.
const MAX_LABELS: usize = 5;

/// All answers of one route table.
#[derive(Debug)]
pub struct Answers {
    scheme: Scheme,
    /// The zone's name on the wire, lower case, with the root label.
    apex: Box<[u8]>,
    soa: Soa,
    revision: u64,
    serial: u32,
    /// Where the own cluster stands.
    here: Locality,
    /// The zone's own names, packed.
    own: Box<[u8]>,
    /// Keyed at random: whoever exports a service chooses a name, not where it is kept.
    services: HashSet<Entry, RandomState>,
}

/// What stays the same from table to table.
#[derive(Debug, Clone)]
struct Scheme {
    zone: DnsName,
    localities: Localities,
    stale: Arc<AtomicBool>,
}

/// What a question finds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found<'a> {
    /// Not in the zone.
    Outside,
    /// No such name; the zone's name begins there within the question's.
    NoName(usize),
    /// The name has no records of that type; likewise.
    NoData(usize),
    /// These.
    Set(Set<'a>),
}

/// A block found by its key.
#[derive(Debug, Clone)]
struct Entry(Block);

impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        self.0.key()
    }
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for Entry {}

impl Answers {
    /// Compiles a table for clients that all stand here; `before` gives what it has in common with
    /// this one.
    #[must_use]
    pub fn compile(table: &RouteTable, zone: &DnsName, before: Option<&Self>) -> Self {
        Self::compile_for(table, zone, &Localities::default(), before)
    }

    /// As [`Answers::compile`], for clients at several places.
    #[must_use]
    pub fn compile_for(
        table: &RouteTable,
        zone: &DnsName,
        localities: &Localities,
        before: Option<&Self>,
    ) -> Self {
        let (zone, localities) = (zone.clone(), localities.clone());
        Self::of(table, Scheme { zone, localities, stale: Arc::default() }, before)
    }

    fn of(table: &RouteTable, scheme: Scheme, before: Option<&Self>) -> Self {
        let before = before.filter(|before| {
            before.scheme.zone == scheme.zone
                && before.scheme.localities == scheme.localities
                && before.here == table.locality
        });
        // The TTL is put in with each answer.
        let config = ZoneConfig { zone: scheme.zone.clone(), ttl_seconds: 0 };
        let places = scheme.localities.places();
        let known = |key: &[u8]| before.and_then(|before| before.services.get(key));
        let room = table.services.len() + 16;
        let mut services = HashSet::with_capacity_and_hasher(room, RandomState::new());
        let namespaces: BTreeSet<_> = table.services.keys().map(|key| &key.namespace).collect();
        let mut key = Vec::new();
        for namespace in namespaces {
            key.clear();
            push_label(namespace.as_str(), &mut key);
            let kept = known(&key).cloned();
            services.insert(kept.unwrap_or_else(|| Entry(Block::namespace(&key))));
        }
        for (name, route) in &table.services {
            key.clear();
            service_key(name, &mut key);
            let kept = known(&key).filter(|entry| entry.0.is_of(route)).cloned();
            services.insert(
                kept.unwrap_or_else(|| Entry(Block::service(&key, table, route, &config, places))),
            );
        }
        let mut own = Vec::new();
        packed::pack(names(zone::zone_names(&config, 0), scheme.zone.as_str()).iter(), &mut own);
        Self {
            apex: wire_name(scheme.zone.as_str()).into(),
            soa: Soa::new(&scheme.zone),
            revision: table.revision,
            serial: zone::serial(table),
            here: table.locality.clone(),
            own: own.into(),
            services,
            scheme,
        }
    }

    /// What the question's name (on the wire, as it came, with the root label) has of that type
    /// for this client, and so many bits of its address the answer depends on.
    pub(super) fn find(&self, name: &[u8], qtype: u16, client: Client) -> (Found<'_>, u8) {
        let mut lower = [0; MAX_NAME_OCTETS];
        let Some(lower) = lower.get_mut(..name.len()) else { return (Found::Outside, 0) };
        lower.copy_from_slice(name);
        // Lengths are at most 63, below every letter.
        lower.make_ascii_lowercase();
        let Some(zone_at) = lower.len().checked_sub(self.apex.len()) else {
            return (Found::Outside, 0);
        };
        if lower[zone_at..] != *self.apex {
            return (Found::Outside, 0);
        }
        let mut starts = [0; MAX_LABELS];
        let (mut at, mut count) = (0, 0);
        while at < zone_at {
            if let Some(start) = starts.get_mut(count) {
                *start = at;
            }
            count += 1;
            at += 1 + usize::from(lower[at]);
        }
        if at != zone_at {
            // The zone's text, but not at a label's boundary.
            return (Found::Outside, 0);
        }
        if count > MAX_LABELS {
            return (Found::NoName(zone_at), 0);
        }
        let Some((mut sets, scope)) = self.sets(&lower[..zone_at], &starts[..count], client) else {
            return (Found::NoName(zone_at), 0);
        };
        let set = match qtype {
            // One set is enough (RFC 8482, section 4.1).
            rtype::ANY => sets.next(),
            _ => sets.find(|set| set.qtype == qtype),
        };
        (set.map_or(Found::NoData(zone_at), Found::Set), scope)
    }

    /// The sets of the name with these octets left of the apex, whose labels begin at `starts`.
    fn sets(&self, inner: &[u8], starts: &[usize], client: Client) -> Option<(Sets<'_>, u8)> {
        let [before @ .., last] = starts else { return self.own(inner) };
        if before.is_empty() || inner[*last..] != *SERVICES {
            return self.own(inner);
        }
        let from = before[before.len().saturating_sub(2)];
        let block = &self.services.get(&inner[from..*last])?.0;
        block.sets(&inner[..from], || self.scheme.localities.find(client))
    }

    fn own(&self, prefix: &[u8]) -> Option<(Sets<'_>, u8)> {
        packed::find(&self.own, prefix).map(|sets| (sets, 0))
    }

    pub(super) fn soa(&self) -> &Soa {
        &self.soa
    }

    pub(super) fn serial(&self) -> u32 {
        self.serial
    }

    /// Whether answers depend on where a client stands.
    pub(super) fn knows_places(&self) -> bool {
        !self.scheme.localities.is_empty()
    }

    /// Whether what is answered may be out of date.
    pub(super) fn are_stale(&self) -> bool {
        self.scheme.stale.load(Ordering::Relaxed)
    }

    /// Octets that these answers hold, the places of the map among them.
    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        let blocks = self.services.iter().map(|entry| entry.0.footprint()).sum::<usize>();
        // A place holds an entry and an octet, and one in eight stays free.
        blocks + self.services.capacity() * 8 / 7 * (size_of::<Entry>() + 1)
    }
}

fn service_key(key: &ServiceKey, out: &mut Vec<u8>) {
    push_label(key.name.as_str(), out);
    push_label(key.namespace.as_str(), out);
}

/// The answers in force, as the sockets read them.
#[derive(Debug, Clone)]
pub struct SharedAnswers(Arc<ArcSwap<Answers>>);

/// The only writer of [`SharedAnswers`].
#[derive(Debug)]
pub struct Compiler {
    scheme: Scheme,
    shared: Arc<ArcSwap<Answers>>,
}

/// Says whether what is answered may be out of date: such answers carry an extended error
/// (RFC 8914) for clients that speak EDNS, and are else what they were.
#[derive(Debug, Clone)]
pub struct Staleness(Arc<AtomicBool>);

impl SharedAnswers {
    /// The answers of a first table for clients that all stand here, and who keeps them in step
    /// with the next ones.
    #[must_use]
    pub fn new(table: &RouteTable, zone: &DnsName) -> (Compiler, Self) {
        Self::for_places(table, zone, Localities::default())
    }

    /// As [`SharedAnswers::new`], for clients at several places.
    #[must_use]
    pub fn for_places(
        table: &RouteTable,
        zone: &DnsName,
        localities: Localities,
    ) -> (Compiler, Self) {
        let scheme = Scheme { zone: zone.clone(), localities, stale: Arc::default() };
        let answers = Answers::of(table, scheme.clone(), None);
        let shared = Arc::new(ArcSwap::from_pointee(answers));
        (Compiler { scheme, shared: Arc::clone(&shared) }, Self(shared))
    }

    pub(super) fn load(&self) -> Guard<Arc<Answers>> {
        self.0.load()
    }

    /// Who says when the answers are out of date; they are not at first.
    #[must_use]
    pub fn staleness(&self) -> Staleness {
        Staleness(Arc::clone(&self.0.load().scheme.stale))
    }
}

impl Staleness {
    /// From the next answer on.
    pub fn set(&self, stale: bool) {
        self.0.store(stale, Ordering::Relaxed);
    }

    /// What was said last.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Compiler {
    /// Compiles a table and puts its answers in force. One of the same revision differs in nothing
    /// that is answered.
    pub fn publish(&mut self, table: &RouteTable) {
        if self.shared.load().revision == table.revision {
            return;
        }
        let answers = Answers::of(table, self.scheme.clone(), Some(&self.shared.load()));
        self.put(Arc::new(answers));
    }

    /// Puts answers in force that are compiled already.
    pub fn put(&mut self, answers: Arc<Answers>) {
        self.shared.store(answers);
    }
}
