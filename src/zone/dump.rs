//! The whole zone in the words of a master file (RFC 1035, section 5.1): what another server
//! would have to be given to answer the same.
//!
//! Two tables that answer the same make the same dump: names in the order of their labels from
//! the right, records by type and value, so the order in which a headless name is answered is not
//! told. Nor are names without records: those above other names come by themselves, the rest
//! (`ns.dns.<zone>`, and `svc.<zone>` while nothing is imported) no master file can hold.
//! Not here: comments, JSON, and how it gets to whoever asked.

use std::iter;
use std::sync::Arc;
use std::vec;

use super::answer::{RecordData, ZoneConfig, serial};
use super::name::{self, SERVICES};
use super::names::{Name, service_names, zone_names};
use crate::model::DnsName;
use crate::routes::{Route, RouteTable};

/// The SOA's refresh, retry and expire in seconds: for secondaries, of which there are none.
pub const SOA_TIMES: [u32; 3] = [7200, 1800, 86_400];

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The owner's full name, without the final dot.
    pub owner: Box<str>,
    /// The type's mnemonic.
    pub rtype: &'static str,
    /// The data as a master file has it; names in it are full and end in a dot.
    pub data: String,
}

/// The zone of one table: first the lines of its own names, SOA before all, then each service's.
#[derive(Debug, Clone)]
pub struct Dump {
    config: ZoneConfig,
    revision: u64,
    serial: u32,
    own: bool,
    services: vec::IntoIter<Arc<Route>>,
}

impl Dump {
    /// Takes hold of a table; lines are made as they are asked for.
    #[must_use]
    pub fn new(table: &RouteTable, config: &ZoneConfig) -> Self {
        let mut services: Vec<_> = table.services.values().map(Arc::clone).collect();
        services.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        Self {
            config: config.clone(),
            revision: table.revision,
            serial: serial(table),
            own: true,
            services: services.into_iter(),
        }
    }

    /// The apex.
    #[must_use]
    pub fn zone(&self) -> &DnsName {
        &self.config.zone
    }

    /// The TTL of every record, seconds.
    #[must_use]
    pub fn ttl_seconds(&self) -> u32 {
        self.config.ttl_seconds
    }

    /// The SOA's serial.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// The revision of the table.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many records are still to come; makes them all once.
    #[must_use]
    pub fn records(&self) -> usize {
        self.clone().map(|lines| lines.len()).sum()
    }

    fn lines(&self, mut names: Vec<Name>, base: &str) -> Vec<Line> {
        names.sort_by(|one, other| one.labels.iter().rev().cmp(other.labels.iter().rev()));
        let mut lines = Vec::new();
        for name in names {
            let labels = name.labels.iter().map(AsRef::as_ref).chain(iter::once(base));
            // What is longer than DNS allows cannot be asked for.
            let Some(owner) = name::fitting(labels.collect::<Vec<&str>>().join(".")) else {
                continue;
            };
            for set in name.sets {
                let mut data: Vec<_> = set.records.into_iter().map(|record| record.data).collect();
                data.sort_unstable();
                lines.extend(data.iter().map(|data| {
                    let (rtype, data) = text(data, &self.config);
                    Line { owner: owner.clone(), rtype, data }
                }));
            }
        }
        lines
    }
}

impl Iterator for Dump {
    type Item = Vec<Line>;

    fn next(&mut self) -> Option<Vec<Line>> {
        let zone = &self.config.zone;
        if std::mem::take(&mut self.own) {
            return Some(self.lines(zone_names(&self.config, self.serial), zone.as_str()));
        }
        let route = self.services.next()?;
        let base = format!("{}.{}.{SERVICES}.{zone}", route.key.name, route.key.namespace);
        Some(self.lines(service_names(&route, &self.config), &base))
    }
}

/// The type's mnemonic, and the data.
fn text(data: &RecordData, config: &ZoneConfig) -> (&'static str, String) {
    match data {
        RecordData::A(address) => ("A", address.to_string()),
        RecordData::Aaaa(address) => ("AAAA", address.to_string()),
        RecordData::Srv { priority, weight, port, target } => {
            ("SRV", format!("{priority} {weight} {port} {target}."))
        }
        RecordData::Txt(text) => ("TXT", quoted(text)),
        RecordData::Soa { serial } => {
            let (server, mailbox) =
                (name::server_name(&config.zone), name::mailbox_name(&config.zone));
            let [refresh, retry, expire] = SOA_TIMES;
            let minimum = config.ttl_seconds;
            ("SOA", format!("{server}. {mailbox}. {serial} {refresh} {retry} {expire} {minimum}"))
        }
        RecordData::Ns(name) => ("NS", format!("{name}.")),
    }
}

/// One character-string; octets that a reader could take for something else as `\DDD`.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for octet in text.bytes() {
        match octet {
            b'"' | b'\\' => quoted.extend(['\\', char::from(octet)]),
            b' '..=b'~' => quoted.push(char::from(octet)),
            _ => quoted.push_str(&format!("\\{octet:03}")),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
