//! The names, the questions about them, and what a right answer is.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// The zone of all names.
pub(crate) const ZONE: &str = "clusterset.local";
/// Names that exist.
pub(crate) const NAMES: u32 = 10_000;
/// Questions that are made beforehand and asked in turn.
const QUESTIONS: u32 = 100_000;
/// One in so many asks for a name that does not exist.
const MISSING: u32 = 10;
const SEED: u64 = 7;
/// Where the question begins.
const HEADER: usize = 12;
/// A query's flags and counts: recursion desired, one question.
const FLAGS_AND_COUNTS: [u8; 10] = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
/// Type A, class IN.
const A_IN: [u8; 4] = [0, 1, 0, 1];

/// A name and what it answers: one address, or one of two where tables are swapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) addresses: [Ipv4Addr; 2],
}

/// The namespace and name of service `number`.
pub(crate) fn service(number: u32) -> (String, String) {
    (format!("ns-{}", number % 100), format!("svc-{number}"))
}

/// The name of service `number`.
pub(crate) fn name(number: u32) -> String {
    let (namespace, name) = service(number);
    format!("{name}.{namespace}.svc.{ZONE}")
}

/// Writes names for the parts of this program.
pub(crate) fn write(path: &Path, names: &[Name]) -> io::Result<()> {
    let mut text = String::new();
    for Name { text: name, addresses: [one, other] } in names {
        writeln!(text, "{name} {one} {other}").expect("a String takes everything");
    }
    fs::write(path, text)
}

/// Reads what [`write`] wrote.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Name>> {
    let text = fs::read_to_string(path)?;
    let parsed = text.lines().map(|line| {
        let mut words = line.split(' ');
        let text = words.next()?.to_owned();
        let mut address = || words.next()?.parse().ok();
        Some(Name { text, addresses: [address()?, address()?] })
    });
    let names: Option<Vec<Name>> = parsed.collect();
    names.ok_or_else(|| io::Error::other(format!("{}: not a list of names", path.display())))
}

/// The names that are asked for, in their order; none of a service for those that do not exist.
pub(crate) fn asked(names: &[Name]) -> Vec<(String, Expected)> {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut count = u32::try_from(names.len()).expect("few names");
    count = count.max(1);
    let each = (0..QUESTIONS).map(|number| {
        let drawn = random.random_range(0..count);
        if random.random_range(0..MISSING) == 0 {
            return (format!("nosuch-{number}.ns-{}.svc.{ZONE}", drawn % 100), Expected::NoName);
        }
        let Name { text, addresses } = &names[drawn as usize];
        (text.clone(), Expected::Address(*addresses))
    });
    each.collect()
}

/// What the answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// One of these.
    Address([Ipv4Addr; 2]),
    /// NXDOMAIN with an SOA.
    NoName,
}

/// A right answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The first address.
    First,
    /// The second one.
    Second,
    NoName,
}

/// A message that asks, with the id 0.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) octets: Box<[u8]>,
    expected: Expected,
}

impl Question {
    pub(crate) fn new(name: &str, expected: Expected) -> Self {
        let mut octets = vec![0; 2];
        octets.extend(FLAGS_AND_COUNTS);
        for label in name.split('.') {
            octets.push(u8::try_from(label.len()).expect("a short label"));
            octets.extend(label.bytes());
        }
        octets.push(0);
        octets.extend(A_IN);
        Self { octets: octets.into(), expected }
    }

    /// What an answer says; `None` if it is wrong. Its id is the caller's affair.
    pub(crate) fn check(&self, answer: &[u8]) -> Option<Seen> {
        let end = self.octets.len();
        let [_, _, flags, more, _, questions, _, answers, _, authority, ..] = *answer else {
            return None;
        };
        let is_response = flags & 0x80 != 0 && flags & 0x02 == 0 && questions == 1;
        if !is_response || answer.get(HEADER..end)? != &self.octets[HEADER..] {
            return None;
        }
        match (self.expected, more & 0xF, answers) {
            (Expected::NoName, 3, 0) if authority > 0 => Some(Seen::NoName),
            (Expected::Address(addresses), 0, 1) => {
                let found = address(&answer[end..])?;
                let place = addresses.iter().position(|address| *address == found)?;
                Some(if place == 0 { Seen::First } else { Seen::Second })
            }
            _ => None,
        }
    }
}

/// The address of an A record.
fn address(mut record: &[u8]) -> Option<Ipv4Addr> {
    loop {
        let length = usize::from(*record.first()?);
        match length {
            0 => break record = record.get(1..)?,
            0xC0.. => break record = record.get(2..)?,
            _ => record = record.get(1 + length..)?,
        }
    }
    let data: [u8; 4] = record.get(10..14)?.try_into().ok()?;
    (record[..4] == A_IN && record[8..10] == [0, 4]).then(|| data.into())
}
