//! Records as octets, written once when a route changes, to be copied behind any question that
//! asks for them.
//!
//! Names are compressed against the question's name only, which is the same for all who ask: an
//! owner becomes a pointer to it (0xC00C), other names share its longest common suffix. SRV
//! targets are written out (RFC 2782). The TTL stays 0 here: it is put in with the copy.

use crate::zone::{Record, RecordData};

use super::query::HEADER_OCTETS;

/// Type numbers (RFC 1035, section 3.2.2; RFC 3596; RFC 2782).
pub(super) mod rtype {
    pub(in crate::dns) const A: u16 = 1;
    pub(in crate::dns) const NS: u16 = 2;
    pub(in crate::dns) const SOA: u16 = 6;
    pub(in crate::dns) const TXT: u16 = 16;
    pub(in crate::dns) const AAAA: u16 = 28;
    pub(in crate::dns) const SRV: u16 = 33;
    pub(in crate::dns) const OPT: u16 = 41;
    pub(in crate::dns) const IXFR: u16 = 251;
    pub(in crate::dns) const AXFR: u16 = 252;
    pub(in crate::dns) const ANY: u16 = 255;
}

/// EDNS option codes.
pub(super) mod option {
    /// RFC 7871.
    pub(in crate::dns) const CLIENT_SUBNET: u16 = 8;
    /// RFC 8914.
    pub(in crate::dns) const EXTENDED_ERROR: u16 = 15;
}

/// The class of everything here.
pub(super) const CLASS_IN: u16 = 1;
/// Octets between a record's owner and its data.
pub(super) const FIXED_OCTETS: usize = 10;
/// The two high bits that mark a pointer (RFC 1035, section 4.1.4).
const POINTER: u16 = 0xC000;

/// A pointer to that place of a message. Only names within the question's are pointed at, which
/// ends 267 octets from the beginning at the latest.
pub(super) fn pointer(at: usize) -> [u8; 2] {
    (POINTER | u16::try_from(at).unwrap_or(0)).to_be_bytes()
}

/// Text of a name as octets on the wire, with the root label.
pub(super) fn wire_name(name: &str) -> Vec<u8> {
    let mut octets = Vec::with_capacity(name.len() + 2);
    name.split('.').for_each(|label| push_label(label, &mut octets));
    octets.push(0);
    octets
}

/// Appends one label in lower case.
pub(super) fn push_label(label: &str, out: &mut Vec<u8>) {
    let octets = label.as_bytes();
    out.push(u8::try_from(octets.len()).unwrap_or(0));
    out.extend(octets.iter().map(u8::to_ascii_lowercase));
}

/// The name that a question asks for.
#[derive(Debug)]
pub(super) struct Asked<'n> {
    labels: Vec<&'n str>,
}

impl<'n> Asked<'n> {
    /// `name` is the whole name as text.
    pub(super) fn new(name: &'n str) -> Self {
        Self { labels: name.split('.').collect() }
    }

    /// Appends one record.
    pub(super) fn push(&self, record: &Record, out: &mut Vec<u8>) {
        match &record.owner {
            Some(owner) => self.push_name(owner, out),
            None => out.extend(pointer(HEADER_OCTETS)),
        }
        out.extend(number(&record.data).to_be_bytes());
        out.extend(CLASS_IN.to_be_bytes());
        out.extend([0; 4]);
        let length_at = out.len();
        out.extend([0; 2]);
        self.push_data(&record.data, out);
        // The longest data here is a TXT of 256 octets.
        let length = u16::try_from(out.len() - length_at - 2).unwrap_or(0);
        out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }

    fn push_data(&self, data: &RecordData, out: &mut Vec<u8>) {
        match data {
            RecordData::A(address) => out.extend(address.octets()),
            RecordData::Aaaa(address) => out.extend(address.octets()),
            RecordData::Srv { priority, weight, port, target } => {
                [priority, weight, port].iter().for_each(|n| out.extend(n.to_be_bytes()));
                out.extend(wire_name(target));
            }
            RecordData::Txt(text) => {
                let octets = text.as_bytes();
                let length = u8::try_from(octets.len()).unwrap_or(u8::MAX);
                out.push(length);
                out.extend(&octets[..usize::from(length)]);
            }
            RecordData::Ns(server) => self.push_name(server, out),
            // Written with each answer: its serial moves without any name's answer changing.
            RecordData::Soa { .. } => {}
        }
    }

    /// A name, its longest suffix in common with the question's as a pointer.
    fn push_name(&self, name: &str, out: &mut Vec<u8>) {
        let labels: Vec<&str> = name.split('.').collect();
        let pairs = labels.iter().rev().zip(self.labels.iter().rev());
        let common = pairs.take_while(|(one, other)| one.eq_ignore_ascii_case(other)).count();
        labels[..labels.len() - common].iter().for_each(|label| push_label(label, out));
        if common == 0 {
            out.push(0);
            return;
        }
        let before = &self.labels[..self.labels.len() - common];
        out.extend(pointer(
            HEADER_OCTETS + before.iter().map(|label| label.len() + 1).sum::<usize>(),
        ));
    }
}

/// The type number of that data.
pub(super) fn number(data: &RecordData) -> u16 {
    match data {
        RecordData::A(_) => rtype::A,
        RecordData::Aaaa(_) => rtype::AAAA,
        RecordData::Srv { .. } => rtype::SRV,
        RecordData::Txt(_) => rtype::TXT,
        RecordData::Soa { .. } => rtype::SOA,
        RecordData::Ns(_) => rtype::NS,
    }
}

/// Octets of the record at the beginning of `octets`, as [`Asked::push`] wrote it.
pub(super) fn record_octets(octets: &[u8]) -> (usize, usize) {
    let mut owner = 0;
    loop {
        match octets.get(owner).copied() {
            Some(length @ 1..0xC0) => owner += 1 + usize::from(length),
            Some(0xC0..) => {
                owner += 2;
                break;
            }
            _ => {
                owner += 1;
                break;
            }
        }
    }
    let length = octets.get(owner + FIXED_OCTETS - 2..owner + FIXED_OCTETS);
    let data = length.map_or(0, |octets| usize::from(u16::from_be_bytes([octets[0], octets[1]])));
    (owner, owner + FIXED_OCTETS + data)
}
