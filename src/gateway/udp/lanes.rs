//! The datagram connections to every peer: two per replica, made when a session needs them, closed
//! when none has for a while.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::conn::{Conn, Error, Flow};
use super::lane::Lane;
use super::queue::Queue;
use crate::clock;
use crate::gateway::Shared;
use crate::gateway::choice::Choice;
use crate::gateway::race::GIVE_UP;
use crate::health::Target;
use crate::model::{ClusterId, ReplicaId};
use crate::tls::Kind;
use crate::wire::datagram::{Opener, OpenerEvent};
use crate::wire::frame::{Control, Ready};

/// Connections to one replica: a loss on one of them holds up half of the sessions only.
pub(super) const PER_REPLICA: usize = 2;
/// How long a fresh connection may take to say `READY`.
const READY_PATIENCE: Duration = Duration::from_secs(3);
/// Wishes for more connections that are not looked at yet.
const WISHES: usize = 256;

/// A connection that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Missing {
    /// To whom.
    pub(super) peer: ClusterId,
    /// Where to dial.
    pub(super) address: SocketAddr,
    /// Which replica is meant, where one is known.
    pub(super) replica: Option<ReplicaId>,
}

#[derive(Debug, Default)]
struct PeerLanes {
    lanes: Vec<Arc<Lane>>,
    /// When a dial of an address last came to nothing, of the last moments.
    failed: HashMap<SocketAddr, Instant>,
}

/// The datagram connections to every peer.
#[derive(Debug)]
pub(in crate::gateway) struct Lanes {
    peers: Mutex<HashMap<ClusterId, PeerLanes>>,
    /// Rises with every dial that ended and every connection that did.
    changed: watch::Sender<u64>,
    wishes: mpsc::Sender<Missing>,
    wished: Mutex<Option<mpsc::Receiver<Missing>>>,
}

impl Default for Lanes {
    fn default() -> Self {
        let (wishes, wished) = mpsc::channel(WISHES);
        Self {
            peers: Mutex::default(),
            changed: watch::channel(0).0,
            wishes,
            wished: Mutex::new(Some(wished)),
        }
    }
}

impl Lanes {
    fn lock(&self) -> MutexGuard<'_, HashMap<ClusterId, PeerLanes>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wishes; for the one task that fulfils them.
    pub(super) fn wished(&self) -> Option<mpsc::Receiver<Missing>> {
        self.wished.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How many connections there are that would do.
    pub(super) fn count(&self, missing: &Missing) -> usize {
        let meant = |lane: &&Arc<Lane>| {
            lane.is_open()
                && lane.target.address == missing.address
                && missing.replica.is_none_or(|replica| replica == lane.target.replica)
        };
        let peers = self.lock();
        peers.get(&missing.peer).map_or(0, |peer| peer.lanes.iter().filter(meant).count())
    }

    /// Takes in a new connection, unless its replica has all it may.
    pub(super) fn add(&self, lane: &Arc<Lane>) -> bool {
        let mut peers = self.lock();
        let peer = peers.entry(lane.target.peer.clone()).or_default();
        let same = |other: &&Arc<Lane>| other.is_open() && other.target == lane.target;
        let room = peer.lanes.iter().filter(same).count() < PER_REPLICA;
        if room {
            peer.lanes.push(Arc::clone(lane));
        }
        drop(peers);
        self.changed.send_modify(|count| *count += 1);
        room
    }

    /// A dial came to nothing. Who waits for another address of that peer waits on.
    pub(super) fn failed(&self, missing: &Missing) {
        let now = clock::now();
        let mut peers = self.lock();
        let failed = &mut peers.entry(missing.peer.clone()).or_default().failed;
        // No session waits for longer.
        failed.retain(|_, at| now.saturating_duration_since(*at) < GIVE_UP);
        failed.insert(missing.address, now);
        drop(peers);
        self.changed.send_modify(|count| *count += 1);
    }

    /// A connection is over.
    pub(super) fn remove(&self, lane: &Lane) {
        if let Some(peer) = self.lock().get_mut(&lane.target.peer) {
            peer.lanes.retain(|other| other.number != lane.number);
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// Forgets peers that are none any more and have no connection.
    pub(super) fn forget(&self, is_peer: impl Fn(&ClusterId) -> bool) {
        self.lock().retain(|peer, lanes| is_peer(peer) || !lanes.lanes.is_empty());
    }

    /// The connection with the fewest sessions to the first of these targets that has one; none
    /// given, to any.
    fn pick(&self, peer: &ClusterId, targets: &[Target]) -> Option<Arc<Lane>> {
        let peers = self.lock();
        let open = || peers.get(peer).into_iter().flat_map(|p| &p.lanes).filter(|l| l.is_open());
        let least = |lane: &&Arc<Lane>| lane.sessions();
        if targets.is_empty() {
            return open().min_by_key(least).cloned();
        }
        let to = |target: &Target| open().filter(|l| l.target == *target).min_by_key(least);
        targets.iter().find_map(to).cloned()
    }

    fn failed_since(&self, peer: &ClusterId, address: SocketAddr, begun: Instant) -> bool {
        let failed = self.lock().get(peer).and_then(|peer| peer.failed.get(&address).copied());
        failed.is_some_and(|failed| failed >= begun)
    }

    /// Whether a session would find a connection at once.
    pub(super) fn is_ready(&self, peer: &ClusterId) -> bool {
        self.pick(peer, &[]).is_some()
    }
}

impl Shared {
    /// A connection to the replica that is chosen for a new session, as soon as there is one;
    /// `None`: it cannot be had now.
    pub(super) async fn lane(&self, peer: &ClusterId) -> Option<Arc<Lane>> {
        let lanes = &self.udp.lanes;
        let (begun, mut changed) = (clock::now(), lanes.changed.subscribe());
        loop {
            let choice = self.choose(peer);
            // One that cannot be had now holds up nobody who may go elsewhere.
            let place =
                places(&choice).find(|(address, _)| !lanes.failed_since(peer, *address, begun));
            if let Some((address, replica)) = place {
                let missing = Missing { peer: peer.clone(), address, replica };
                if lanes.count(&missing) < PER_REPLICA {
                    // Full: whoever reads it is at it.
                    let _full = lanes.wishes.try_send(missing);
                }
            }
            if let Some(lane) = lanes.pick(peer, &choice.targets) {
                return Some(lane);
            }
            place?;
            changed.changed().await.ok()?;
        }
    }

    /// Dials a datagram connection and waits for its `READY`. Health is told nothing: it probes
    /// data connections, and a peer of an earlier version has none of these.
    pub(super) async fn dial_lane(&self, missing: &Missing) -> Option<(Lane, Conn)> {
        let Missing { peer, address, .. } = missing;
        let dialed = match self.dialer.dial(peer, *address, Kind::Udp).await {
            Ok(dialed) => dialed,
            Err(error) => {
                tracing::debug!(%peer, %address, %error, "no datagram connection");
                return None;
            }
        };
        let mut conn = self.datagrams(dialed.stream, dialed.peer);
        let mut opener = Opener::default();
        let told = tokio::time::timeout(READY_PATIENCE, ready(&mut conn, &mut opener));
        match told.await {
            Ok(Ok(Ready { replica })) => {
                let target = Target { peer: peer.clone(), address: *address, replica };
                Some((Lane::new(target, opener), conn))
            }
            Ok(Err(error)) => {
                tracing::debug!(%peer, %address, %error, "a datagram connection was refused");
                None
            }
            Err(_) => {
                tracing::debug!(%peer, %address, "a datagram connection never became ready");
                None
            }
        }
    }
}

/// Where a connection may be had, best first, and of which replica.
fn places(choice: &Choice) -> impl Iterator<Item = (SocketAddr, Option<ReplicaId>)> {
    let known = choice.targets.iter().map(|target| (target.address, Some(target.replica)));
    let any = if choice.targets.is_empty() { &choice.addresses[..] } else { &[] };
    known.chain(any.iter().map(|address| (*address, None)))
}

async fn ready(conn: &mut Conn, opener: &mut Opener) -> Result<Ready, Error> {
    let (queue, mut said) = (Queue::default(), None);
    poll_fn(|cx| {
        let polled = conn.poll(cx, &queue, |frame| {
            match opener.on(frame)? {
                OpenerEvent::Ready(ready) => said = Some(ready),
                OpenerEvent::Ping(number) => queue.control(&Control::Pong(number)),
                // A drain is said again by data connections, whose probes hear it.
                _ => {}
            }
            Ok(Flow::On)
        });
        match (polled, said) {
            (Poll::Ready(error), _) => Poll::Ready(Err(error)),
            (Poll::Pending, Some(ready)) => Poll::Ready(Ok(ready)),
            (Poll::Pending, None) => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(address: [u8; 4]) -> Missing {
        let peer = ClusterId::parse("oregon").unwrap();
        Missing { peer, address: (address, 8443).into(), replica: None }
    }

    #[test]
    fn an_address_that_cannot_be_had_fails_nobody_who_waits_for_another() {
        let (lanes, begun) = (Lanes::default(), clock::now());
        let (dead, alive) = (missing([192, 0, 2, 1]), missing([192, 0, 2, 2]));
        lanes.failed(&dead);
        assert!(lanes.failed_since(&dead.peer, dead.address, begun));
        assert!(!lanes.failed_since(&alive.peer, alive.address, begun));

        let replica = ReplicaId::from_u64;
        let target = |of: &Missing, id| Target {
            peer: of.peer.clone(),
            address: of.address,
            replica: replica(id),
        };
        let targets = vec![target(&dead, 1), target(&alive, 2)];
        let choice = Choice { targets, addresses: vec![dead.address, alive.address] };
        let left =
            places(&choice).find(|(address, _)| !lanes.failed_since(&dead.peer, *address, begun));
        assert_eq!(left, Some((alive.address, Some(replica(2)))));
        let nobody = Choice { targets: Vec::new(), ..choice };
        assert_eq!(places(&nobody).count(), 2, "nobody is known: any address will do");
    }
}
