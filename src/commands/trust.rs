//! `trust init` and `trust show`: the keys of a cluster.

use std::io::Write as _;
use std::path::Path;

use super::{Exit, complain, print};
use crate::model::{ClusterId, DnsName};
use crate::tls;

/// `portolan trust init`: makes an authority, a first certificate and an empty `peers/`.
#[must_use]
pub fn init(dir: &Path, cluster: &ClusterId, clusterset: &DnsName) -> Exit {
    if let Err(error) = tls::init(dir, cluster, clusterset) {
        complain(&error);
        return Exit::Wrong;
    }
    let dir = dir.display();
    print(|out| {
        writeln!(out, "made {dir} for cluster {cluster} of {clusterset}:")?;
        writeln!(out, "  ca.pem   the authority: copy it to each peer as peers/{cluster}.pem")?;
        writeln!(out, "  ca.key   its key (10 years): keep it secret; 'run' renews from it")?;
        writeln!(out, "  cert.pem, key.pem   the first certificate (24 h)")?;
        writeln!(out, "  peers/   put every peer's ca.pem here as <cluster>.pem")?;
        Ok(Exit::Good)
    })
}
