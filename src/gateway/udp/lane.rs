//! One datagram connection to a peer's replica, as the importing side holds it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::queue::{Full, Queue};
use crate::health::Target;
use crate::wire::datagram::Opener;
use crate::wire::frame::{Control, Open, Reset, ResetReason, Verdict};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A datagram connection to a peer's replica.
#[derive(Debug)]
pub(super) struct Lane {
    /// Its number in this process.
    pub(super) number: u64,
    /// Where it leads.
    pub(super) target: Target,
    /// What is to be written.
    pub(super) queue: Queue,
    talk: Mutex<Talk>,
    sessions: AtomicUsize,
    retired: AtomicBool,
    over: AtomicBool,
}

/// What was said on it.
#[derive(Debug)]
pub(super) struct Talk {
    /// The rules.
    pub(super) opener: Opener,
    /// Sessions that wait for their verdict.
    pub(super) asked: HashMap<u32, oneshot::Sender<Verdict>>,
    /// Sessions that were accepted and whose acceptance nobody has taken up yet.
    accepted: HashSet<u32>,
}

impl Talk {
    /// The verdict on a session came.
    pub(super) fn decide(&mut self, id: u32, verdict: Verdict) {
        let Some(asked) = self.asked.remove(&id) else { return };
        if verdict == Verdict::Accepted {
            self.accepted.insert(id);
        }
        // Whoever gave up has told the peer.
        if asked.send(verdict).is_err() {
            self.accepted.remove(&id);
        }
    }

    /// A session has ended: who waits for its verdict, or was told and comes to take it up, learns
    /// it.
    pub(super) fn ended(&mut self, id: u32) {
        self.asked.remove(&id);
        self.accepted.remove(&id);
    }
}

impl Lane {
    /// A connection that has said `READY`.
    pub(super) fn new(target: Target, opener: Opener) -> Self {
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            target,
            queue: Queue::default(),
            talk: Mutex::new(Talk { opener, asked: HashMap::new(), accepted: HashSet::new() }),
            sessions: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    /// What was said on it.
    pub(super) fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sessions asked for or carried.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// It takes no new sessions: a leaf that made it has ended.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether it takes new sessions.
    pub(super) fn is_open(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && !self.is_over()
    }

    /// It carries nothing any more; whoever asked learns it.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.talk().asked.clear();
    }

    /// Whether it carries nothing any more.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Asks for a session; `None`: it has no room.
    pub(super) fn open(
        self: &Arc<Self>,
        ask: impl FnOnce(u64) -> Open,
    ) -> Option<(Berth, oneshot::Receiver<Verdict>)> {
        if !self.is_open() || !self.queue.has_room() {
            return None;
        }
        let (tell, told) = oneshot::channel();
        let mut talk = self.talk();
        let Some(id) = talk.opener.open() else {
            self.retire();
            return None;
        };
        talk.asked.insert(id, tell);
        // In the order of the numbers.
        self.queue.control(&Control::Open(ask(id.into())));
        drop(talk);
        if self.is_over() {
            return None;
        }
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Some((Berth { lane: Arc::clone(self), id }, told))
    }
}

/// A session's place on a lane; given up when dropped, and the other side is told.
#[derive(Debug)]
pub(super) struct Berth {
    lane: Arc<Lane>,
    id: u32,
}

impl Berth {
    /// Takes up an acceptance; whether the session still lives. From here on
    /// [`Imports`](super::imports::Imports) must know its place to hear of its end.
    pub(super) fn take_up(&self) -> bool {
        // Whoever ended the lane before this looked for its sessions too early.
        self.lane.talk().accepted.remove(&self.id) && !self.lane.is_over()
    }

    /// The number of the lane, and the session's on it.
    pub(super) fn place(&self) -> (u64, u32) {
        (self.lane.number, self.id)
    }

    /// Sends one datagram.
    pub(super) fn send(&self, datagram: &[u8]) -> Result<(), Full> {
        self.lane.queue.datagram(self.id, datagram)
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.lane.sessions.fetch_sub(1, Ordering::Relaxed);
        if self.lane.is_over() {
            return;
        }
        self.lane.talk().ended(self.id);
        let (stream, reason) = (self.id.into(), ResetReason::Aborted);
        self.lane.queue.control(&Control::Reset(Reset { stream, reason }));
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::model::{ClusterId, ReplicaId};
    use crate::wire::datagram::Frame;
    use crate::wire::frame::{Asked, Client, Ready};

    fn lane() -> Arc<Lane> {
        let replica = ReplicaId::from_u64(7);
        let mut opener = Opener::default();
        opener.on(Frame::Control(Control::Ready(Ready { replica }))).unwrap();
        let address = SocketAddr::from(([192, 0, 2, 1], 8443));
        let peer = ClusterId::parse("oregon").unwrap();
        Arc::new(Lane::new(Target { peer, address, replica }, opener))
    }

    fn ask(stream: u64) -> Open {
        Open {
            stream,
            asked: Asked::Echo,
            hops: 0,
            client: Client::default(),
            trace: [0; 16],
            deadline_ms: 0,
            early: false,
        }
    }

    #[test]
    fn a_session_that_ends_before_its_acceptance_is_taken_up_is_not_carried() {
        let lane = lane();
        let (lives, mut told) = lane.open(ask).unwrap();
        lane.talk().decide(lives.place().1, Verdict::Accepted);
        assert_eq!(told.try_recv(), Ok(Verdict::Accepted));
        assert!(lives.take_up());

        // REPLY and RESET come in one read: nobody has run in between.
        let (ended, mut told) = lane.open(ask).unwrap();
        let id = ended.place().1;
        lane.talk().decide(id, Verdict::Accepted);
        lane.talk().ended(id);
        assert_eq!(told.try_recv(), Ok(Verdict::Accepted));
        assert!(!ended.take_up());

        let (given_up, told) = lane.open(ask).unwrap();
        drop(told);
        lane.talk().decide(given_up.place().1, Verdict::Accepted);
        let (refused, mut told) = lane.open(ask).unwrap();
        lane.talk().decide(refused.place().1, Verdict::NotExported);
        assert_eq!(told.try_recv(), Ok(Verdict::NotExported));
        drop((lives, given_up, refused));
        assert!(lane.talk().accepted.is_empty() && lane.talk().asked.is_empty());
    }
}
