//! Who a certificate speaks for.

use std::time::SystemTime;

use thiserror::Error;

use super::bundle::Fingerprint;
use crate::model::ClusterId;

/// A proof: the holder's leaf was verified against the bundle pinned for its cluster. Only this
/// module tree makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    cluster: ClusterId,
    expires: SystemTime,
    bundle: Fingerprint,
}

impl PeerIdentity {
    pub(super) fn new(cluster: ClusterId, expires: SystemTime, bundle: Fingerprint) -> Self {
        Self { cluster, expires, bundle }
    }

    /// The cluster it speaks for.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// When its leaf ends (wall time): control, probe and idle connections close then.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    pub(super) fn bundle(&self) -> Fingerprint {
        self.bundle
    }
}

/// What is wrong with a leaf's names.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// Not an X.509 certificate.
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
}
