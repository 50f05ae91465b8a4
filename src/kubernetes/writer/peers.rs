//! The status of Peers and ServiceExports: what was written, so that it is not read again for
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::ServiceKey;
use crate::objects::{ExportStatus, PeerStatus};

/// How often the status of one Peer is written at most: round trips change all the time.
const PEER_EVERY: Duration = Duration::from_secs(5);
/// How long what was written is believed to be there still: others may write these objects too.
const BELIEVED: Duration = Duration::from_secs(600);

/// What was written, and of Peers what should be.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    peers: Arc<BTreeMap<Box<str>, PeerStatus>>,
    written_peers: BTreeMap<Box<str>, (PeerStatus, Instant)>,
    written_exports: BTreeMap<ServiceKey, (ExportStatus, Instant)>,
}

impl Statuses {
    /// What the status of every Peer should be.
    pub(super) fn take_peers(&mut self, peers: Arc<BTreeMap<Box<str>, PeerStatus>>) {
        self.written_peers.retain(|name, _| peers.contains_key(name));
        self.peers = peers;
    }

    /// What the status of a Peer should be.
    pub(super) fn peer(&self, name: &str) -> Option<&PeerStatus> {
        self.peers.get(name)
    }

    /// The Peers whose status differs from what was written, and from when it may be written.
    pub(super) fn peers_due(&self, now: Instant) -> Vec<(Box<str>, Instant)> {
        let mut due = Vec::new();
        for (name, wanted) in self.peers.iter() {
            match self.written_peers.get(name) {
                Some((written, _)) if written == wanted => {}
                Some((_, at)) => due.push((name.clone(), (*at + PEER_EVERY).max(now))),
                None => due.push((name.clone(), now)),
            }
        }
        due
    }

    /// Whether a ServiceExport's status may differ from `wanted`.
    pub(super) fn export_differs(&self, wanted: &ExportStatus) -> bool {
        self.written_exports.get(&wanted.key).is_none_or(|(written, _)| written != wanted)
    }

    /// A Peer has that status.
    pub(super) fn wrote_peer(&mut self, name: &str, status: PeerStatus, now: Instant) {
        self.written_peers.insert(name.into(), (status, now));
    }

    /// A ServiceExport has that status.
    pub(super) fn wrote_export(&mut self, status: ExportStatus, now: Instant) {
        self.written_exports.insert(status.key.clone(), (status, now));
    }

    /// Forgets what was written so long ago that it is worth a look.
    pub(super) fn tidy(&mut self, now: Instant) {
        let recent = |at: &Instant| now.saturating_duration_since(*at) < BELIEVED;
        self.written_peers.retain(|_, (_, at)| recent(at));
        self.written_exports.retain(|_, (_, at)| recent(at));
    }

    /// Another may have written since.
    pub(super) fn begin(&mut self) {
        self.written_peers.clear();
        self.written_exports.clear();
    }
}
