//! Which candidate is tried when: the race for one stream, without I/O. `now` is an argument.
//!
//! The first usable candidate is begun at once; beside it the next once its patience has passed
//! without `REPLY`, at most [`MOST_AT_ONCE`] together; the first acceptance wins. A Suspect
//! candidate is raced with the next from the start. The first move to another cluster is free;
//! whatever repeats after that asks the destination's allowance. When all have failed, another
//! round follows until [`GIVE_UP`].

use std::time::{Duration, Instant};

use smallvec::SmallVec;

/// Attempts of one stream at the same time.
pub(super) const MOST_AT_ONCE: usize = 3;
/// A stream without any acceptance ends after this.
pub(super) const GIVE_UP: Duration = Duration::from_secs(5);
/// Shortest patience with one candidate.
const LEAST_PATIENCE: Duration = Duration::from_millis(250);
/// Patience in round trips.
const PATIENCE_ROUND_TRIPS: u32 = 3;
/// Pause before the second round; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between rounds.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How soon a destination's used up allowance is asked again.
const ALLOWANCE_PAUSE: Duration = Duration::from_millis(100);

/// What the race must know of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Runner {
    /// Its round trip; 0 for the own cluster.
    pub(super) rtt: Option<Duration>,
    /// Whether it is raced with the next from the start.
    pub(super) suspect: bool,
}

/// How a connection to a candidate is come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A spare is at hand.
    Spare,
    /// It must be dialled, which takes a round trip more.
    Dialled,
    /// A spare is at hand, and what the client said goes with the `OPEN`: nothing runs beside it.
    Alone,
}

/// Whether a candidate may be tried again for this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It will say the same again: not exported.
    Final,
    /// Lost, silent, refused for now.
    Passing,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Begin the candidate of this index, then call [`Race::begun`].
    Begin(usize),
    /// Nothing before that instant, unless an attempt ends.
    Wait(Instant),
    /// Nobody accepted and nothing is left to try.
    Over,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    entry: usize,
    begun: Instant,
    patience: Duration,
}

/// The race for one stream.
#[derive(Debug)]
pub(super) struct Race {
    runners: SmallVec<[Runner; 4]>,
    /// Entries that gave a final refusal.
    finished: SmallVec<[bool; 4]>,
    running: SmallVec<[Running; MOST_AT_ONCE]>,
    deadline: Instant,
    /// The next entry of this round.
    cursor: usize,
    begun: Begun,
    pause: Duration,
    resume: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    Nothing,
    /// One candidate; the first move is still free.
    First(usize),
    /// The free move is spent.
    Moved,
}

/// How long a candidate may leave its `OPEN` unanswered before the next is begun beside it.
pub(super) fn patience(rtt: Option<Duration>, way: Way) -> Duration {
    let rtt = rtt.unwrap_or_default();
    let base = (rtt * PATIENCE_ROUND_TRIPS).max(LEAST_PATIENCE);
    match way {
        Way::Spare => base,
        Way::Dialled => base + rtt,
        Way::Alone => GIVE_UP,
    }
}

impl Race {
    /// A race of these candidates, best first.
    pub(super) fn new(runners: SmallVec<[Runner; 4]>, now: Instant) -> Self {
        Self {
            finished: runners.iter().map(|_| false).collect(),
            runners,
            running: SmallVec::new(),
            deadline: now + GIVE_UP,
            cursor: 0,
            begun: Begun::Nothing,
            pause: FIRST_PAUSE,
            resume: now,
        }
    }

    /// What to do at `now`; `allowed` spends the allowance of an entry's destination.
    pub(super) fn step(&mut self, now: Instant, allowed: impl FnOnce(usize) -> bool) -> Step {
        if now >= self.deadline {
            return Step::Over;
        }
        if self.running.len() >= MOST_AT_ONCE {
            return Step::Wait(self.deadline);
        }
        let Some(entry) = self.next_entry() else {
            return self.end_of_round(now);
        };
        let due = self.due(now);
        if due > now {
            return Step::Wait(due.min(self.deadline));
        }
        let free = match self.begun {
            Begun::Nothing => true,
            Begun::First(first) => first != entry,
            Begun::Moved => false,
        };
        if free || allowed(entry) {
            return Step::Begin(entry);
        }
        Step::Wait((now + ALLOWANCE_PAUSE).min(self.deadline))
    }

    /// The entry was begun, over a connection come by in this way.
    pub(super) fn begun(&mut self, entry: usize, way: Way, now: Instant) {
        self.begun = match self.begun {
            Begun::Nothing => Begun::First(entry),
            Begun::First(first) if first == entry => self.begun,
            Begun::First(_) | Begun::Moved => Begun::Moved,
        };
        self.cursor = entry + 1;
        let patience = patience(self.runners[entry].rtt, way);
        self.running.push(Running { entry, begun: now, patience });
    }

    /// The entry's attempt ended without acceptance; the next is due at once.
    pub(super) fn failed(&mut self, entry: usize, failure: Failure) {
        if let Some(index) = self.running.iter().position(|r| r.entry == entry) {
            self.running.remove(index);
        }
        if failure == Failure::Final {
            self.finished[entry] = true;
        }
    }

    fn next_entry(&self) -> Option<usize> {
        (self.cursor..self.runners.len())
            .find(|&entry| !self.finished[entry] && self.running.iter().all(|r| r.entry != entry))
    }

    /// When the next entry may be begun.
    fn due(&self, now: Instant) -> Instant {
        let Some(last) = self.running.last() else { return self.resume };
        let raced = self.begun == Begun::First(last.entry) && self.runners[last.entry].suspect;
        if raced { now } else { last.begun + last.patience }
    }

    /// Every candidate was tried: wait for those that still run, else begin again.
    fn end_of_round(&mut self, now: Instant) -> Step {
        if !self.running.is_empty() {
            return Step::Wait(self.deadline);
        }
        if self.finished.iter().all(|finished| *finished) {
            return Step::Over;
        }
        self.cursor = 0;
        self.resume = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Step::Wait(self.resume.min(self.deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn race(rtts: &[u64], now: Instant) -> Race {
        let runner = |rtt: &u64| Runner { rtt: Some(ms(*rtt)), suspect: false };
        Race::new(rtts.iter().map(runner).collect(), now)
    }

    fn begin(race: &mut Race, entry: usize, now: Instant) {
        assert_eq!(race.step(now, |_| false), Step::Begin(entry));
        race.begun(entry, Way::Spare, now);
    }

    #[test]
    fn patience_is_three_round_trips_at_least_a_quarter_second_and_one_more_when_dialled() {
        assert_eq!(patience(None, Way::Spare), ms(250));
        assert_eq!(patience(Some(ms(20)), Way::Spare), ms(250));
        assert_eq!(patience(Some(ms(20)), Way::Dialled), ms(270));
        assert_eq!(patience(Some(ms(110)), Way::Spare), ms(330));
        assert_eq!(patience(Some(ms(110)), Way::Dialled), ms(440));
    }

    #[test]
    fn the_next_starts_beside_a_silent_one_and_at_most_three_run() {
        let start = crate::clock::now();
        let mut race = race(&[20, 110, 30, 40], start);
        begin(&mut race, 0, start);
        assert_eq!(race.step(start, |_| true), Step::Wait(start + ms(250)));
        begin(&mut race, 1, start + ms(250));
        let third = start + ms(250 + 330);
        assert_eq!(race.step(start + ms(300), |_| true), Step::Wait(third));
        assert_eq!(race.step(third, |_| true), Step::Begin(2));
        race.begun(2, Way::Spare, third);
        assert_eq!(race.step(start + ms(4_000), |_| true), Step::Wait(start + GIVE_UP));
        race.failed(0, Failure::Passing);
        assert_eq!(race.step(start + ms(4_001), |_| true), Step::Begin(3));
        assert_eq!(race.step(start + GIVE_UP, |_| true), Step::Over);
    }

    #[test]
    fn nothing_runs_beside_one_that_sent_what_the_client_said() {
        let start = crate::clock::now();
        let mut race = race(&[20, 30], start);
        assert_eq!(race.step(start, |_| true), Step::Begin(0));
        race.begun(0, Way::Alone, start);
        assert_eq!(race.step(start, |_| true), Step::Wait(start + GIVE_UP));
        race.failed(0, Failure::Passing);
        assert_eq!(race.step(start + ms(20), |_| true), Step::Begin(1), "it was refused");
    }

    #[test]
    fn a_suspect_first_is_raced_from_the_start() {
        let now = crate::clock::now();
        let runners = [true, true, false].map(|suspect| Runner { rtt: Some(ms(20)), suspect });
        let mut race = Race::new(runners.into_iter().collect(), now);
        begin(&mut race, 0, now);
        begin(&mut race, 1, now);
        assert_eq!(race.step(now, |_| true), Step::Wait(now + ms(250)));
    }

    #[test]
    fn a_failure_moves_on_at_once_and_only_the_first_move_is_free() {
        let now = crate::clock::now();
        let mut race = race(&[20, 30, 40], now);
        begin(&mut race, 0, now);
        race.failed(0, Failure::Passing);
        begin(&mut race, 1, now);
        race.failed(1, Failure::Passing);
        assert_eq!(race.step(now, |_| false), Step::Wait(now + ms(100)), "the allowance is spent");
        assert_eq!(race.step(now, |entry| entry == 2), Step::Begin(2));
    }

    #[test]
    fn a_single_candidate_is_tried_again_until_five_seconds() {
        let start = crate::clock::now();
        let mut race = race(&[20], start);
        begin(&mut race, 0, start);
        race.failed(0, Failure::Passing);
        let mut now = start;
        let mut tries = 1;
        loop {
            match race.step(now, |_| true) {
                Step::Begin(entry) => {
                    race.begun(entry, Way::Dialled, now);
                    race.failed(entry, Failure::Passing);
                    tries += 1;
                }
                Step::Wait(until) => {
                    assert!(until > now, "no spinning");
                    now = until;
                }
                Step::Over => break,
            }
        }
        assert_eq!(now, start + GIVE_UP);
        assert!((8..=16).contains(&tries), "{tries}");
    }

    #[test]
    fn final_refusals_everywhere_end_the_race() {
        let now = crate::clock::now();
        assert_eq!(race(&[], now).step(now, |_| true), Step::Over);
        let mut race = race(&[20, 30], now);
        begin(&mut race, 0, now);
        race.failed(0, Failure::Final);
        begin(&mut race, 1, now);
        race.failed(1, Failure::Final);
        assert_eq!(race.step(now, |_| true), Step::Over);
    }
}
