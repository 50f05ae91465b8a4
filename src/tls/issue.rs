//! Issuing: a cluster's authority and its leaves.

use std::path::Path;

use super::error::Error;
use crate::model::{ClusterId, DnsName};

/// Makes a trust folder: `ca.pem`, `ca.key`, `cert.pem`, `key.pem`, empty `peers/`.
pub fn init(dir: &Path, _cluster: &ClusterId, _clusterset: &DnsName) -> Result<(), Error> {
    Err(Error::Exists(dir.to_path_buf()))
}
