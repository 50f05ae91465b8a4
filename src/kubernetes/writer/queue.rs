//! What is to be written next: ranks, one place per object, rests and the budget.
//!
//! An entry says *that* an object needs a look, never what is written: that is computed when its
//! turn comes, so however often it changed meanwhile it costs one write. One request per object
//! is under way at a time. Everything takes `now`; nothing here waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::target::{Rank, Target};

/// Most requests under way at once.
pub const MAX_IN_FLIGHT: usize = 16;
/// How many of them may be of the lesser ranks: one whose answers hang (an admission webhook that
/// is away) never holds up removals and switches.
pub(super) const MAX_LESSER: usize = MAX_IN_FLIGHT - 4;
/// How long an object rests after the server refused it.
pub const REST: Duration = Duration::from_secs(60);

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// This one's turn; it must end in [`Queue::done`].
    Turn(Target),
    /// Nothing before then.
    At(Instant),
    /// Nothing until something is pushed or done.
    Nothing,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bucket: Bucket,
    entries: BTreeMap<Target, Entry>,
    /// Those whose turn may come, in order.
    ready: BTreeMap<(Rank, u64), Target>,
    /// Those that must wait for a moment.
    later: BTreeSet<(Instant, Target)>,
    places: u64,
    in_flight: usize,
    /// Those among them that are neither removals nor switches.
    lesser: usize,
    paused: Option<Instant>,
}

#[derive(Debug, Default)]
struct Entry {
    waiting: Option<Waiting>,
    under_way: Option<Rank>,
    rests: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    rank: Rank,
    place: u64,
    from: Instant,
}

impl Queue {
    /// `target` needs a look not before `from`. If it waits already it keeps its place among its
    /// rank; rank and moment are the new ones.
    pub(super) fn push(&mut self, target: Target, rank: Rank, from: Instant) {
        self.unlist(&target);
        let entry = self.entries.entry(target.clone()).or_default();
        let place = match entry.waiting {
            Some(before) if before.rank == rank => before.place,
            _ => {
                self.places += 1;
                self.places
            }
        };
        entry.waiting = Some(Waiting { rank, place, from });
        self.list(target);
    }

    /// `target` needs no look any more.
    pub(super) fn forget(&mut self, target: &Target) {
        self.unlist(target);
        if let Some(entry) = self.entries.get_mut(target) {
            entry.waiting = None;
        }
        self.tidy(target);
    }

    /// Forgets everything that waits; what is under way must still be [`Queue::done`].
    pub(super) fn clear(&mut self) {
        self.ready.clear();
        self.later.clear();
        self.entries.retain(|_, entry| {
            entry.waiting = None;
            entry.rests = None;
            entry.under_way.is_some()
        });
    }

    /// Whose turn it is at `now`.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        if self.in_flight >= MAX_IN_FLIGHT {
            return Next::Nothing;
        }
        self.promote(now);
        let urgent = |rank: Rank| rank <= Rank::Switch || self.lesser < MAX_LESSER;
        if !self.ready.first_key_value().is_some_and(|((rank, _), _)| urgent(*rank)) {
            return self.later.first().map_or(Next::Nothing, |(at, _)| Next::At(*at));
        }
        if let Some(until) = self.paused.filter(|until| now < *until) {
            return Next::At(until);
        }
        let wait = self.bucket.wait(now);
        if !wait.is_zero() {
            return Next::At(now + wait);
        }
        let Some(((rank, _), target)) = self.ready.pop_first() else { return Next::Nothing };
        if let Some(entry) = self.entries.get_mut(&target) {
            entry.waiting = None;
            entry.under_way = Some(rank);
        }
        self.in_flight += 1;
        self.lesser += usize::from(rank > Rank::Switch);
        Next::Turn(target)
    }

    /// A request is sent: it costs from the budget.
    pub(super) fn spend(&mut self, now: Instant) {
        self.bucket.spend(now);
    }

    /// The turn of `target` is over.
    pub(super) fn done(&mut self, target: &Target) {
        let Some(rank) = self.entries.get_mut(target).and_then(|entry| entry.under_way.take())
        else {
            return;
        };
        self.in_flight = self.in_flight.saturating_sub(1);
        self.lesser = self.lesser.saturating_sub(usize::from(rank > Rank::Switch));
        self.list(target.clone());
        self.tidy(target);
    }

    /// `target` rests until then, whoever asks for it; the others go on.
    pub(super) fn rest(&mut self, target: &Target, until: Instant) {
        self.unlist(target);
        self.entries.entry(target.clone()).or_default().rests = Some(until);
        self.list(target.clone());
    }

    /// `target` rests no longer.
    pub(super) fn wake(&mut self, target: &Target) {
        self.unlist(target);
        if let Some(entry) = self.entries.get_mut(target) {
            entry.rests = None;
            self.list(target.clone());
            self.tidy(target);
        }
    }

    /// Nobody has a turn before `until`.
    pub(super) fn pause(&mut self, until: Instant) {
        self.paused = Some(until);
    }

    /// How many objects wait for a look.
    pub(super) fn waiting(&self) -> usize {
        self.ready.len() + self.later.len()
    }

    fn promote(&mut self, now: Instant) {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, target)) = self.later.pop_first() else { return };
            let Some(entry) = self.entries.get_mut(&target) else { continue };
            if entry.rests.is_some_and(|until| until <= now) {
                entry.rests = None;
            }
            if let Some(Waiting { rank, place, .. }) = entry.waiting {
                self.ready.insert((rank, place), target);
            } else {
                self.tidy(&target);
            }
        }
    }

    /// Puts an entry where it waits: nowhere while it is under way. One that only rests is kept
    /// in `later` too, so that it is forgotten in time.
    fn list(&mut self, target: Target) {
        let Some(entry) = self.entries.get(&target).filter(|entry| entry.under_way.is_none())
        else {
            return;
        };
        let from = entry.waiting.map(|waiting| waiting.from);
        if let Some(at) = from.max(entry.rests) {
            self.later.insert((at, target));
        }
    }

    fn unlist(&mut self, target: &Target) {
        let Some(entry) = self.entries.get(target) else { return };
        let from = entry.waiting.map(|waiting| waiting.from);
        if let Some(at) = from.max(entry.rests) {
            self.later.remove(&(at, target.clone()));
        }
        if let Some(Waiting { rank, place, .. }) = entry.waiting {
            self.ready.remove(&(rank, place));
        }
    }

    fn tidy(&mut self, target: &Target) {
        let idle = |entry: &Entry| {
            entry.waiting.is_none() && entry.under_way.is_none() && entry.rests.is_none()
        };
        if self.entries.get(target).is_some_and(idle) {
            self.entries.remove(target);
        }
    }
}
