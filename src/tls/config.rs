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
    /// The folder with `cert.pem`, `key.pem`, `ca.pem`, optional `ca.key` and `peers/`; instead of
    /// the first four also `tls.crt`, `tls.key` and `ca.crt`, as of a mounted Secret. Where trust
    /// is supplied: what messages call it, such as `Secret portolan-system/portolan-ca`.
    pub dir: PathBuf,
}
