//! Who is probed: every replica that health knows, and every address where none is known yet.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::pool::Tunnel;
use super::probe::{self, Find};
use super::{Gateway, Shared};
use crate::backoff::Backoff;
use crate::clock;
use crate::drain::{Phase, Watch};
use crate::health::{Fact, PeerState, Target};
use crate::model::ClusterId;

/// How often our own loop looks at the clock.
const LAG_STEP: Duration = Duration::from_millis(100);
/// More than this late is a lag that voids a round of probes.
const LAG: Duration = Duration::from_millis(200);
/// A replica seen is probed for so long before health has to know it.
const GRACE: Duration = Duration::from_secs(10);
/// Found connections waiting for their prober.
const FINDS: usize = 64;
/// Pauses between dials of an address where no replica is known.
const SEARCH_PAUSE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(1));
/// The same while the peer is Down.
const DOWN_PAUSE: Duration = Duration::from_millis(300);

struct Probed {
    task: AbortHandle,
    since: Instant,
}

struct Probes {
    shared: Arc<Shared>,
    probed: HashMap<Target, Probed>,
    searched: HashMap<(ClusterId, SocketAddr), AbortHandle>,
    tasks: JoinSet<()>,
    finds: mpsc::Sender<Find>,
}

impl Gateway {
    /// Probes every replica of every peer, and looks for replicas at addresses where none is
    /// known.
    pub async fn run_probes(self, mut drain: Watch) {
        let shared = self.shared;
        let (finds, mut found) = mpsc::channel(FINDS);
        let mut probes = Probes {
            shared: Arc::clone(&shared),
            probed: HashMap::new(),
            searched: HashMap::new(),
            tasks: JoinSet::new(),
            finds,
        };
        let mut changed = shared.changed.clone();
        let mut due = clock::now();
        loop {
            probes.reconcile();
            tokio::select! {
                Ok(()) = changed.changed() => {}
                Some(find) = found.recv() => probes.take(find),
                Some(ended) = probes.tasks.join_next() => {
                    if !ended.as_ref().is_err_and(|error| error.is_cancelled()) {
                        shared.note_panic(ended);
                    }
                }
                () = tokio::time::sleep_until(due.into()) => {
                    let now = clock::now();
                    let by = now.saturating_duration_since(due);
                    if by > LAG {
                        tracing::debug!(?by, "the own loop lagged");
                        shared.news.tell(Fact::Lagged { by, at: now });
                    }
                    due = now + LAG_STEP;
                }
                () = drain.reached(Phase::Forced) => return,
            }
        }
    }
}

impl Probes {
    fn reconcile(&mut self) {
        let table = self.shared.routes.load_full();
        let now = clock::now();
        let known: BTreeSet<&Target> = table
            .peers
            .values()
            .flat_map(|status| status.health.replicas.iter().map(|view| &view.target))
            .collect();
        self.probed.retain(|target, probed| {
            let is_peer = table.peers.contains_key(&target.peer);
            let young = now.duration_since(probed.since) < GRACE;
            let keep = is_peer && (young || known.contains(target)) && !probed.task.is_finished();
            if !keep {
                probed.task.abort();
            }
            keep
        });
        for target in known {
            if !self.probed.contains_key(target) {
                self.probe(target.clone(), None);
            }
        }
        let mut bare = BTreeSet::new();
        for (peer, status) in &table.peers {
            for address in &status.addresses {
                let covered = self.probed.keys().any(|t| t.peer == *peer && t.address == *address);
                if !covered {
                    bare.insert((peer.clone(), *address));
                }
            }
        }
        self.searched.retain(|place, task| {
            let keep = bare.contains(place) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        for (peer, address) in bare {
            let place = (peer.clone(), address);
            if !self.searched.contains_key(&place) {
                let search = search(Arc::clone(&self.shared), peer, address, self.finds.clone());
                self.searched.insert(place, self.tasks.spawn(search));
            }
        }
    }

    fn probe(&mut self, target: Target, standing: Option<Tunnel>) {
        let (shared, finds) = (Arc::clone(&self.shared), self.finds.clone());
        let task = self.tasks.spawn(probe::run(shared, target.clone(), standing, finds));
        self.probed.insert(target, Probed { task, since: clock::now() });
    }

    /// A replica turned up; if it is probed already, the connection is one too many.
    fn take(&mut self, find: Find) {
        let is_probed = self.probed.get(&find.target).is_some_and(|p| !p.task.is_finished());
        if !is_probed {
            self.probe(find.target, Some(find.conn));
        }
    }
}

/// Dials an address until a replica answers there.
async fn search(
    shared: Arc<Shared>,
    peer: ClusterId,
    address: SocketAddr,
    finds: mpsc::Sender<Find>,
) {
    let (min, max) = SEARCH_PAUSE;
    let mut backoff = Backoff::try_new(min, max).expect("the range is in order");
    loop {
        if let Ok(mut conn) = shared.dial(&peer, address).await
            && let Some(target) = shared.ready(&mut conn).await
        {
            // A closed channel means that the search is over anyway.
            let _over = finds.send(Find { target, conn }).await;
            return;
        }
        let state = shared.routes.load().peers.get(&peer).map(|status| status.health.state);
        let pause = match state {
            Some(PeerState::Down) => DOWN_PAUSE,
            _ => backoff.pause(),
        };
        tokio::time::sleep(pause).await;
    }
}
