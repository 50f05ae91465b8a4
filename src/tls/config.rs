//! Who we are, as the configuration says.

use std::path::PathBuf;

use crate::model::{ClusterId, DnsName};

/// Who we are and where our keys lie.
#[derive(Debug, Clone)]
pub struct Config {
    /// The own cluster.
    pub cluster: ClusterId,
    /// The trust domain.
    pub clusterset: DnsName,
    /// The folder with `cert.pem`, `key.pem`, `ca.pem`, optional `ca.key` and `peers/`.
    pub dir: PathBuf,
}
