//! Trust that is handed over in memory, by whoever watches the objects that hold it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::Error;
use super::folder::{Folder, PeerFile, PeerFiles};
use super::pair::Pair;
use crate::model::ClusterId;

/// The own identity and the bundles of the peers, whole: what is missing was taken away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supply {
    /// The own identity; `None`: it cannot be read now, and the last good one stays.
    pub own: Option<Arc<Pair>>,
    /// The authorities pinned for each peer, PEM.
    pub peers: BTreeMap<ClusterId, Arc<str>>,
}

impl Supply {
    /// As a trust folder; `name` is what messages call the own identity.
    pub(super) fn read(&self, name: &Path) -> Folder {
        let own = match &self.own {
            Some(pair) => Ok(Pair::clone(pair).into_files(name)),
            None => Err(Error::invalid(name, "it is not there; restore it")),
        };
        let bundle = |(cluster, pem): (&ClusterId, &Arc<str>)| {
            let path = PathBuf::from(format!("the bundle of Peer {cluster}"));
            (cluster.clone(), PeerFile { path, content: Ok(pem.as_bytes().to_vec()) })
        };
        let bundles = self.peers.iter().map(bundle).collect();
        Folder { own, peers: Ok(Some(PeerFiles { bundles, strays: Vec::new() })) }
    }
}
