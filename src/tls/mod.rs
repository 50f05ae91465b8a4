//! Identities, bundles, rustls configurations, and the one listener of the gateway port.
//!
//! Each cluster has its own authority, pinned to its name: what one authority signs speaks for
//! one cluster and no other. [`Trust`] holds the own leaf and the pinned bundles and keeps them
//! current; [`Dialer`] and [`Listener`] make connections of them, told apart by [`Kind`].
//!
//! Invariants: between gateways TLS 1.3 only, mutual, never resumed (a resumed session would skip
//! the check of the client's certificate); a [`PeerIdentity`] is made only here, after the chain
//! was verified against the bundle pinned for its name alone and its one URI was compared; exactly
//! one ALPN is offered and checked on both sides; every refusal is counted under one reason and
//! said in one line; a bad change of the folder or the [`Supply`] leaves the last good in force.
//! Servers whose clients show no certificate (DNS over TLS) take theirs from a
//! [`ServerCertificate`], which is apart from all that: it says who we are, and asks nobody.
//! Not here: what connections carry. Closing live ones when trust ends is their owners' part: they
//! watch [`Trust::generation`], ask [`Trust::still_trusts`] and mind [`PeerIdentity::expires`].

mod bundle;
mod chain;
mod config;
mod dialer;
mod error;
mod fingerprint;
mod folder;
mod identity;
mod issue;
mod kind;
mod limits;
mod listener;
mod lobby;
mod material;
mod metrics;
mod pair;
mod refusal;
mod server;
mod socket;
mod supply;
mod trust;
mod verify;

pub use config::Config;
pub use dialer::{Dialed, Dialer};
pub use error::{DialError, Error};
pub use identity::{IdentityError, PeerIdentity};
pub use issue::{init, new_authority};
pub use kind::Kind;
pub use limits::Limits;
pub use listener::{Accepted, Handlers, Listener};
pub use lobby::Lease;
pub use metrics::Metrics;
pub use pair::Pair;
pub use refusal::Refusal;
pub use server::{CertificateFiles, ServerCertificate};
pub use socket::set_user_timeout;
pub use supply::Supply;
pub use trust::Trust;

/// A connection between gateways, either side.
pub type Stream = tokio_rustls::TlsStream<tokio::net::TcpStream>;

#[cfg(test)]
mod tests;
