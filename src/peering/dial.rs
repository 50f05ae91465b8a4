//! When each address of a peer is dialled: pure.
//!
//! An address that failed is dialled again with back-off. One that answered is dialled again only
//! to find more replicas behind it: at once while a live replica has no session (at most
//! [`MAX_TRIES`] times in a row), else every [`LOOK_AGAIN`] where replicas do not know of one
//! another, so that a load balancer or a restarted replica shows itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// Dials in a row in search of a replica that is known to live.
const MAX_TRIES: u32 = 8;
/// Between two of these.
const TRY_PAUSE: Duration = Duration::from_millis(200);
/// Between looks for replicas that nobody told us of.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The shortest pause after a failure.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A session that lasted this long was a success: the next pause is the shortest again.
const CALM: Duration = Duration::from_secs(10);

/// What the sessions held leave to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Any replica: there is no session at all.
    Any,
    /// Every live replica has its session.
    Nothing,
    /// A replica that is said to live has none.
    Replica,
    /// Replicas speak for themselves only: there may be more.
    Unknown,
}

#[derive(Debug)]
struct Slot {
    backoff: Backoff,
    state: State,
    /// When it was last dialled.
    dialled: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Waiting for its time.
    Failed { again: Instant },
    /// On its way.
    Dialling,
    /// It led to a replica.
    Answered,
}

/// The dials to one peer.
#[derive(Debug)]
pub(super) struct Schedule {
    slots: BTreeMap<SocketAddr, Slot>,
    wanted: Wanted,
    tries: u32,
}

fn backoff() -> Backoff {
    Backoff::try_new(MIN_PAUSE, MAX_PAUSE).expect("a constant range that is not empty")
}

impl Schedule {
    pub(super) fn new() -> Self {
        Self { slots: BTreeMap::new(), wanted: Wanted::Any, tries: 0 }
    }

    /// The addresses to dial from now on; new ones are due at once.
    pub(super) fn set_addresses(&mut self, addresses: &[SocketAddr], now: Instant) {
        self.slots.retain(|address, _| addresses.contains(address));
        for address in addresses {
            self.slots.entry(*address).or_insert_with(|| Slot {
                backoff: backoff(),
                state: State::Failed { again: now },
                dialled: None,
            });
        }
    }

    /// What is to be found beyond the sessions held.
    pub(super) fn want(&mut self, wanted: Wanted, now: Instant) {
        if self.wanted == wanted {
            return;
        }
        self.wanted = wanted;
        self.tries = 0;
        if wanted == Wanted::Any {
            for slot in self.slots.values_mut().filter(|slot| slot.state == State::Answered) {
                slot.state = State::Failed { again: now + slot.backoff.pause() };
            }
        }
    }

    /// The dial led to a replica: to a new session, or to one that is held already.
    pub(super) fn answered(&mut self, address: SocketAddr) {
        if let Some(slot) = self.slots.get_mut(&address) {
            slot.state = State::Answered;
        }
    }

    /// The dial failed.
    pub(super) fn failed(&mut self, address: SocketAddr, now: Instant) {
        if let Some(slot) = self.slots.get_mut(&address) {
            slot.state = State::Failed { again: now + slot.backoff.pause() };
        }
    }

    /// A session over this address ended after it had lasted so long.
    pub(super) fn ended(&mut self, address: SocketAddr, lasted: Duration, now: Instant) {
        let Some(slot) = self.slots.get_mut(&address) else { return };
        if lasted >= CALM {
            slot.backoff.reset();
        }
        if slot.state == State::Answered {
            slot.state = State::Failed { again: now + slot.backoff.pause() };
        }
    }

    fn due_at(&self, slot: &Slot) -> Option<Instant> {
        match slot.state {
            State::Dialling => None,
            State::Failed { again } => Some(again),
            State::Answered => {
                let pause = match self.wanted {
                    Wanted::Nothing | Wanted::Any => return None,
                    Wanted::Replica if self.tries < MAX_TRIES => TRY_PAUSE,
                    Wanted::Replica | Wanted::Unknown => LOOK_AGAIN,
                };
                slot.dialled.map(|dialled| dialled + pause)
            }
        }
    }

    /// The addresses to dial now; each is on its way until its outcome is told.
    pub(super) fn due(&mut self, now: Instant) -> Vec<SocketAddr> {
        let mut due = Vec::new();
        let ripe: Vec<SocketAddr> = self
            .slots
            .iter()
            .filter(|(_, slot)| self.due_at(slot).is_some_and(|at| at <= now))
            .map(|(address, _)| *address)
            .collect();
        for address in ripe {
            // A try may have used up what the next one hoped for.
            let ripe_still = self
                .slots
                .get(&address)
                .and_then(|slot| self.due_at(slot))
                .is_some_and(|at| at <= now);
            let Some(slot) = self.slots.get_mut(&address).filter(|_| ripe_still) else { continue };
            if slot.state == State::Answered && self.wanted == Wanted::Replica {
                // After a long pause the search begins anew.
                self.tries = if self.tries < MAX_TRIES { self.tries + 1 } else { 1 };
            }
            slot.state = State::Dialling;
            slot.dialled = Some(now);
            due.push(address);
        }
        due
    }

    /// When the next dial is due.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.slots.values().filter_map(|slot| self.due_at(slot)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn schedule(ports: &[u16], now: Instant) -> Schedule {
        let mut schedule = Schedule::new();
        let addresses: Vec<_> = ports.iter().copied().map(address).collect();
        schedule.set_addresses(&addresses, now);
        schedule
    }

    #[test]
    fn every_address_is_dialled_at_once_and_again_with_back_off() {
        let mut now = crate::clock::now();
        let mut schedule = schedule(&[1, 2], now);
        assert_eq!(schedule.due(now), [address(1), address(2)]);
        assert_eq!(schedule.due(now), [], "both are on their way");
        schedule.answered(address(1));
        for full in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            schedule.failed(address(2), now);
            let wake = schedule.next_wake().unwrap();
            assert!(wake >= now + MS * (full / 2) && wake <= now + MS * full, "{full}");
            assert_eq!(schedule.due(wake - MS), []);
            now = wake;
            assert_eq!(schedule.due(now), [address(2)]);
        }
        schedule.answered(address(2));
        schedule.want(Wanted::Nothing, now);
        assert_eq!(schedule.next_wake(), None, "every live replica has its session");
    }

    #[test]
    fn a_missing_replica_is_sought_eight_times_in_a_row() {
        let start = crate::clock::now();
        let mut now = start;
        let mut schedule = schedule(&[1], now);
        schedule.due(now);
        schedule.answered(address(1));
        schedule.want(Wanted::Replica, now);
        for _ in 0..8 {
            now = schedule.next_wake().unwrap();
            assert_eq!(schedule.due(now), [address(1)]);
            schedule.answered(address(1));
        }
        assert!(now <= start + Duration::from_secs(2));
        let wake = schedule.next_wake().unwrap();
        assert_eq!(wake, now + LOOK_AGAIN, "then it rests");
        assert_eq!(schedule.due(wake), [address(1)]);
        schedule.answered(address(1));
        assert_eq!(schedule.next_wake(), Some(wake + TRY_PAUSE), "and begins anew");
        schedule.want(Wanted::Nothing, now);
        assert_eq!(schedule.next_wake(), None);
    }

    #[test]
    fn where_replicas_know_only_themselves_each_address_is_looked_at_every_30_s() {
        let now = crate::clock::now();
        let mut schedule = schedule(&[1, 2], now);
        schedule.due(now);
        schedule.answered(address(1));
        schedule.answered(address(2));
        schedule.want(Wanted::Unknown, now);
        assert_eq!(schedule.next_wake(), Some(now + LOOK_AGAIN));
        assert_eq!(schedule.due(now + LOOK_AGAIN), [address(1), address(2)]);
    }

    #[test]
    fn an_ended_session_is_dialled_again_and_calm_forgets_old_failures() {
        let now = crate::clock::now();
        let mut schedule = schedule(&[1], now);
        for _ in 0..9 {
            schedule.failed(address(1), now);
        }
        schedule.answered(address(1));
        schedule.ended(address(1), CALM / 2, now);
        assert!(schedule.next_wake().unwrap() > now + Duration::from_secs(2), "it flaps");
        schedule.answered(address(1));
        schedule.ended(address(1), CALM, now);
        assert!(schedule.next_wake().unwrap() <= now + MIN_PAUSE);
    }

    #[test]
    fn when_the_last_session_is_lost_every_address_is_dialled() {
        let now = crate::clock::now();
        let mut schedule = schedule(&[1, 2], now);
        schedule.due(now);
        schedule.answered(address(1));
        schedule.answered(address(2));
        schedule.want(Wanted::Nothing, now);
        assert_eq!(schedule.due(now + LOOK_AGAIN), []);
        schedule.ended(address(1), CALM, now);
        schedule.want(Wanted::Any, now);
        assert_eq!(schedule.due(now + MIN_PAUSE), [address(1), address(2)]);
    }

    #[test]
    fn addresses_come_and_go() {
        let now = crate::clock::now();
        let mut schedule = schedule(&[1, 2], now);
        schedule.due(now);
        schedule.set_addresses(&[address(2), address(3)], now);
        assert_eq!(schedule.due(now), [address(3)], "2 is still on its way");
        schedule.failed(address(1), now);
        assert_eq!(schedule.next_wake(), None, "1 is forgotten");
    }
}
