//! Names with their records in one piece of memory: a question that finds its name reads one
//! place, and a name costs little more than its octets.
//!
//! Layout, numbers little-endian: the count of names; for each, in the order of their prefixes,
//! where it begins; then the names, each {length of the prefix, prefix, count of sets, sets}, a
//! set being a head of [`HEAD_OCTETS`] and its records. Written and read here only.

/// Octets of a number.
const NUMBER: usize = 4;
/// Type, order, and four numbers.
const HEAD_OCTETS: usize = 3 + 4 * NUMBER;

/// The records of one type at one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set<'a> {
    pub(super) qtype: u16,
    /// The order means nearest first: never rotated.
    pub(super) ordered: bool,
    /// The answer section's records, one after the other, and how many. No octets for an SOA,
    /// which is written with each answer.
    pub(super) answers: &'a [u8],
    pub(super) answer_count: u32,
    /// Those of the additional section.
    pub(super) additional: &'a [u8],
    pub(super) additional_count: u32,
}

/// A set before it is packed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LooseSet {
    pub(super) qtype: u16,
    pub(super) ordered: bool,
    pub(super) answers: Vec<u8>,
    pub(super) answer_count: u32,
    pub(super) additional: Vec<u8>,
    pub(super) additional_count: u32,
}

/// A name before it is packed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LooseName {
    /// The labels left of the service's (of the apex for the zone's own), on the wire.
    pub(super) prefix: Vec<u8>,
    /// In the order in which ANY looks for one.
    pub(super) sets: Vec<LooseSet>,
}

/// Appends names, which must be sorted by their prefixes.
pub(super) fn pack<'n>(names: impl ExactSizeIterator<Item = &'n LooseName>, out: &mut Vec<u8>) {
    let begin = out.len();
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
    let short = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    out.extend(number(names.len()));
    out.resize(out.len() + NUMBER * names.len(), 0);
    for (index, name) in names.enumerate() {
        let at = out.len() - begin;
        let entry = begin + NUMBER * (1 + index);
        out[entry..entry + NUMBER].copy_from_slice(&number(at));
        out.push(short(name.prefix.len()));
        out.extend(&name.prefix);
        out.push(short(name.sets.len()));
        for set in &name.sets {
            out.extend(set.qtype.to_le_bytes());
            out.push(u8::from(set.ordered));
            out.extend(number(set.answers.len()));
            out.extend(set.answer_count.to_le_bytes());
            out.extend(number(set.additional.len()));
            out.extend(set.additional_count.to_le_bytes());
            out.extend(&set.answers);
            out.extend(&set.additional);
        }
    }
}

/// The sets of the name with that prefix among `names` as [`pack`] wrote them.
pub(super) fn find<'a>(names: &'a [u8], prefix: &[u8]) -> Option<Sets<'a>> {
    let (mut low, mut high) = (0, number(names, 0));
    // Nearly all questions are for the name without a prefix, which is the first.
    if prefix.is_empty() {
        high = high.min(1);
    }
    while low < high {
        let middle = low + (high - low) / 2;
        let name = &names[number(names, NUMBER * (1 + middle))..];
        let length = usize::from(name[0]);
        match name[1..=length].cmp(prefix) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => {
                return Some(Sets { left: name[1 + length], octets: &name[2 + length..] });
            }
        }
    }
    None
}

/// The sets of a name, one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sets<'a> {
    left: u8,
    octets: &'a [u8],
}

impl<'a> Iterator for Sets<'a> {
    type Item = Set<'a>;

    fn next(&mut self) -> Option<Set<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (head, rest) = self.octets.split_at(HEAD_OCTETS);
        let (answers, rest) = rest.split_at(number(head, 3));
        let (additional, rest) = rest.split_at(number(head, 3 + 2 * NUMBER));
        self.octets = rest;
        Some(Set {
            qtype: u16::from_le_bytes([head[0], head[1]]),
            ordered: head[2] != 0,
            answers,
            answer_count: count(head, 3 + NUMBER),
            additional,
            additional_count: count(head, 3 + 3 * NUMBER),
        })
    }
}

fn count(octets: &[u8], at: usize) -> u32 {
    octets.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |number| u32::from_le_bytes(*number))
}

fn number(octets: &[u8], at: usize) -> usize {
    usize::try_from(count(octets, at)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_set() -> impl Strategy<Value = LooseSet> {
        let octets = || proptest::collection::vec(any::<u8>(), 0..40);
        (any::<(u16, bool, u32, u32)>(), octets(), octets()).prop_map(|(numbers, one, other)| {
            let (qtype, ordered, answer_count, additional_count) = numbers;
            let (answers, additional) = (one, other);
            LooseSet { qtype, ordered, answers, answer_count, additional, additional_count }
        })
    }

    proptest! {
        #[test]
        fn what_is_packed_is_found(
            names in proptest::collection::btree_map(
                proptest::collection::vec(any::<u8>(), 0..5),
                proptest::collection::vec(any_set(), 0..4),
                0..9,
            ),
            other in proptest::collection::vec(any::<u8>(), 0..5),
            before in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let names: Vec<_> =
                names.into_iter().map(|(prefix, sets)| LooseName { prefix, sets }).collect();
            let mut octets = before.clone();
            pack(names.iter(), &mut octets);
            let packed = &octets[before.len()..];
            for name in &names {
                let found: Vec<_> = find(packed, &name.prefix).unwrap().collect();
                prop_assert_eq!(found.len(), name.sets.len());
                for (found, set) in found.iter().zip(&name.sets) {
                    prop_assert_eq!(found.qtype, set.qtype);
                    prop_assert_eq!(found.ordered, set.ordered);
                    prop_assert_eq!(found.answers, &set.answers[..]);
                    prop_assert_eq!(found.additional, &set.additional[..]);
                    prop_assert_eq!(found.answer_count, set.answer_count);
                    prop_assert_eq!(found.additional_count, set.additional_count);
                }
            }
            let known = names.iter().any(|name| name.prefix == other);
            prop_assert_eq!(find(packed, &other).is_some(), known);
        }
    }
}
