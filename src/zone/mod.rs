//! What a name answers: the name grammar and `answer(&RouteTable, &Question) -> Answer`.
//!
//! An answer is data; encoding is the `dns` edge's. Pure and synchronous. [`answer`] is the
//! definition, and [`answer_at`] that for clients elsewhere; [`service_names`] and [`zone_names`]
//! list what they answer, name by name, for who compiles answers ahead of the questions, and
//! [`Dump`] writes them down for other servers.
//! Invariants: nothing outside the zone is answered (labels decide, not suffixes of text); a
//! name that exists without the asked type is an empty answer with SOA, never NXDOMAIN; an
//! answer that is `Found` holds at least one record; no two records of an answer are equal.
//!
//! Choices where KEP-1645 leaves room: `<clusterid>.<service>…` is an empty non-terminal while
//! pods' names stand below it, else it does not exist; `ns.dns.<zone>` (the NS target) exists
//! without an address; `svc.<zone>` exists always, `<ns>.svc.<zone>` while something in that
//! namespace is imported; a name with `dns: endpoints` whose endpoints cannot be reached directly
//! answers its clusterset address; SRV priorities of a headless name rise with the distance, and
//! its SRV ports are those at the endpoints' addresses, as clients dial them, not the Service's.
//! Not here: EDNS, transports, message ids, how many records fit.

mod answer;
mod dump;
mod name;
mod names;
mod records;
#[cfg(test)]
mod tests;

pub use answer::{
    Answer, Outcome, QueryType, Question, Record, RecordData, SCHEMA_VERSION, ZoneConfig,
    addresses, answer, answer_at, serial,
};
pub use dump::{Dump, Line, SOA_TIMES};
pub use name::{NameError, mailbox_name, parse_name, server_name};
pub use names::{Name, RecordSet, service_names, zone_names};
