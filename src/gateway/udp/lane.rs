//! One datagram connection to a peer's replica, as the importing side holds it.

use std::collections::HashMap;
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
}

impl Lane {
    /// A connection that has said `READY`.
    pub(super) fn new(target: Target, opener: Opener) -> Self {
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            target,
            queue: Queue::default(),
            talk: Mutex::new(Talk { opener, asked: HashMap::new() }),
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
    /// The lane.
    pub(super) fn lane(&self) -> &Lane {
        &self.lane
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
        self.lane.talk().asked.remove(&self.id);
        let (stream, reason) = (self.id.into(), ResetReason::Aborted);
        self.lane.queue.control(&Control::Reset(Reset { stream, reason }));
    }
}
