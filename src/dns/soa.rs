//! The zone's SOA record, written with each answer that holds one: its serial moves with every
//! table, its TTL with the configuration, and its owner is a pointer into whatever was asked.

use super::encode::{CLASS_IN, pointer, push_label, rtype};
use crate::model::DnsName;
use crate::zone::{SOA_TIMES, mailbox_name, server_name};

/// All that stays the same.
#[derive(Debug)]
pub(super) struct Soa {
    /// The labels of the name server and of the mailbox left of the zone's name.
    server: Box<[u8]>,
    mailbox: Box<[u8]>,
}

impl Soa {
    pub(super) fn new(zone: &DnsName) -> Self {
        // A zone too long to hold a name below it is its own server, and its own mailbox.
        let below = |name: Box<str>| {
            let mut octets = Vec::new();
            let labels = name.strip_suffix(zone.as_str()).unwrap_or_default();
            let labels = labels.split('.').filter(|label| !label.is_empty());
            labels.for_each(|label| push_label(label, &mut octets));
            octets.into()
        };
        Self { server: below(server_name(zone)), mailbox: below(mailbox_name(zone)) }
    }

    /// Appends the record; the zone's name stands at `apex` in the message.
    pub(super) fn push(&self, apex: usize, ttl: u32, serial: u32, out: &mut Vec<u8>) {
        let apex = pointer(apex);
        out.extend_from_slice(&apex);
        out.extend_from_slice(&rtype::SOA.to_be_bytes());
        out.extend_from_slice(&CLASS_IN.to_be_bytes());
        out.extend_from_slice(&ttl.to_be_bytes());
        // Two names of at most 14 octets each, and five numbers.
        let length = self.server.len() + self.mailbox.len() + 2 * apex.len() + 5 * 4;
        out.extend_from_slice(&u16::try_from(length).unwrap_or(0).to_be_bytes());
        for labels in [&self.server, &self.mailbox] {
            out.extend_from_slice(labels);
            out.extend_from_slice(&apex);
        }
        for number in [serial, SOA_TIMES[0], SOA_TIMES[1], SOA_TIMES[2], ttl] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}
