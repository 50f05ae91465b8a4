//! DNS sockets and wire encoding of answers.
//!
//! [`Answers`] are compiled whenever a route table is published. [`respond`] turns one message into
//! one message and knows every rule on the wire; the sockets around it only move octets. DNS over
//! TLS is TCP behind a handshake: the same places, the same connections.
//!
//! Invariants: only messages shorter than a header and messages that are answers themselves stay
//! without an answer; an answer carries the id and, where the question could be read, its octets
//! as they came; no UDP answer is longer than 1 232 octets; the answers of one
//! route table are loaded per batch of datagrams or per read of a connection, and never held
//! across an await; between a message and its answer nothing is allocated, locked or awaited.
//!
//! One server may answer for several sites: where clients stand is known by their networks
//! ([`Localities`]), and an EDNS client subnet (RFC 7871) is believed from listed forwarders only.
//! What may be out of date ([`Staleness`]) is answered as ever, marked for who speaks EDNS.
//!
//! Answers leave from the address that was asked: most sockets are bound to one, and with those of
//! a wildcard address the kernel tells each packet's destination (not with `dns.io: portable`, which
//! is said at start).
//!
//! Not here: what a name answers (`zone`), when to open the sockets and how long to announce the
//! end (`app`).

mod answers;
mod batch;
mod block;
mod connection;
mod dot;
mod encode;
mod lane;
mod limit;
mod localities;
mod metrics;
mod packed;
mod portable;
mod query;
mod reply;
mod respond;
mod scrape;
mod server;
mod shared;
mod slots;
mod soa;
mod tally;
mod tcp;
mod udp;

#[cfg(test)]
mod tests;

pub use answers::{Answers, Compiler, SharedAnswers, Staleness};
pub use dot::ALPN;
pub use limit::Limiter;
pub use localities::Localities;
pub use metrics::Metrics;
pub use respond::{Policy, Received, Responded, Transport, respond};
pub use server::{Config, DEFAULT_TCP_PER_SOURCE, DEFAULT_TCP_TOTAL, Error, Server, Ttl};
pub use udp::Io;
