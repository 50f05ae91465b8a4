//! The zone's answers, compiled: for each name and type the octets that follow the question.
//!
//! Made once per published route table, off the path of the questions; what did not change is
//! taken over from the answers before. A question is then one look-up by its lower-case octets and
//! one copy: no allocation, no lock. [`crate::zone`] says what is answered; here it only becomes
//! octets.
//!
//! A name's place: the labels between the name and `svc.<zone>` that name a service (or a
//! namespace) are the key, the labels left of them choose among the few names of that service.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::encode::{Asked, number, push_label, rtype, wire_name};
use super::query::MAX_NAME_OCTETS;
use super::soa::Soa;
use crate::model::{DnsName, ServiceKey};
use crate::routes::{Route, RouteTable};
use crate::zone::{self, RecordSet, ZoneConfig};

/// The label below which services stand, on the wire.
const SERVICES: &[u8] = b"\x03svc";
/// The longest name of the grammar has so many labels left of the zone.
const MAX_LABELS: usize = 5;
/// No message is longer, so of an ordered answer nobody ever sees more.
const MAX_SET_OCTETS: usize = u16::MAX as usize;
/// Additional records are a courtesy, and many ports could repeat those of many pods.
const MAX_ADDITIONAL_OCTETS: usize = 4096;

/// All answers of one route table.
#[derive(Debug)]
pub struct Answers {
    zone: DnsName,
    /// The zone's name on the wire, lower case, with the root label.
    apex: Box<[u8]>,
    soa: Soa,
    revision: u64,
    serial: u32,
    /// The zone's own names.
    own: Box<[Name]>,
    services: HashSet<Entry>,
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
    Set(&'a Set),
}

/// The records of one type at one name.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) qtype: u16,
    /// The order means nearest first: never rotated.
    pub(super) ordered: bool,
    /// The answer section's records.
    pub(super) answers: u32,
    /// Those of the additional section.
    pub(super) additional: u32,
    /// Where in `octets` the additional section begins.
    pub(super) split: u32,
    /// The records one after the other. None for an SOA, which is written with each answer.
    pub(super) octets: Box<[u8]>,
}

/// A name and its sets.
#[derive(Debug)]
struct Name {
    /// The labels left of the service's (of the apex for the zone's own), on the wire.
    prefix: Box<[u8]>,
    sets: Box<[Set]>,
}

/// The names of one service, or the mere existence of a namespace.
#[derive(Debug)]
struct Block {
    /// `<service>.<namespace>` or `<namespace>` on the wire, lower case, without a root label.
    key: Box<[u8]>,
    /// What it was compiled from; none for a namespace.
    route: Option<Arc<Route>>,
    /// By prefix.
    names: Box<[Name]>,
}

/// A block found by its key.
#[derive(Debug, Clone)]
struct Entry(Arc<Block>);

impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        &self.0.key
    }
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Entry {}

impl Answers {
    /// Compiles a table; `before` gives what it has in common with this one.
    #[must_use]
    pub fn compile(table: &RouteTable, zone: &DnsName, before: Option<&Self>) -> Self {
        let before = before.filter(|before| before.zone == *zone);
        // The TTL is put in with each answer.
        let config = ZoneConfig { zone: zone.clone(), ttl_seconds: 0 };
        let mut services = HashSet::with_capacity(table.services.len() + 16);
        let namespaces: BTreeSet<_> = table.services.keys().map(|key| &key.namespace).collect();
        for namespace in namespaces {
            let mut key = Vec::new();
            push_label(namespace.as_str(), &mut key);
            services.insert(Entry(Arc::new(Block {
                key: key.into(),
                route: None,
                names: [Name { prefix: Box::default(), sets: Box::default() }].into(),
            })));
        }
        let mut key = Vec::new();
        for (name, route) in &table.services {
            key.clear();
            service_key(name, &mut key);
            let kept =
                before.and_then(|before| before.services.get(key.as_slice())).filter(|entry| {
                    entry.0.route.as_ref().is_some_and(|known| Arc::ptr_eq(known, route))
                });
            let entry = kept.cloned();
            services.insert(entry.unwrap_or_else(|| Entry(Arc::new(block(&key, route, &config)))));
        }
        let own = zone::zone_names(&config, 0);
        Self {
            zone: zone.clone(),
            apex: wire_name(zone.as_str()).into(),
            soa: Soa::new(zone),
            revision: table.revision,
            serial: zone::serial(table),
            own: names(own, zone.as_str()),
            services,
        }
    }

    /// What the question's name (on the wire, as it came, with the root label) has of that type.
    pub(super) fn find(&self, name: &[u8], qtype: u16) -> Found<'_> {
        let mut lower = [0; MAX_NAME_OCTETS];
        let Some(lower) = lower.get_mut(..name.len()) else { return Found::Outside };
        lower.copy_from_slice(name);
        // Lengths are at most 63, below every letter.
        lower.make_ascii_lowercase();
        let Some(zone_at) = lower.len().checked_sub(self.apex.len()) else { return Found::Outside };
        if lower[zone_at..] != *self.apex {
            return Found::Outside;
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
            return Found::Outside;
        }
        if count > MAX_LABELS {
            return Found::NoName(zone_at);
        }
        match self.name(&lower[..zone_at], &starts[..count]) {
            None => Found::NoName(zone_at),
            Some(name) => name.set(qtype).map_or(Found::NoData(zone_at), Found::Set),
        }
    }

    /// The name with these octets left of the apex, whose labels begin at `starts`.
    fn name(&self, inner: &[u8], starts: &[usize]) -> Option<&Name> {
        let (names, prefix) = match starts {
            [before @ .., last] if !before.is_empty() && inner[*last..] == *SERVICES => {
                let from = before[before.len().saturating_sub(2)];
                let block = &self.services.get(&inner[from..*last])?.0;
                (&block.names, &inner[..from])
            }
            _ => (&self.own, inner),
        };
        let at = names.binary_search_by(|name| (*name.prefix).cmp(prefix)).ok()?;
        names.get(at)
    }

    pub(super) fn soa(&self) -> &Soa {
        &self.soa
    }

    pub(super) fn serial(&self) -> u32 {
        self.serial
    }
}

impl Name {
    fn set(&self, qtype: u16) -> Option<&Set> {
        match qtype {
            // One set is enough (RFC 8482, section 4.1).
            rtype::ANY => self.sets.first(),
            _ => self.sets.iter().find(|set| set.qtype == qtype),
        }
    }
}

fn service_key(key: &ServiceKey, out: &mut Vec<u8>) {
    push_label(key.name.as_str(), out);
    push_label(key.namespace.as_str(), out);
}

fn block(key: &[u8], route: &Arc<Route>, config: &ZoneConfig) -> Block {
    let base = format!("{}.{}.svc.{}", route.key.name, route.key.namespace, config.zone);
    let names = names(zone::service_names(route, config), &base);
    Block { key: key.into(), route: Some(Arc::clone(route)), names }
}

/// Names below `base`, in the order of the look-up.
fn names(names: Vec<zone::Name>, base: &str) -> Box<[Name]> {
    let mut compiled: Vec<Name> = names
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
                Name { prefix: prefix.into(), sets }
            })
        })
        .collect();
    compiled.sort_by(|one, other| one.prefix.cmp(&other.prefix));
    compiled.into()
}

fn set(records: &RecordSet, asked: &Asked<'_>) -> Set {
    let qtype = records.records.first().map_or(0, |record| number(&record.data));
    let mut octets = Vec::new();
    let (mut answers, mut additional) = (0, 0);
    for record in &records.records {
        if records.ordered && octets.len() > MAX_SET_OCTETS {
            break;
        }
        if qtype != rtype::SOA {
            asked.push(record, &mut octets);
        }
        answers += 1;
    }
    let split = octets.len();
    for record in &records.additional {
        if octets.len() - split > MAX_ADDITIONAL_OCTETS {
            break;
        }
        asked.push(record, &mut octets);
        additional += 1;
    }
    let split = u32::try_from(split).unwrap_or(u32::MAX);
    Set { qtype, ordered: records.ordered, answers, additional, split, octets: octets.into() }
}

/// The answers in force, as the sockets read them.
#[derive(Debug, Clone)]
pub struct SharedAnswers(Arc<ArcSwap<Answers>>);

/// The only writer of [`SharedAnswers`].
#[derive(Debug)]
pub struct Compiler {
    zone: DnsName,
    shared: Arc<ArcSwap<Answers>>,
}

impl SharedAnswers {
    /// The answers of a first table, and who keeps them in step with the next ones.
    #[must_use]
    pub fn new(table: &RouteTable, zone: &DnsName) -> (Compiler, Self) {
        let shared = Arc::new(ArcSwap::from_pointee(Answers::compile(table, zone, None)));
        (Compiler { zone: zone.clone(), shared: Arc::clone(&shared) }, Self(shared))
    }

    pub(super) fn load(&self) -> Guard<Arc<Answers>> {
        self.0.load()
    }
}

impl Compiler {
    /// Compiles a table and puts its answers in force. One of the same revision differs in nothing
    /// that is answered.
    pub fn publish(&mut self, table: &RouteTable) {
        if self.shared.load().revision == table.revision {
            return;
        }
        let answers = Answers::compile(table, &self.zone, Some(&self.shared.load()));
        self.put(Arc::new(answers));
    }

    /// Puts answers in force that are compiled already.
    pub fn put(&mut self, answers: Arc<Answers>) {
        self.shared.store(answers);
    }
}
