//! Bundles: the certificate authorities pinned for one cluster.

/// SHA-256 of a bundle's certificates: two bundles with one fingerprint trust the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(pub(super) [u8; 32]);
