//! The zone's SOA record, written with each answer that holds one: its serial moves with every
//! table, its TTL with the configuration, and its owner is a pointer into whatever was asked.

use super::encode::{CLASS_IN, pointer, push_label, rtype};
use super::query::MAX_NAME_OCTETS;
use crate::model::DnsName;
use crate::zone::server_name;

/// The mailbox's label; nobody reads it.
const MAILBOX: &str = "hostmaster";
/// Refresh, retry and expire in seconds: for secondaries, of which there are none.
const TIMES: [u32; 3] = [7200, 1800, 86_400];

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
        let below = |label: &str| {
            let mut octets = Vec::new();
            push_label(label, &mut octets);
            octets
        };
        let server = server_name(zone);
        let server = server.strip_suffix(zone.as_str()).unwrap_or_default();
        let server: Vec<u8> = server.split('.').filter(|l| !l.is_empty()).flat_map(below).collect();
        let mailbox = below(MAILBOX);
        let fits = mailbox.len() + zone.as_str().len() + 2 <= MAX_NAME_OCTETS;
        let mailbox = if fits { mailbox } else { Vec::new() };
        Self { server: server.into(), mailbox: mailbox.into() }
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
        for number in [serial, TIMES[0], TIMES[1], TIMES[2], ttl] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}
