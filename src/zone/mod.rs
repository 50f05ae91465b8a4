//! What a name answers: the name grammar and `answer(&RouteTable, &Question) -> Answer`.
//!
//! An answer is data; encoding is the `dns` edge's. Pure and synchronous.
//! Invariants: nothing outside the zone is answered (labels decide, not suffixes of text); a
//! name that exists without the asked type is an empty answer with SOA, never NXDOMAIN.
//! Not here: EDNS, transports, message ids.

mod answer;

pub use answer::{Answer, Outcome, QueryType, Question, Record, RecordData, ZoneConfig};
