//! The caps of the gateway port.

use std::time::Duration;

/// The caps of the gateway port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections that have not shown who they are; the oldest is evicted when full.
    pub unauthenticated: usize,
    /// Of these, from one source (an IPv4 address or an IPv6 /64).
    pub per_source: usize,
    /// The same for sources that hold an authenticated connection.
    pub per_known_source: usize,
    /// For the whole handshake.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unauthenticated: 1024,
            per_source: 32,
            per_known_source: 512,
            handshake: Duration::from_secs(5),
        }
    }
}
