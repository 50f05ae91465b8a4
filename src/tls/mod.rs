//! Identities, bundles, rustls configurations, and the one listener of the gateway port.

mod bundle;
mod dialer;
mod error;
mod folder;
mod identity;
mod issue;
mod kind;
mod listener;
mod lobby;
mod material;
mod metrics;
mod refusal;
mod socket;
mod trust;
mod verify;

pub use dialer::{Dialed, Dialer};
pub use error::{DialError, Error};
pub use identity::{IdentityError, PeerIdentity};
pub use issue::init;
pub use kind::Kind;
pub use listener::{Accepted, Handlers, Lease, Limits, Listener};
pub use metrics::Metrics;
pub use refusal::Refusal;
pub use socket::set_user_timeout;
pub use trust::{Config, Trust};

/// A connection between gateways, either side.
pub type Stream = tokio_rustls::TlsStream<tokio::net::TcpStream>;

#[cfg(test)]
mod tests;
